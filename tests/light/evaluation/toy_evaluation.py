"""Variants with voices of their own, a file of questions, and `tinyv eval` as tests call it."""

import json
import weakref
from pathlib import Path

import numpy as np

from tests.light.toy_decoder import ToyDecoder, ToyEncoder, ToySlots
from tinyv_cli.app import main
from tinyv_cli.backends.backend import Backend
from tinyv_cli.errors import ExitCode

N_LETTERS = 12


def make_line(picture="cat.png", task="what", question="[vqa] what is it?", answer="cat"):
    return {"picture": picture, "task": task, "question": question, "answer": answer}


# Pictures take turns, so that an evaluation has to put them in order.
LINES = [
    make_line(),
    make_line("dog.png", answer="dog"),
    make_line(task="colour", question="[vqa] what colour is it?", answer="red"),
    make_line("dog.png", "count", "[vqa] how many?", "two"),
    make_line(task="refer", question="[refer] it", answer="{<1><2><30><40>}"),
    make_line(task="caption", question="[caption] describe it", answer="a cat"),
]


class EchoDecoder(ToyDecoder):
    """Answers with letters that depend on every position cached, and ends soon."""

    def __init__(self, seed, interrupt_after=None):
        super().__init__()
        self._seed = seed
        self._n_left = interrupt_after

    def extend(self, segments):
        if self._n_left is not None:
            self._n_left -= 1
            if self._n_left < 0:
                raise KeyboardInterrupt
        return super().extend(segments)

    def compute_logits(self):
        logits = np.full(300, -30, np.float32)
        seed = [self._seed, *(sum(map(ord, str(key))) for key in self.held)]
        logits[97 : 97 + N_LETTERS] = np.random.default_rng(seed).standard_normal(N_LETTERS)
        logits[258] = 0.8
        return logits


class Runtimes:
    """What was opened, and whether two were ever there at once."""

    def __init__(self):
        self.opened = []
        self.encoders = []
        self.most_alive = 0
        self.interrupt_after = None
        self._decoders = []

    def open_backend(self, variant, options, meanwhile):
        # A variant's bits make its voice.
        decoder = EchoDecoder(variant.manifest.bits, self.interrupt_after)
        encoder = ToyEncoder()
        meanwhile(encoder, "toy")
        self.opened.append(variant.name)
        self.encoders.append(encoder)
        self._decoders.append(weakref.ref(decoder))
        alive = sum(reference() is not None for reference in self._decoders)
        self.most_alive = max(self.most_alive, alive)
        return Backend(encoder, ToySlots(decoder), "toy", 0.1)


def write_questions(lines=LINES, name="questions.jsonl"):
    text = "".join(f"{json.dumps(line) if isinstance(line, dict) else line}\n" for line in lines)
    Path(name).write_text(text, "utf-8")
    return name


def run(capsys, *flags, model="bits4", code=ExitCode.OK):
    """The document that the command prints."""
    assert main(["eval", "questions.jsonl", "-m", model, "--json", *flags]) == code
    out, err = capsys.readouterr()
    if code != ExitCode.OK:
        assert out == ""
        return err
    assert out.count("\n") == 1
    document = json.loads(out)
    assert document.pop("seconds") > 0
    return document


def list_ledgers():
    return sorted(Path().glob("questions.eval-*.jsonl"))


def read_answers():
    """What the only ledger of answers holds, by question."""
    (path,) = [each for each in list_ledgers() if '"answer"' in each.read_text()]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["index"]: line["answer"] for line in lines}


def ask(capsys, line, model="bits4"):
    """What `tinyv ask` answers to a line's question."""
    assert main(["ask", line["picture"], line["question"], "-m", model]) == ExitCode.OK
    return capsys.readouterr().out.removesuffix("\n")
