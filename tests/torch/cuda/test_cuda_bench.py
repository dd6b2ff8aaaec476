"""The benchmark of a GPU, as far as it runs without one."""

import json

import pytest
import torch

from tests.bench.cuda import main


def test_without_a_gpu_it_says_so_and_measures_nothing(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert "no GPU" in err


def test_a_tiny_run_on_the_cpu_fills_the_document(capsys):
    arguments = ["--size", "tiny", "--device", "cpu", "--tokens", "4", "--repeats", "2"]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    runs = {run["name"]: run for run in document["runs"]}
    assert list(runs) == [
        "nf4 without graphs",
        "int8 without graphs",
        "nf4, vision int8 without graphs",
        "transformers nf4",
    ]
    assert not any("error" in run for run in runs.values()), runs
    assert all(run["tokens_per_s"]["median"] > 0 for run in runs.values())
    assert runs["nf4 without graphs"]["first_token_ms"]["least"] > 0
    assert runs["int8 without graphs"]["depth"] == document["context"] - 5
    assert document["goals"]["nf4_over_transformers"] == {"goal": 4.0, "reached": None}


def test_an_unknown_size_is_a_usage_error(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--size", "huge"])
    assert "huge" in capsys.readouterr().err
