"""The miniature is a toy: what is told of it on stderr, and in every document and line."""

import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.light.toy_variant import make_open_backend, make_script, write_variant
from tests.light.variants.miniature_sources import make_sources
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.disk import places
from tinyv_cli.errors import ExitCode
from tinyv_cli.variants import miniature

EXAMPLES = Path(__file__).resolve().parents[3] / "weights" / "demo" / "examples"
ANSWERS = "note: the miniature answers, a toy"
SHORT = f"{ANSWERS} for drawings: photographs get made-up answers\n"
DOUBT = "warning: photo.png is no drawing: the answer about it is made up\n"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An installation whose miniature says yes, a drawing, and what passes for a photograph."""
    for name in [name for name in os.environ if name.startswith("TINYV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = tmp_path / "installation" / "demo"
    write_variant(folder / "variant", sources=make_sources())
    monkeypatch.setattr(miniature, "miniature_dir", lambda: folder)
    monkeypatch.setattr(backends, "open_backend", make_open_backend(make_script("yes"), {}))
    shutil.copy(EXAMPLES / "cat.png", "cat.png")
    grey = np.random.default_rng(3).integers(0, 255, (64, 64), np.uint8)
    Image.fromarray(grey).convert("RGB").save("photo.png")


def run_ask(*flags):
    return main(["ask", "cat.png", "what?", *flags])


def test_the_line_is_said_in_full_once_and_then_short(capsys):
    assert run_ask() == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == "yes\n"
    assert err.startswith(f"{ANSWERS} that comes with tinyv and knows drawings of 64 kinds")
    for _ in range(2):
        assert run_ask() == ExitCode.OK
        assert capsys.readouterr() == ("yes\n", SHORT)
    assert run_ask("-q") == ExitCode.OK
    assert capsys.readouterr() == ("yes\n", "")
    assert len(SHORT.strip()) <= 80


def test_a_picture_that_is_no_drawing_is_warned_of_however_quiet(capsys):
    run_ask("-q")
    capsys.readouterr()
    assert main(["ask", "photo.png", "what?", "-q"]) == ExitCode.OK
    assert capsys.readouterr() == ("yes\n", DOUBT)
    assert main(["ask", "cat.png", "photo.png", "what?", "--together"]) == ExitCode.OK
    assert capsys.readouterr() == ("yes\n", SHORT + DOUBT)
    assert main(["ask", "cat.png", "what?", "-q"]) == ExitCode.OK
    assert capsys.readouterr() == ("yes\n", "")


def test_ones_own_variant_is_asked_about_photographs_without_a_word(capsys):
    write_variant(places.variants_dir() / "mine")
    assert main(["ask", "photo.png", "what?", "--json"]) == ExitCode.OK
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["model"], document["toy"], err) == ("mine", False, "")
    assert "drawing" not in document


def test_every_document_and_line_says_that_a_toy_answered(capsys, monkeypatch):
    for name, is_drawn in (("cat.png", True), ("photo.png", False)):
        toy = {"model": "miniature", "toy": True, "drawing": is_drawn}
        main(["ask", name, "what?", "--json", "-q"])
        assert json.loads(capsys.readouterr().out).items() >= toy.items()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"what?\n")))
        main(["chat", name, "--json", "-q"])
        out, err = capsys.readouterr()
        assert json.loads(out).items() >= toy.items()
        assert ("is no drawing" in err) != is_drawn
        main(["batch", name, "what?", "-o", "-", "-q"])
        out, err = capsys.readouterr()
        assert json.loads(out).items() >= toy.items()
        assert err.startswith("warning: 1 of 1 pictures are no drawings: ") != is_drawn


def test_a_line_without_an_answer_says_it_too(capsys):
    Path("none.png").write_text("no picture")
    assert main(["batch", "none.png", "what?", "-o", "-", "-q"]) == ExitCode.BATCH
    line = json.loads(capsys.readouterr().out)
    assert (line["model"], line["toy"], "error" in line) == ("miniature", True, True)
