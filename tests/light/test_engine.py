"""What every verb that asks something begins with, and what two of them once forgot."""

import gc
import io
import sys
import weakref

import psutil
import pytest

from tests.light.chat.toy_chat import EchoDecoder, ToyRuntimes
from tests.light.evaluation.toy_evaluation import write_questions
from tests.light.toy_decoder import ToyDecoder, ToySlots
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.backends.backend import Backend, BackendOptions, prefetch_nothing
from tinyv_cli.engine import Demand, find_variant, plan_engine
from tinyv_cli.errors import ExitCode, UsageError
from tinyv_cli.variants.memory import MemoryPlan

VERBS = {
    "ask": ["ask", "cat.png", "what?"],
    "batch": ["batch", "cat.png", "what?", "-o", "lines.jsonl"],
    "chat": ["chat", "cat.png"],
    "eval": ["eval", "questions.jsonl"],
    "bench": ["bench", "--repeats", "1"],
}


@pytest.fixture
def verbs(place, monkeypatch):
    """Words after which each verb would ask something, over variants that are never opened."""
    write_questions()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"why?\n")))
    return VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_opens_what_memory_does_not_hold(verb, verbs, monkeypatch, capsys):
    free = psutil.virtual_memory()._replace(available=20_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(backends, "open_backend", None)
    assert main([*verbs[verb], "-m", "bits4"]) == ExitCode.DEVICE
    out, err = capsys.readouterr()
    assert out == ""
    assert "bits4 needs about" in err
    assert "20.00 MB are free" in err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_keeps_to_a_memory_budget(verb, verbs, monkeypatch, capsys):
    monkeypatch.setattr(backends, "open_backend", None)
    words = [*verbs[verb], "-m", "bits4", "--memory-budget", "30MB"]
    assert main(words) == ExitCode.DEVICE
    assert "30.00 MB are allowed" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_which_of_several_variants_answers(verb, verbs, monkeypatch, capsys, toys):
    monkeypatch.setattr(backends, "open_backend", None)  # planned, and then no more is wanted
    with pytest.raises(TypeError):
        main(verbs[verb])
    assert "answers, the newest variant; `-m NAME` takes another" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--choices", "a,b", "--schema", "{}"], ExitCode.USAGE),
        (["--choices", "a,b", "--stop", "."], ExitCode.USAGE),
        (["--choices", "a,a"], ExitCode.USAGE),
        (["--schema", "{"], ExitCode.INPUT),
        (["--template", "none"], ExitCode.USAGE),
        (["--draw", "boxes.xyz"], ExitCode.USAGE),
        (["--draw", "nowhere/boxes.png"], ExitCode.USAGE),
        (["--at", "1,2,3"], ExitCode.USAGE),
        (["--task", "none"], ExitCode.USAGE),
        (["-m", "none"], ExitCode.WEIGHTS),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else None,
)
@pytest.mark.parametrize("picture", ["missing.png", "http://127.0.0.1:9/a.png"])
def test_flags_are_checked_before_any_picture_is_read(flags, code, picture, place, capsys):
    assert main(["ask", picture, "what?", *flags]) == code
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 2)
    assert picture not in err


def test_a_mistake_in_the_words_stands_alone(place, capsys):
    assert main(["ask", "missing.png", "what?"]) == ExitCode.INPUT
    assert len(capsys.readouterr().err.splitlines()) == 2


class CountedRuntimes(ToyRuntimes):
    """Knows how many of the decoders it opened are alive."""

    def __init__(self):
        super().__init__()
        self.most_alive = 0
        self._decoders = []

    def open_backend(self, variant, options, meanwhile=prefetch_nothing):
        meanwhile(self.encoder, self.device)
        self.events.append("open")
        decoder = EchoDecoder(300, options.context_length or 2048)
        self._decoders.append(weakref.ref(decoder))
        alive = sum(reference() is not None for reference in self._decoders)
        self.most_alive = max(self.most_alive, alive)
        return Backend(self.encoder, ToySlots(decoder), "toy", 0.25)


