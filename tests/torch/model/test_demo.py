"""The miniature's variant can be made again from its sources, to the bit."""

from dataclasses import replace

from tests.demo import DEMO
from tinyv_cli.app import main
from tinyv_cli.variants import miniature
from tinyv_cli.variants.manifest import read_variant


def test_the_variant_is_made_again_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path))
    monkeypatch.setattr(miniature, "miniature_dir", lambda: DEMO)
    assert main(["quantize", "--bits", "4", "-q"]) == 0
    made = read_variant(tmp_path / "variants" / "miniature-4bit").manifest
    brought = read_variant(DEMO / "variant").manifest
    assert made.files == brought.files  # sizes and SHA-256
    # What was measured depends on the processor's kernels in its last figures.
    assert replace(made, errors=None) == replace(brought, errors=None)
    assert made.errors is not None
    assert brought.errors is not None
    assert abs(made.errors.logits_kl_nats - brought.errors.logits_kl_nats) < 0.01
