"""Pictures of a batch made ready ahead, and what ends or parts the run."""

import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.light.batch.test_batch import echo, forbid_opening, list_paths, run, say  # noqa: F401
from tests.light.batch.test_batch_program import ClosableEncoder, make_open_backend, read_lines
from tests.light.toy_decoder import ScriptedDecoder, ToyDecoder, ToySlots
from tests.light.toy_variant import make_script
from tinyv_cli import engine
from tinyv_cli.app import main
from tinyv_cli.backends import backend
from tinyv_cli.backends import opening as backends
from tinyv_cli.backends.backend import Backend
from tinyv_cli.batch import pipeline
from tinyv_cli.commands import batch
from tinyv_cli.errors import DeviceError, ExitCode
from tinyv_cli.variants.memory import MemoryPlan

pytestmark = pytest.mark.usefixtures("place")


def test_pictures_are_read_while_one_is_answered(monkeypatch):
    third_is_read = threading.Event()
    names = [f"{i}.png" for i in range(4)]
    for i, name in enumerate(names):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(name)
    read = pipeline.open_listed

    def open_listed(word, path, note):
        if path.name == "2.png":
            third_is_read.set()
        return read(word, path, note)

    class WaitingDecoder(ScriptedDecoder):
        """Answers the first picture only when the third is being read."""

        def extend(self, segments):
            assert third_is_read.wait(30), "nothing was read meanwhile"
            return super().extend(segments)

    def open_backend(variant, options, meanwhile):
        encoder = ClosableEncoder()
        meanwhile(encoder, "toy")
        return Backend(encoder, ToySlots(WaitingDecoder(make_script("a cat") * 4)), "toy", 0.1)

    monkeypatch.setattr(pipeline, "open_listed", open_listed)
    monkeypatch.setattr(backends, "open_backend", open_backend)
    assert main(["batch", *names, "what?", "-o", "out.jsonl", "--no-cache"]) == ExitCode.OK
    assert [line["answer"] for line in read_lines()] == ["a cat"] * 4


@pytest.mark.parametrize("n_slots", [1, 3])
def test_the_sides_of_the_model_compute_in_turn(n_slots, monkeypatch):
    names = [f"{i}.png" for i in range(6)]
    for i, name in enumerate(names):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(name)
    busy = threading.Lock()

    def compute(what):
        assert busy.acquire(blocking=False), f"{what} beside another"
        time.sleep(0.01)
        busy.release()

    class BusyEncoder(ClosableEncoder):
        def encode(self, pixels):
            compute("encode")
            return super().encode(pixels)

    class BusyDecoder(ScriptedDecoder):
        def extend(self, segments):
            compute("decode")
            return super().extend(segments)

    def open_backend(variant, options, meanwhile):
        encoder = BusyEncoder()
        meanwhile(encoder, "toy")
        decoders = [BusyDecoder(make_script("a cat") * 6) for _ in range(n_slots)]
        return Backend(encoder, ToySlots(*decoders), "toy", 0.1)

    monkeypatch.setattr(backends, "open_backend", open_backend)
    words = ("-o", "out.jsonl", "--no-cache", "--parallel", str(n_slots))
    assert main(["batch", *names, "what?", *words]) == ExitCode.OK
    assert [line["answer"] for line in read_lines()] == ["a cat"] * 6


def test_where_cores_are_left_the_next_picture_is_encoded_meanwhile(monkeypatch):
    second_is_encoded = threading.Event()
    names = [f"{i}.png" for i in range(4)]
    for i, name in enumerate(names):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(name)

    class TellingEncoder(ClosableEncoder):
        def encode(self, pixels):
            if self.n_encoded == 1:
                second_is_encoded.set()
            return super().encode(pixels)

    class WaitingDecoder(ScriptedDecoder):
        """Answers the first picture only when the second is being encoded."""

        def extend(self, segments):
            assert second_is_encoded.wait(30), "nothing was encoded meanwhile"
            return super().extend(segments)

    encoder = TellingEncoder()

    def open_backend(variant, options, meanwhile):
        meanwhile(encoder, "toy")
        return Backend(encoder, ToySlots(WaitingDecoder(make_script("a cat") * 4)), "toy", 0.1)

    monkeypatch.setattr(backends, "open_backend", open_backend)
    monkeypatch.setattr(backend, "_count_cores", lambda **_: 2)
    words = ("-o", "out.jsonl", "--no-cache", "--threads", "1")
    assert main(["batch", *names, "what?", *words]) == ExitCode.OK
    assert [line["answer"] for line in read_lines()] == ["a cat"] * 4
    assert encoder.n_encoded == 4


def test_an_encoder_that_fails_ends_the_run_with_its_own_code(capsys, monkeypatch):
    class FailingEncoder(ClosableEncoder):
        def encode(self, pixels):
            if self.n_encoded:
                raise DeviceError("the memory is full", "close something")
            return super().encode(pixels)

    def open_backend(variant, options, meanwhile):
        encoder = FailingEncoder()
        meanwhile(encoder, "toy")
        return Backend(encoder, ToySlots(ScriptedDecoder(make_script("one") * 2)), "toy", 0.1)

    monkeypatch.setattr(backends, "open_backend", open_backend)
    err = run(capsys, "cat.png", "dog.png", "what?", "--no-cache", code=ExitCode.DEVICE)
    assert err.endswith("error: the memory is full\nhint:  close something\n")
    assert [line["answer"] for line in read_lines()] == ["one"]


def test_a_prompt_that_does_not_fit_is_no_fault_of_the_pictures(capsys, monkeypatch):
    def open_backend(variant, options, meanwhile):
        encoder = ClosableEncoder()
        meanwhile(encoder, "toy")
        return Backend(
            encoder, ToySlots(ToyDecoder(context_length=options.context_length)), "toy", 0.1
        )

    monkeypatch.setattr(backends, "open_backend", open_backend)
    err = run(capsys, "cat.png", "what? " * 50, "-c", "100", code=ExitCode.INPUT)
    assert "positions, the context has 100" in err
    assert not Path("out.jsonl").exists()


def test_where_memory_is_short_the_sides_of_the_model_take_turns(capsys, monkeypatch):
    names = [f"{i}.png" for i in range(5)]
    for i, name in enumerate(names):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(name)
    run(capsys, *names, "what?")
    expected = read_lines()
    steps = []

    def open_backend(variant, options, meanwhile):
        class TellingEncoder(ClosableEncoder):
            def encode(self, pixels):
                steps.append("encode")
                return super().encode(pixels)

            def close(self):
                steps.append("close")

        meanwhile(TellingEncoder(), "toy")
        steps.append("open")
        return make_open_backend()(variant, options, lambda *_: None)

    monkeypatch.setattr(backends, "open_backend", open_backend)
    offloaded = MemoryPlan(0, is_offloaded=True, limit_bytes=0)
    monkeypatch.setattr(engine, "plan_memory", lambda *_, **__: offloaded)
    monkeypatch.setattr(batch, "_OFFLOADED_BLOCK", 3)
    run(capsys, *names, "what?", "--no-cache", output="frugal.jsonl")
    assert read_lines("frugal.jsonl") == expected
    assert steps == ["encode"] * 3 + ["close", "open"] + ["encode"] * 2 + ["close", "open"]
