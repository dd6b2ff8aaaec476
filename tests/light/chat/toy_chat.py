"""A decoder that repeats its question, and the program as a process that talks to it."""

import re
import signal
import sys
import time

import numpy as np

from tests.light.devices.toy_cuda import NO_DRIVER
from tests.light.toy_decoder import ToyDecoder, ToyEncoder, ToySlots
from tests.light.toy_tokenizer import ADDED, MERGES
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.backends.backend import Backend, prefetch_nothing
from tinyv_cli.devices import driver

STOP_ID = 258  # of a toy variant
BOX = "<p>a cat</p> {<10><20><50><60>}"
_BYTES = [bytes([each]) for each in range(256)] + [
    text.encode()
    for text in (*("".join(pair).replace("Ġ", " ") for pair in MERGES), "<|endoftext|>", *ADDED)
]
_TURN = re.compile(rb"###Human: (?:<Img></Img> )?(.*?)###Assistant: ", re.DOTALL)
_TOKEN_S = 0.02
_SPECIAL = {
    b"slow": b"word " * 500,  # longer than any test waits
    b"box": BOX.encode(),
    b"lines": b"one\ntwo\r\nthree",
}


def make_answer(dialogue):
    """What is answered to a dialogue: how many questions it holds, and the last of them."""
    questions = _TURN.findall(dialogue) or [b""]  # a prompt may come in pieces
    return _SPECIAL.get(questions[-1], b"%d:%s" % (len(questions), questions[-1]))


class EchoDecoder(ToyDecoder):
    """Says what `make_answer` says, a byte a token, whatever the temperature."""

    def compute_logits(self):
        held = b"".join(_BYTES[key] for key in self.held if not isinstance(key, tuple))
        answer = make_answer(held)
        if answer == _SPECIAL[b"slow"]:
            time.sleep(_TOKEN_S)
        logits = np.zeros(self._vocab_size, np.float32)
        left = answer[len(held.rpartition(b"###Assistant: ")[2]) :]
        logits[left[0] if left else STOP_ID] = 1000
        return logits


class ToyRuntimes:
    """Opens runtimes that repeat questions, and notes what was opened and closed."""

    def __init__(self):
        self.events = []
        self.encoder = ToyEncoder()
        self.device = "toy"

    def open_backend(self, variant, options, meanwhile=prefetch_nothing):
        self.events.append("open")
        decoder = EchoDecoder(300, options.context_length or 2048)
        meanwhile(self.encoder, self.device)
        return Backend(
            self.encoder, ToySlots(decoder), "toy", 0.25, lambda: self.events.append("close")
        )


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    driver.read_driver = lambda: NO_DRIVER
    driver.has_gpu = lambda: False
    backends.open_backend = ToyRuntimes().open_backend
    sys.exit(main(sys.argv[1:]))
