"""A byte order mark, which some editors put before a text, is dropped wherever text is read.

Seen in: issue "what other people's reports broke", table B: it was sent to the model, hid the
prompt's tag, or the file was refused.
"""

import io
import json
import sys
from pathlib import Path

import pytest

from tests.light.evaluation.toy_evaluation import make_line
from tests.light.toy_tokenizer import make_tokenizer
from tinyv_cli.answers.constrained import read_schema
from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.batch.settings import read_settings, resolve_settings
from tinyv_cli.chat.saved import read_chat
from tinyv_cli.disk.json_lines import JsonLines
from tinyv_cli.disk.typed_json import read_object
from tinyv_cli.evaluation.questions import read_question_file, read_questions
from tinyv_cli.prompts.request import Words, read_request
from tinyv_cli.variants.manifest import read_variant
from weights.reading.sources import read_json_object, read_text, read_weight_map

MARK = "\ufeff"
QUESTION = "[vqa] what is it?"
CHAT = {"format_version": 1, "picture": None, "model": "m", "template": "human", "settings": {}}
SETTINGS = {
    **dict.fromkeys(("prompt", "model", "variant", "template", "device", "folder"), "x"),
    **dict.fromkeys(("max_tokens", "top_k"), 1),
    **dict.fromkeys(("temp", "top_p", "min_p", "repeat_penalty"), 1.0),
    **dict.fromkeys(("seed", "ctx_size")),
}


def ask(*loose, **words):
    return read_request(
        Words(["cat.png", *loose], **words), lambda: Path("text").read_bytes()
    ).question


def read_schema_word():
    return read_schema(Path("text").read_text("utf-8"))


def read_lines():
    return JsonLines(Path("text"), lambda line: (line["a"], line)).entries


def read_batch_settings():
    resolve_settings(Path("out")).write_bytes(Path("text").read_bytes())
    settings = read_settings(Path("out"))
    return settings and settings.prompt


READERS = {
    "--prompt-file": (QUESTION, lambda: ask(prompt_file=Path("text"))),
    "prompt on stdin": (QUESTION, lambda: ask(prompt="-")),
    "text on stdin": (QUESTION, lambda: ask("why?", takes_stdin=True)),
    "--schema": ('{"type": "null"}', lambda: read_schema("text")),
    "--schema as a word": ('{"type": "null"}', read_schema_word),
    "questions": (
        json.dumps(make_line()),
        lambda: read_questions(read_question_file(Path("text")), Path("text"))[0].text,
    ),
    "conversation": (json.dumps({**CHAT, "turns": []}), lambda: read_chat(Path("text"))),
    "settings of a batch": (json.dumps(SETTINGS), read_batch_settings),
    "lines": ('{"a": 1}\n{"a": 2}\n', read_lines),
    "JSON": ('{"a": "b"}', lambda: read_object(Path("text").read_bytes())),
    "config.json": ('{"a": "b"}', lambda: read_json_object(Path("text"))),
    "index.json": ('{"weight_map": {"a": "b"}}', lambda: read_weight_map(Path("text"))),
    "merges.txt": ("#version: 0.2\na b\n", lambda: read_text(Path("text"))),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_text_is_the_same_with_a_mark_before_it(tmp_path, monkeypatch, reader):
    monkeypatch.chdir(tmp_path)
    text, read = READERS[reader]
    found = []
    for mark in ("", MARK):
        Path("text").write_text(mark + text, "utf-8")
        found.append(read())
    assert found[0] == found[1]
    assert found[0]


def test_a_variant_is_the_same_with_marks_before_its_texts(place):
    folder = place / "home" / "variants" / "bits4"
    before = read_variant(folder).manifest
    manifest = folder / "manifest.json"
    manifest.write_text(MARK + manifest.read_text("utf-8"), "utf-8")
    assert read_variant(folder).manifest == before


def test_a_tokenizer_is_the_same_with_a_mark_before_it(tmp_path):
    ids = make_tokenizer(tmp_path).encode(QUESTION)
    path = tmp_path / "tokenizer.json"
    path.write_text(MARK + path.read_text("utf-8"), "utf-8")
    assert Tokenizer(path).encode(QUESTION) == ids


def test_only_the_mark_at_the_very_beginning_goes(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("text").write_text(f"{MARK}a{MARK}b", "utf-8")
    assert ask(prompt="-") == f"a{MARK}b"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert ask(prompt=f"{MARK}as typed") == f"{MARK}as typed"