class ClosableToyEncoder:
    """Encodes, and can give its memory back."""

    def __init__(self, encoder):
        self.encode = encoder.encode

    def close(self):
        pass


@pytest.fixture
def counted(monkeypatch):
    """Runtimes over memory that holds one side of the model at a time; nothing is collected."""
    made = CountedRuntimes()
    made.encoder = ClosableToyEncoder(made.encoder)
    monkeypatch.setattr(backends, "open_backend", made.open_backend)
    offloaded = MemoryPlan(0, is_offloaded=True, limit_bytes=0)
    monkeypatch.setattr("tinyv_cli.engine.plan_memory", lambda *_, **__: offloaded)
    gc.collect()
    gc.disable()
    yield made
    gc.enable()


def test_a_chat_frees_one_decoder_before_it_opens_the_next(place, counted, monkeypatch):
    from tinyv_cli.chat import terminal
    from tinyv_cli.commands import chat as chat_module
    from tinyv_cli.options.chat import ChatArguments

    entries = iter(
        ["what?", "why?", "/image dog.png", "what?", "/image cat.png", "/undo", "so?", "/bye"]
    )
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(chat_module, "is_terminal", lambda _: True)
    monkeypatch.setattr(terminal, "make_reader", lambda: lambda: next(entries))
    chat_module.hold_conversation(ChatArguments(picture="cat.png", model="bits4", device="cpu"))
    assert counted.events == ["open"] * 3
    assert counted.most_alive == 1


def test_a_batch_frees_one_decoder_before_it_opens_the_next(place, counted, monkeypatch):
    from tinyv_cli.commands import batch

    monkeypatch.setattr(batch, "_OFFLOADED_BLOCK", 1)
    assert main(["batch", "cat.png", "dog.png", "what?", "-o", "lines.jsonl", "-q"]) == ExitCode.OK
    assert counted.events == ["open"] * 2
    assert counted.most_alive == 1


def test_a_session_that_was_dropped_in_mid_answer_frees_its_decoder(place, counted):
    engine = make_engine()
    with engine.open() as opened:
        session = opened.start_session()
        reply = session.ask("slow")
        next(reply)
    del opened, session, reply
    with engine.open():
        pass
    assert counted.most_alive == 1


def make_engine(notify=lambda _: None):
    return plan_engine(find_variant("bits4"), BackendOptions("cpu"), Demand(), notify)


def test_sessions_that_take_turns_answer_as_each_alone(place, monkeypatch):
    """The toy's answers depend on every position cached, so a stale one would show."""

    def open_backend(variant, options, meanwhile=prefetch_nothing):
        return Backend(ToyRuntimes().encoder, ToySlots(ToyDecoder(300)), "toy", 0.1)

    monkeypatch.setattr(backends, "open_backend", open_backend)
    questions = ["what is it?", "why?", "what is it for?", "how many?"]

    def hold(session):
        from tinyv_cli.session import AnswerOptions

        for question in questions:
            yield session.ask(question, AnswerOptions(max_new_tokens=9)).finish().text

    alone = []
    for _ in range(2):
        with make_engine().open() as opened:
            alone.append(list(hold(opened.start_session())))
    with make_engine().open() as opened:
        both = [hold(opened.start_session()) for _ in range(2)]
        turns = [[next(each) for each in both] for _ in questions]
    assert [list(each) for each in zip(*turns, strict=True)] == alone


def test_a_template_that_is_not_there_is_told_before_a_variant_is_looked_for(place):
    with pytest.raises(UsageError, match="no template 'none'"):
        find_variant("nowhere", "none")


def test_nothing_is_said_of_a_choice_before_it_is_planned(place):
    notes = []
    found = find_variant(None)
    assert any("newest variant" in note for note in found.notes)
    plan_engine(found, BackendOptions("cpu"), Demand(), notes.append)
    assert notes[: len(found.notes)] == list(found.notes)
