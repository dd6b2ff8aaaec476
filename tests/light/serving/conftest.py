"""One server for all that only ask, and what `tinyv ask` answers."""

import json
import os
import subprocess
import sys

import pytest

from tests.light.serving.served import EXAMPLES, QUESTIONS, ROOT, serve

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """A server that answers one question at a time, as it comes."""
    with serve(tmp_path_factory.mktemp("served"), "--fetch-images") as server:
        yield server


@pytest.fixture(scope="session")
def client(served):
    with served.client() as client:
        yield client


@pytest.fixture(scope="session")
def said(tmp_path_factory):
    """What `tinyv ask` answers to each of the questions."""
    own = {**os.environ, "TINYV_HOME": str(tmp_path_factory.mktemp("asked"))}
    own |= {"PYTHONPATH": str(ROOT)}
    answers = {}
    for name, question in QUESTIONS:
        words = ["ask", str(EXAMPLES / f"{name}.png"), question, "--json"]
        command = [sys.executable, "-m", "tinyv_cli", *words]
        done = subprocess.run(command, env=own, capture_output=True, check=True, cwd=ROOT)
        answers[name, question] = json.loads(done.stdout)
    return answers
