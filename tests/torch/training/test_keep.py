"""Sources to bring along: float16, nothing but what is needed, and the log of how they came."""

import json

import pytest
import torch

from tests.torch.quantize.tiny_sources import write_tiny
from tinyv_cli.model.tinygptv import load_model
from weights.reading.checkpoint import open_weights
from weights.reading.sources import resolve_sources
from weights.training.keep import main


def write_log(folder, name: str, n_steps: int) -> None:
    lines = [json.dumps({"step": i, "loss": 3.0, "rate": 0.1}) + "\n" for i in range(n_steps)]
    (folder / f"{name}.log.jsonl").write_text("".join(lines), "utf-8")


def test_kept_sources_are_the_same_network_in_float16(tmp_path, capsys):
    sources, demo = write_tiny(tmp_path / "sources", 4), tmp_path / "demo"
    (sources / "training").mkdir()
    write_log(sources / "training", "seeing", 45)
    write_log(sources / "training", "stage4", 3)
    demo.mkdir()
    main([str(sources), str(demo)])
    assert capsys.readouterr().out == f"{demo / 'sources'}\n"
    lines = [json.loads(line) for line in (demo / "log.jsonl").read_text("utf-8").splitlines()]
    assert [(e["run"], e["step"]) for e in lines] == [
        ("seeing", 0), ("seeing", 20), ("seeing", 40), ("stage4", 0),
    ]  # fmt: skip
    assert (demo / "loss.png").exists()
    checkpoint = torch.load(demo / "sources" / "TinyGPT-V_for_Stage4.pth", weights_only=True)
    dtypes = {each.dtype for each in checkpoint["model"].values()}
    assert torch.float16 in dtypes
    assert not any(dtype.is_floating_point for dtype in dtypes - {torch.float16})
    with (
        open_weights(resolve_sources(sources)) as exact,
        open_weights(resolve_sources(demo / "sources")) as kept,
    ):
        assert kept.spec == exact.spec
        pairs = [(kept.read(name), exact.read(name)) for name in exact.names]
        load_model(kept.spec, kept.read)
    for rounded, whole in pairs:
        torch.testing.assert_close(rounded, whole, rtol=2e-3, atol=2e-3)


def test_sources_that_are_kept_already_stay(tmp_path):
    sources, demo = write_tiny(tmp_path / "sources", 4), tmp_path / "demo"
    (demo / "sources").mkdir(parents=True)
    with pytest.raises(SystemExit):
        main([str(sources), str(demo)])
    assert not list((demo / "sources").iterdir())
