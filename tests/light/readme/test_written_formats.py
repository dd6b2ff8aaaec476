"""The pages about what is written name every key there is, and none that there is not."""

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from tests.demo import DEMO
from tests.light.real_variant import copy_variant
from tinyv_cli.app import main
from tinyv_cli.disk.places import variants_dir
from tinyv_cli.spec import LanguageSpec, ModelSpec, QFormerSpec, VisionSpec
from tinyv_cli.variants.manifest import FileEntry, Manifest, MeasuredErrors

ROOT = Path(__file__).resolve().parents[3]
ANSWER = {"answer", "finish_reason", "tokens", "prompt", "template", "model", "device", "toy"}
ANSWER |= {"usage", "timings", "boxes"}


def read_names(page, heading=""):
    """Everything in backticks on a page, or in one of its parts."""
    text = (ROOT / "tinyv_cli" / page).read_text("utf-8")
    if heading:
        text = text.partition(f"## {heading}")[2].partition("\n## ")[0]
    return set(re.findall(r"`([^`\n]+)`", text))


def test_the_manifests_page_names_its_keys_and_no_others():
    parts = (Manifest, FileEntry, MeasuredErrors, ModelSpec, VisionSpec, QFormerSpec, LanguageSpec)
    keys = {each.name for part in parts for each in fields(part)}
    named = read_names("variants/MANIFEST.md")
    assert keys <= named
    rest = {name for name in named - keys if re.fullmatch(r"[a-z][a-z0-9_]+", name)}
    assert rest == {"human", "inst", "source"}


def test_the_folders_page_names_the_miniatures_files_and_roles():
    named = read_names("variants/FOLDER.md")
    for entry in json.loads((DEMO / "variant" / "manifest.json").read_text("utf-8"))["files"]:
        assert {entry["path"], entry["role"]} <= named


@pytest.fixture
def _place(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    copy_variant(variants_dir() / "mine")
    shutil.copy(DEMO / "examples" / "three-apples.png", "apples.png")


def list_keys(value):
    """The keys of a document, those inside of it too."""
    if isinstance(value, dict):
        return set(value).union(*map(list_keys, value.values()))
    return set().union(*map(list_keys, value)) if isinstance(value, list) else set()


@pytest.mark.usefixtures("_place")
def test_the_page_of_documents_names_their_keys(capsys):
    def run(*words):
        main(list(words))
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    [document] = run("ask", "apples.png", "apples", "--task", "detection", "--json")
    assert set(document) >= ANSWER
    assert document["boxes"]
    assert list_keys(document) <= read_names("answers/JSON.md", "`tinyv ask --json`")
    Path("none.png").write_text("no picture")
    lines = run("batch", "apples.png", "none.png", "[detection] apples", "-o", "-")
    named = read_names("answers/JSON.md")
    assert len(lines) == 2
    assert all(list_keys(line) <= named for line in lines)
    question = {"picture": "apples.png", "task": "what", "question": "what?", "answer": "apples"}
    Path("q.jsonl").write_text(json.dumps(question))
    [figures] = run("eval", "q.jsonl", "--json")
    assert set(question) <= named
    assert {key.removesuffix("_low").removesuffix("_high") for key in list_keys(figures)} <= {
        *named,
        "what",
    }
