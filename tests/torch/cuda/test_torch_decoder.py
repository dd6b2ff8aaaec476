"""When steps are recorded and replayed, with graphs that run again what they saw recorded."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from tests.torch.one_slot import OneSlot
from tests.torch.weights.random_weights import make_read
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

    def pool(self) -> str:
        return f"pool of graph {self.made.index(self)}"


class NoStream:
    def wait_stream(self, _other: "NoStream") -> None:
        """Nothing runs beside anything else here."""


@pytest.fixture
def gpu(monkeypatch):
    """torch.cuda as far as recording uses it; tells spans of runs, warm-ups among them."""
    told = {"runs": [], "pools": [], "streams": [], "streams_set": [], "recording": None}
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

    monkeypatch.setattr(StepDecoder, "_run", tell_run)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", ReplayingGraph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "Stream", NoStream)
    monkeypatch.setattr(torch.cuda, "current_stream", NoStream)
    monkeypatch.setattr(torch.cuda, "set_stream", told["streams_set"].append)
    monkeypatch.setattr(torch.cuda, "stream", do_nothing)
    monkeypatch.setattr(torch.cuda, "device", do_nothing)
    device = TorchDevice("cpu")
    told["device"] = device
    return told


def make_ids(n: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 384, n).tolist()


def test_a_step_is_recorded_once_a_span_and_then_replayed(model, gpu):
    device = gpu["device"]
    recorded = OneSlot(model.language, 40, device, use_graphs=True, first_span=8)
    plain = OneSlot(model.language, 40, TorchDevice("cpu"), use_graphs=False, first_span=8)
    recorded.prepare()
    assert gpu["runs"] == [8, 8, 8]
    for token in make_ids(40, 0):
        gpu["runs"].clear()
        out = recorded.extend([(token,)])
        runs = list(gpu["runs"])
        assert np.array_equal(out, plain.extend([(token,)]))
        place = recorded.length - 1
        span = {8: 16, 16: 32, 32: 40}.get(place)
        assert runs == ([span] * 3 if span else []), place
    assert [graph.n_replays for graph in ReplayingGraph.made] == [8, 8, 16, 8]
    assert gpu["pools"] == [None] + ["pool of graph 0"] * 3
    assert len(set(gpu["streams"])) == 1, "records that share memory are of one stream"


def test_a_rewound_decoder_replays_the_step_of_the_shorter_span_again(model, gpu):
    decoder = OneSlot(model.language, 40, gpu["device"], use_graphs=True, first_span=8)
    ids = make_ids(20, 1)
    first = [decoder.extend([(token,)]) for token in ids]
    decoder.rewind(3)
    again = [decoder.extend([(token,)]) for token in ids[3:]]
    assert np.array_equal(first[3:], again)
    assert len(ReplayingGraph.made) == 3


def test_a_prompt_is_computed_in_one_pass_and_records_nothing(model, gpu):
    decoder = OneSlot(model.language, 40, gpu["device"], use_graphs=True)
    decoder.extend([tuple(make_ids(30, 2))])
    decoder.prepare()  # too late: it would write over what is cached
    assert gpu["runs"] == []


def test_without_graphs_nothing_is_recorded(model, gpu):
    decoder = OneSlot(model.language, 40, gpu["device"], use_graphs=False)
    decoder.prepare()
    decoder.extend([(1,)])
    assert gpu["runs"] == [40]
    assert ReplayingGraph.made == []


def test_steps_that_cannot_be_recorded_run_unrecorded_and_it_is_said_once(model, gpu, monkeypatch):
    @contextmanager
    def refuse(*_arguments, **_options):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")
        yield

    notes: list[str] = []
    device = gpu["device"]
    recorded = OneSlot(
        model.language, 40, device, use_graphs=True, first_span=8, notify=notes.append
    )
    plain = OneSlot(model.language, 40, TorchDevice("cpu"), use_graphs=False, first_span=8)
    recorded.prepare()
    monkeypatch.setattr(torch.cuda, "graph", refuse)
    for token in make_ids(40, 3):
        assert np.array_equal(recorded.extend([(token,)]), plain.extend([(token,)]))
    assert notes == [
        "the GPU's steps cannot be recorded, answers take longer: "
        "CUDA error: operation not permitted when stream is capturing"
    ]
    assert [graph.n_replays for graph in ReplayingGraph.made] == [8, 0]
    assert len(gpu["streams_set"]) == 2
    assert not device.lock.locked()


def test_memory_that_runs_out_while_recording_is_no_reason_to_go_on_without(
    model, gpu, monkeypatch
):
    @contextmanager
    def refuse(*_arguments, **_options):
        raise torch.OutOfMemoryError
        yield

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    decoder = OneSlot(model.language, 40, gpu["device"], use_graphs=True, notify=pytest.fail)
    with pytest.raises(DeviceError, match="ran out"):
        decoder.extend([(1,)])
