"""From a folder of sources to an answer, through the command line, as a user types it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.golden import CASES, needs_golden
from tests.torch.conftest import read_golden_case
from tinyv_cli.app import main

HEAVY = ("torch", "transformers", "onnx", "safetensors")


@pytest.fixture(scope="module")
def sources(tiny_sources: Path) -> Path:
    return tiny_sources


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Path:
    return tiny_model


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "cat.png"
    pixels = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def run_tinyv(*words: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tinyv_cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@needs_golden
@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("penalty", [None, "1.05"])
@pytest.mark.parametrize("case", CASES)
def test_ask_gives_the_golden_ids_and_prompt(case, penalty, turn, golden_variant, capsys):
    golden = read_golden_case(case)
    first, second = golden.turns
    question = first["question"]
    if turn:  # a question may hold the text of earlier turns: templates are only text
        question += f"###Assistant: {first['answer']}###Human: {second['question']}"
    words = ["ask", str(golden.folder / "image.png"), question, "--json", "-n", "24"]
    words += ["-m", str(golden_variant(case, 32).folder), "--template", golden.facts["template"]]
    words += ["--repeat-penalty", penalty] if penalty else []
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    expected = golden.turns[turn]
    key = "greedy_ids" + (f"_repetition_penalty_{penalty}" if penalty else "")
    assert document["tokens"] == expected[key]
    assert document["prompt"] == expected["prompt"]
    assert penalty or document["answer"] == expected["answer"]
    assert document["usage"]["prompt_tokens"] == 32 + sum(map(len, expected["segment_ids"]))


def test_an_answer_goes_to_stdout_with_one_newline_and_nothing_else(model, picture):
    done = run_tinyv("ask", picture, "[vqa] what is this?", "-m", model, "-n", "8")
    assert done.returncode == 0
    assert done.stdout.endswith("\n")
    assert done.stdout.count("\n") <= 1 + done.stdout.strip().count("\n")
    document = run_tinyv("ask", picture, "[vqa] what is this?", "-m", model, "-n", "8", "--json")
    assert json.loads(document.stdout)["answer"] == done.stdout.removesuffix("\n")


def test_after_an_answer_no_heavy_library_was_loaded(model, picture):
    program = (
        "import sys; from tinyv_cli.app import main\n"
        f"code = main(['ask', {str(picture)!r}, 'what?', '-m', {str(model)!r}, '-n', '3'])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], code, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "[] 0"


def test_a_second_start_hashes_no_weights(model, picture, monkeypatch, capsys):
    words = ["ask", str(picture), "what?", "-m", str(model), "-n", "2"]
    assert main(words) == 0
    monkeypatch.setattr("tinyv_cli.variants.hashes.hash_file", pytest.fail)
    assert main(words) == 0


def test_the_same_sources_give_the_same_variant_bit_for_bit(sources, model, tmp_path, capsys):
    again = tmp_path / "again"
    assert main(["quantize", "--sources", str(sources), "-o", str(again), "-q", "-t", "2"]) == 0
    names = [path.name for path in model.iterdir() if path.is_file()]
    assert "manifest.json" in names
    for name in names:
        assert (again / name).read_bytes() == (model / name).read_bytes(), name


def test_a_seed_makes_sampling_repeatable(model, picture, capsys):
    words = ["ask", str(picture), "what?", "-m", str(model), "-n", "12", "--temp", "1.5"]
    answers = []
    for seed in ("1", "1", "2"):
        assert main([*words, "--seed", seed]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != answers[2]


def test_a_dry_run_writes_nothing_and_estimates_what_is_written(sources, model, tmp_path, capsys):
    before = set(tmp_path.iterdir())
    words = ["quantize", "--sources", str(sources), "-o", str(tmp_path / "no"), "--dry-run"]
    assert main(words) == 0
    assert set(tmp_path.iterdir()) == before
    assert "bits/weight" in capsys.readouterr().out
    from quantize.pipeline import QuantizeOptions, plan_variant

    for bits in (4, 8, 32):
        folder = tmp_path / f"{bits}"
        options = QuantizeOptions(sources, folder, bits)
        planned = plan_variant(options).size_bytes
        assert main([*words[:3], "-o", str(folder), "--bits", str(bits), "-q"]) == 0
        weights = [p for p in folder.iterdir() if p.suffix in (".data", ".npy", ".onnx")]
        assert planned == pytest.approx(sum(p.stat().st_size for p in weights), rel=0.15)


def test_several_processes_ask_one_variant_at_once(model, picture, tmp_path):
    environment = {**os.environ, "TINYV_HOME": str(tmp_path)}  # no stamps: all of them hash
    words = [sys.executable, "-m", "tinyv_cli", "ask", str(picture), "what?", "-m", str(model)]
    running = [
        subprocess.Popen([*words, "-n", "6"], stdout=subprocess.PIPE, env=environment)
        for _ in range(4)
    ]
    answers = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0, 0]
    assert len(answers) == 1


def test_the_variants_own_stop_ids_end_an_answer(model, picture, tmp_path, capsys):
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    words = ["ask", str(picture), "what?", "-m", str(copy), "-n", "6", "--json"]
    assert main(words) == 0
    tokens = json.loads(capsys.readouterr().out)["tokens"]
    manifest = json.loads((copy / "manifest.json").read_text("utf-8"))
    manifest["stop_ids"] = [tokens[2]]
    (copy / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["finish_reason"] == "stop"
    assert document["tokens"] == tokens[: tokens.index(tokens[2])]


def test_the_manifest_names_every_source_by_its_hash(sources, model):
    manifest = json.loads((model / "manifest.json").read_text("utf-8"))
    listed = {entry["path"]: entry["sha256"] for entry in manifest["sources"]}
    for path in sources.rglob("*"):
        if path.is_file() and path.suffix in (".pth", ".bin", ".safetensors"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert listed[path.relative_to(sources).as_posix()] == digest
