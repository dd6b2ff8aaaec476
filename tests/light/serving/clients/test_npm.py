"""The npm packages openai and ollama, where Node is."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest

from tests.light.serving.clients.asking import (
    AS_THEY_COME,
    BROKEN,
    FORM,
    KEY,
    NAME,
    QUESTION,
    SCHEMA,
)
from tests.light.serving.served import ENCODED, LONG, ROOT, wait_until

pytestmark = AS_THEY_COME


NODE = Path(__file__).with_name("ask.mjs")


def test_the_npm_packages_ask(keyed, expected, tmp_path):
    modules = os.environ.get("TINYV_TEST_NODE_MODULES") or str(ROOT / "node_modules")
    if shutil.which("node") is None or not os.path.isdir(f"{modules}/ollama"):  # noqa: PTH112
        pytest.skip("Node, or the npm packages openai and ollama, are not there")
    (tmp_path / "node_modules").symlink_to(modules)
    script = tmp_path / "ask.mjs"
    shutil.copy(NODE, script)
    words = [keyed.url, KEY, ENCODED[NAME], QUESTION, BROKEN]
    words += [json.dumps(each) for each in (FORM, LONG)]
    dropped = keyed.count("tinyv_dropped_by_client_total")
    done = subprocess.run(
        ["node", str(script), *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["models"], found["tags"]) == (["miniature"], ["miniature:latest"])
    for key in ("whole", "pieces", "helper", "generated", "lines"):
        assert found[key] == expected
    assert found["next"]
    jsonschema.validate(json.loads(found["form"]), SCHEMA)
    assert found["stopped"] == expected.split()[0]
    assert found["broken"][0] == 400
    assert "damaged" in found["broken"][1]
    wait_until(lambda: keyed.count("tinyv_dropped_by_client_total") == dropped + 2)
    assert found["missing"][0] == found["absent"][0] == 404
    assert "not found" in found["absent"][1]
    assert found["locked"] == 401
