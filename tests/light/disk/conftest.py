"""Locks of these tests lie in a home of their own."""

import pytest


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path_factory.mktemp("home")))
