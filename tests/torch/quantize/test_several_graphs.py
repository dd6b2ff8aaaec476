"""A part that is cut into several graphs computes what one graph does, to the last bit."""

import weakref
from pathlib import Path

import numpy as np
import pytest

from quantize import plan as plan_module
from quantize.measure import prefill as prefill_module
from quantize.measure.compare import make_probe_ids
from quantize.measure.prefill import prefill
from quantize.pipeline import QuantizeOptions, make_variant
from quantize.plan import divide
from tests.golden import CASES, GOLDEN, needs_golden
from tests.torch.conftest import open_variant, read_golden_case
from tinyv_cli.answers.generate import ImageTokens
from tinyv_cli.answers.tokenizer import open_tokenizer
from tinyv_cli.backends.backend import BackendOptions
from tinyv_cli.backends.cpu.onnx_sessions import open_graph
from tinyv_cli.backends.opening import open_backend
from tinyv_cli.errors import WeightsError
from tinyv_cli.progress import show_nothing
from tinyv_cli.variants.manifest import Variant


@pytest.fixture(scope="module")
def cut_variant(tmp_path_factory: pytest.TempPathFactory):
    """Returns a golden case at some bits, with as many graphs as it has layers."""

    def make(case: str, bits: int) -> Variant:
        folder = tmp_path_factory.mktemp("cut") / f"{case}-{bits}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan_module, "_LEAST_GRAPH_BYTES", 1)
            options = QuantizeOptions(GOLDEN / case, folder, bits, threads=2, quick=True)
            return make_variant(options, show_nothing).variant

    return make


@pytest.mark.parametrize("n_graphs", range(1, 8))
def test_every_layer_goes_into_one_graph_and_none_is_empty(n_graphs):
    for costs in ([5] * 7, [90, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 90]):
        shares = divide(costs, n_graphs)
        assert len(shares) == n_graphs
        assert [layer for share in shares for layer in share] == list(range(7))
        assert all(shares)


def test_graphs_cost_about_the_same_with_what_the_last_layer_brings():
    costs = [42] * 31 + [42 + 131]  # megabytes of Phi-2's layers at 4 bits, and of its head
    shares = [sum(costs[layer] for layer in share) for share in divide(costs, 4)]
    assert max(shares) <= sum(costs) / 4 + 42


@needs_golden
@pytest.mark.parametrize("bits", [32, 4])
def test_several_graphs_compute_the_same_bits_as_one(bits, cut_variant, golden_variant):
    case = CASES[0]
    cut, whole = cut_variant(case, bits), golden_variant(case, bits)
    assert [path.name for path in cut.graphs("decoder")] == [
        "decoder.onnx",
        "decoder-2.onnx",
        "decoder-3.onnx",
    ]
    assert len(cut.graphs("vision")) == 3
    assert len(whole.graphs("vision")) == len(whole.graphs("decoder")) == 1
    golden = read_golden_case(case)
    before, after = golden.turns[0]["segment_ids"]
    results = []
    for variant in (cut, whole):
        backend = open_variant(variant).backend
        images = backend.encoder.encode(np.repeat(golden.tensors["pixel_values"], 2, axis=0))
        prompt = [tuple(before), ImageTokens(images[1], "k"), tuple(after)]
        logits = [backend.decoder.extend(prompt)]
        logits += [backend.decoder.extend([(token,)]) for token in after]
        results.append((images, np.stack(logits)))
    assert np.array_equal(results[0][0], results[1][0])
    assert np.array_equal(results[0][1], results[1][1])
    assert cut.manifest.errors == whole.manifest.errors


@needs_golden
def test_one_graph_at_a_time_is_measured(cut_variant, monkeypatch):
    variant = cut_variant(CASES[0], 4)
    opened: list[weakref.ref[object]] = []

    def open_after_the_last(*args: object, **options: object) -> object:
        assert not any(each() for each in opened)
        session = open_graph(*args, **options)
        opened.append(weakref.ref(session))
        return session

    monkeypatch.setattr(prefill_module, "open_graph", open_after_the_last)
    probes = make_probe_ids(open_tokenizer(variant), variant.manifest.template)
    spec = variant.manifest.spec
    images = np.ones((3, spec.qformer.n_queries, spec.language.width), np.float32)
    logits = list(prefill(variant, 1)(probes, images))
    assert [len(each) for each in logits] == [len(each.after) + 1 for each in probes]
    assert len(opened) == len(variant.graphs("decoder")) == 3


@needs_golden
@pytest.mark.parametrize("threads", [1, 2])
def test_a_damaged_graph_among_several_is_named(threads, cut_variant):
    variant = cut_variant(CASES[0], 4)
    broken: Path = variant.graphs("decoder")[1]
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(WeightsError, match=r"decoder-2\.onnx"):
        open_backend(variant, BackendOptions(threads=threads))
