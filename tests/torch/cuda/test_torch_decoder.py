"""When steps are recorded and replayed, with graphs that run again what they saw recorded."""

import gc
import weakref
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from tests.torch.cuda.cuda_files import write_variant
from tests.torch.cuda.memory_trace import MetaGpu
from tests.torch.one_slot import OneSlot
from tests.torch.weights.random_weights import make_read
from tinyv_cli.backends.backend import BackendOptions
from tinyv_cli.backends.cuda import torch_cuda
from tinyv_cli.backends.cuda.torch_decoder import StepDecoder
from tinyv_cli.backends.cuda.torch_device import TorchDevice
from tinyv_cli.errors import DeviceError
from tinyv_cli.model.tinygptv import TinyGptV, load_model
from tinyv_cli.spec import make_tiny_spec

SPEC = make_tiny_spec(3)


@pytest.fixture(scope="module")
def model() -> TinyGptV:
    return load_model(SPEC, make_read(SPEC))


class ReplayingGraph:
    """Stands for a CUDA graph: replays the last call of `_run` that was made while recording."""

    made: list["ReplayingGraph"]

    def __init__(self) -> None:
        self.run = lambda: pytest.fail("nothing was recorded")
        self.n_replays = 0
        self.made.append(self)

    def replay(self) -> None:
        self.n_replays += 1
        self.run()


class NoStream:
    """Nothing runs beside anything else here."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def wait_stream(self, other: str) -> None:
        assert other == "default stream"
        self.told.append("wait")

    def synchronize(self) -> None:
        self.told.append("synchronise")


class ToyGpu(TorchDevice):
    """A device with a stream."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.told: list[str] = []

    def make_stream(self) -> NoStream:
        return NoStream(self.told)


@pytest.fixture
def gpu(monkeypatch):
    """torch.cuda as far as recording uses it; tells spans of runs, and of what is called in C."""
    told = {"runs": [], "pools": [], "streams": [], "recording": None, "calls": []}
    ReplayingGraph.made = []
    run = StepDecoder._run

    def tell_run(decoder: StepDecoder, span: int) -> None:
        told["runs"].append(span)
        if told["recording"] is None:
            run(decoder, span)
        else:  # a GPU records without computing
            told["recording"].run = lambda: run(decoder, span)

    @contextmanager
    def record(graph, pool, stream, capture_error_mode):
        assert device.lock.locked(), "another thread could use the GPU meanwhile"
        assert capture_error_mode == "thread_local"
        assert isinstance(stream, NoStream)
        told["pools"].append(pool)
        told["streams"].append(stream)
        told["recording"] = graph
        yield
        told["recording"] = None

    @contextmanager
    def do_nothing(*_arguments):
        yield

    def tell_call(name: str) -> Callable[..., None]:
        return lambda *arguments: told["calls"].append((name, *arguments))

    monkeypatch.setattr(StepDecoder, "_run", tell_run)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", ReplayingGraph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, len(told["pools"]) + 1))
    monkeypatch.setattr(torch.cuda, "default_stream", lambda number: "default stream")
    monkeypatch.setattr(torch.cuda, "stream", do_nothing)
    monkeypatch.setattr(torch.cuda, "device", do_nothing)
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, tell_call(name), raising=False)
    monkeypatch.setattr(torch.cuda, "empty_cache", tell_call("empty_cache"))
    device = ToyGpu()
    told["device"] = device
    return told


def make_ids(n: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 384, n).tolist()


def test_a_step_is_recorded_when_it_runs_for_the_fourth_time_and_then_replayed(model, gpu):
    device = gpu["device"]
    recorded = OneSlot(model.language, 40, device, use_graphs=True, first_span=8)
    plain = OneSlot(model.language, 40, TorchDevice("cpu"), use_graphs=False, first_span=8)
    assert gpu["runs"] == [], "opening waits for nothing that a short answer does not need"
    for place, token in enumerate(make_ids(40, 0)):
        gpu["runs"].clear()
        out = recorded.extend([(token,)])
        runs = list(gpu["runs"])
        assert np.array_equal(out, plain.extend([(token,)]))
        begin, span = max(
            each for each in ((0, 8), (8, 16), (16, 32), (32, 40)) if each[0] <= place
        )
        assert runs == ([span] if place - begin < 4 else []), place  # the fourth is recorded
    assert [graph.n_replays for graph in ReplayingGraph.made] == [5, 5, 13, 5]
    assert gpu["pools"] == [(0, 1)] * 4
    assert len(set(gpu["streams"])) == 1, "records that share memory are of one stream"
    assert gpu["calls"] == []


def test_a_rewound_decoder_replays_the_step_of_the_shorter_span_again(model, gpu):
    decoder = OneSlot(model.language, 40, gpu["device"], use_graphs=True, first_span=8)
    ids = make_ids(20, 1)
    first = [decoder.extend([(token,)]) for token in ids]
    decoder.rewind(3)
    again = [decoder.extend([(token,)]) for token in ids[3:]]
    assert np.array_equal(first[3:], again)
    assert len(ReplayingGraph.made) == 3
    assert ReplayingGraph.made[0].n_replays == 5 + 5


def test_a_prompt_is_computed_in_one_pass_and_records_nothing(model, gpu):
    decoder = OneSlot(model.language, 40, gpu["device"], use_graphs=True)
    decoder.extend([tuple(make_ids(30, 2))])
    assert gpu["runs"] == []


def test_without_graphs_nothing_is_recorded(model, gpu):
    decoder = OneSlot(model.language, 40, gpu["device"], use_graphs=False)
    for token in range(6):
        decoder.extend([(token,)])
    assert gpu["runs"] == [40] * 6
    assert ReplayingGraph.made == []


