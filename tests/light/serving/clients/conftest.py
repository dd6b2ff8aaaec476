"""A server with a key, for all clients."""

import os

import pytest

from tests.light.serving.clients.asking import KEY, NAME, QUESTION
from tests.light.serving.served import serve


@pytest.fixture(scope="session")
def keyed(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("keyed"), TINYV_API_KEY=KEY) as server:
        yield server


@pytest.fixture(scope="session")
def expected(said):
    return said[NAME, QUESTION]["answer"]


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch, tmp_path):
    """No proxy, key or folder of whoever runs the tests."""
    for name in list(os.environ):
        if name.upper().endswith("_PROXY") or name.startswith(("OPENAI", "OLLAMA", "LITELLM")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
