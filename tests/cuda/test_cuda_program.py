"""The program on a GPU: doctor, a variant made for it, questions, and memory that does not fit."""

import json
from pathlib import Path

import pytest

from tests.demo import DEMO
from tinyv_cli.app import main
from tinyv_cli.errors import ExitCode

CAT = str(DEMO / "examples" / "cat.png")
QUESTION = "[vqa] what is this?"
CATS = ("a cat\n", "cat\n")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TINYV_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def variant(home: Path, capsys: pytest.CaptureFixture) -> str:
    """The miniature with files for a GPU alone."""
    words = ["quantize", "--sources", str(DEMO / "sources"), "--target", "cuda", "-o", "v", "-q"]
    assert main(words) == 0
    capsys.readouterr()
    return "v"


def test_doctor_finds_the_gpu_usable_and_computes_a_product_on_it(home, capsys):
    assert main(["doctor", "--device", "cuda", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["cuda"]
    assert found["is_usable"]
    assert found["product_error"] < 1e-3
    assert found["row_errors"]["nf4"] < 0.01
    assert found["free_bytes"] > 0
    assert len(found["cards"]) >= 1


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "auto"])
def test_a_question_is_answered_on_the_gpu(device, variant, capsys):
    assert main(["ask", CAT, QUESTION, "-m", variant, "--device", device, "--no-cache"]) == 0
    out, err = capsys.readouterr()
    assert out in CATS
    assert ("computes on the GPU" in err) == (device == "auto")


def test_the_gpu_says_where_it_computed_and_what_it_took(variant, capsys):
    assert main(["ask", CAT, QUESTION, "-m", variant, "--device", "cuda", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert f"{document['answer']}\n" in CATS
    assert document["device"] == "cuda"


def test_what_does_not_fit_the_budget_is_refused_before_it_is_loaded(variant, capsys):
    words = ["ask", CAT, QUESTION, "-m", variant, "--device", "cuda", "--memory-budget", "560MB"]
    assert main(words) == ExitCode.DEVICE
    assert "of the GPU's memory" in capsys.readouterr().err


def test_a_budget_for_one_side_at_a_time_gives_the_same_answer(variant, capsys):
    words = ["ask", CAT, QUESTION, "-m", variant, "--device", "cuda", "--no-cache"]
    assert main([*words, "--memory-budget", "580MB"]) == 0
    assert capsys.readouterr().out in CATS