@contextmanager
def fail_to_record(error: Exception, *, inside: Exception | None = None):
    """Stands for `torch.cuda.graph`: fails when recording ends, for what failed inside or not."""
    try:
        yield
        if inside:
            raise inside
    finally:
        raise error


def use_up(decoder: OneSlot, plain: OneSlot, n: int) -> None:
    for token in make_ids(n, 3):
        assert np.array_equal(decoder.extend([(token,)]), plain.extend([(token,)]))


RECORDING_ENDS = [("_cuda_endAllocateToPool", 0, (0, 1)), ("_cuda_releasePool", 0, (0, 1))]


def test_steps_that_cannot_be_recorded_run_unrecorded_and_it_is_said_once(model, gpu, monkeypatch):
    error = RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")
    notes: list[str] = []
    device = gpu["device"]
    recorded = OneSlot(
        model.language, 40, device, use_graphs=True, first_span=8, notify=notes.append
    )
    plain = OneSlot(model.language, 40, TorchDevice("cpu"), use_graphs=False, first_span=8)
    use_up(recorded, plain, 8)
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: fail_to_record(error))
    use_up(recorded, plain, 32)
    assert notes == [
        "the GPU's steps cannot be recorded, answers take longer: "
        "CUDA error: operation not permitted when stream is capturing"
    ]
    assert [graph.n_replays for graph in ReplayingGraph.made] == [5, 0]
    assert not device.lock.locked()


@pytest.mark.parametrize(
    ("error", "inside"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), None),
        (RuntimeError("CUDA error: out of memory"), None),
        (
            RuntimeError("CUDA error: operation failed due to a previous error during capture"),
            torch.OutOfMemoryError("CUDA out of memory."),
        ),
    ],
)
def test_where_memory_runs_out_only_that_span_goes_on_unrecorded(
    error, inside, model, gpu, monkeypatch
):
    notes: list[str] = []
    options = {"use_graphs": True, "first_span": 8, "notify": notes.append}
    recorded = OneSlot(model.language, 40, gpu["device"], **options)
    plain = OneSlot(model.language, 40, TorchDevice("cpu"), use_graphs=False, first_span=8)
    use_up(recorded, plain, 8)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "graph", lambda *_, **__: fail_to_record(error, inside=inside))
        use_up(recorded, plain, 8)
    use_up(recorded, plain, 24)
    assert [graph.n_replays for graph in ReplayingGraph.made] == [5, 0, 13, 5]
    assert len(notes) == 1


def test_a_failed_recording_is_ended_in_torchs_allocator_before_the_step_runs(
    model, gpu, monkeypatch
):
    decoder = OneSlot(model.language, 40, gpu["device"], use_graphs=True)
    error = RuntimeError("CUDA error: operation not permitted when stream is capturing")
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: fail_to_record(error))
    for token in range(4):
        decoder.extend([(token,)])
    assert gpu["calls"] == [*RECORDING_ENDS, ("empty_cache",)]
    # The allocator of pinned memory may still ask the graph whether it records.
    graph = weakref.ref(ReplayingGraph.made.pop())
    del decoder
    gc.collect()
    assert graph() is not None


def test_an_allocator_that_stays_in_recording_is_told_with_a_way_out(model, gpu, monkeypatch):
    def stay(*_arguments):
        raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED\nmore")

    decoder = OneSlot(model.language, 40, gpu["device"], use_graphs=True)
    error = RuntimeError("CUDA error: operation not permitted when stream is capturing")
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: fail_to_record(error))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", stay)
    monkeypatch.setattr(torch.cuda, "empty_cache", stay)
    for token in range(3):
        decoder.extend([(token,)])
    with pytest.raises(DeviceError, match="captures_underway") as caught:
        decoder.extend([(3,)])
    assert "TINYV_CUDA_GRAPHS=0" in caught.value.hint


def test_ctrl_c_between_copies_waits_for_those_under_way_and_counts_no_position(
    model, gpu, monkeypatch
):
    def interrupt(*_arguments):
        raise KeyboardInterrupt

    device = gpu["device"]
    decoder = OneSlot(model.language, 40, device, use_graphs=False)
    decoder.extend([(1,)])
    assert device.told == ["wait", "synchronise"]
    with monkeypatch.context() as patch:
        patch.setattr(StepDecoder, "_run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            decoder.extend([(2,)])
    assert device.told == ["wait", "synchronise"] * 2
    assert decoder.length == 1


@pytest.mark.parametrize(("value", "is_on"), [(None, True), ("0", False), ("1", True)])
def test_recording_can_be_switched_off(value, is_on, tmp_path, monkeypatch):
    found = {}
    monkeypatch.delenv("TINYV_CUDA_GRAPHS", raising=False)
    if value is not None:
        monkeypatch.setenv("TINYV_CUDA_GRAPHS", value)
    monkeypatch.setattr(torch_cuda, "StepDecoder", lambda *_, **options: found.update(options))
    monkeypatch.setattr(torch_cuda, "TorchDevice", lambda *_: MetaCuda())
    variant = write_variant(tmp_path / "v", SPEC, 4)
    torch_cuda.open_torch(variant, BackendOptions(), lambda *_: None, "meta")
    assert found["use_graphs"] == is_on


class MetaCuda(MetaGpu):
    """Counts as a GPU where one is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.is_cuda = True

    def limit_memory(self) -> None:
        """There is no limit."""

    def make_stream(self) -> None:
        """There is none."""
