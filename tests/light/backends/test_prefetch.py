"""Pictures are made ready before they are wanted: once, in turn, and no error is lost."""

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.light.toy_decoder import ScriptedDecoder, ToyEncoder, ToySlots
from tests.light.toy_variant import make_script
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.backends.backend import Backend
from tinyv_cli.backends.prefetch import PrefetchingEncoder
from tinyv_cli.backends.prefetch_pictures import PicturePrefetcher, Preparing
from tinyv_cli.errors import ExitCode, WeightsError

ONE, OTHER = (np.full((1, 3, 4, 4), value, np.float32) for value in (1, 2))


class FailingEncoder:
    def encode(self, pixels):
        raise WeightsError("the vision file is damaged", "make it again")


def test_the_picture_is_encoded_once_and_others_when_they_come():
    encoder = ToyEncoder()
    ahead = PrefetchingEncoder(encoder, ONE)
    assert ahead.encode(ONE).mean() == 1
    assert ahead.encode(ONE).mean() == 1
    assert encoder.n_encoded == 1
    assert ahead.encode(OTHER).mean() == 2
    assert encoder.n_encoded == 2


def test_what_went_wrong_is_said_when_the_tokens_are_wanted():
    ahead = PrefetchingEncoder(FailingEncoder(), ONE)
    ahead.wait()
    for pixels in (ONE, OTHER):
        with pytest.raises(WeightsError, match="vision file"):
            ahead.encode(pixels)


def test_ask_encodes_before_the_decoder_is_open(place, monkeypatch, capsys):
    encoded = threading.Event()

    class TellingEncoder(ToyEncoder):
        def encode(self, pixels):
            encoded.set()
            return super().encode(pixels)

    def open_backend(variant, options, on_encoder):
        encoder = TellingEncoder()
        on_encoder(encoder, "toy")
        assert encoded.wait(30), "nothing was encoded while the decoder was being opened"
        return Backend(encoder, ToySlots(ScriptedDecoder(make_script("a cat"))), "toy", 0.1)

    monkeypatch.setattr(backends, "open_backend", open_backend)
    assert main(["ask", "cat.png", "what?", "-m", "bits4", "--no-cache"]) == ExitCode.OK
    assert capsys.readouterr() == ("a cat\n", "")


def test_a_picture_that_cannot_be_encoded_ends_the_command(place, monkeypatch, capsys):
    def open_backend(variant, options, on_encoder):
        on_encoder(FailingEncoder(), "toy")
        return Backend(FailingEncoder(), ToySlots(ScriptedDecoder(make_script("a"))), "toy", 0.1)

    monkeypatch.setattr(backends, "open_backend", open_backend)
    n_threads = threading.active_count()
    assert main(["ask", "cat.png", "what?", "-m", "bits4"]) == ExitCode.WEIGHTS
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: the vision file is damaged\nhint:  make it again\n"
    assert threading.active_count() == n_threads


def test_another_picture_is_encoded_although_the_first_could_not_be():
    class ChoosyEncoder(ToyEncoder):
        def encode(self, pixels):
            if pixels.mean() == 1:
                raise WeightsError("this one is damaged", "take another")
            return super().encode(pixels)

    ahead = PrefetchingEncoder(ChoosyEncoder(), ONE)
    with pytest.raises(WeightsError, match="this one"):
        ahead.encode(ONE)
    assert ahead.encode(OTHER).mean() == 2


def test_a_picture_that_is_read_is_encoded_at_once_and_one_still_being_read_is_not_waited_for():
    may_end = threading.Event()

    def read(path):
        assert path.name == "quick" or may_end.wait(30)
        return Image.new("RGB", (8, 8))

    encoder = ToyEncoder()
    names = [Path("quick"), Path("slow"), Path("next")]
    ahead = PicturePrefetcher(encoder, names, read, Preparing(4, 3, takes_turns=True))
    pictures = ahead.as_ready(lambda: False)
    try:
        while (first := next(pictures)) is None:  # until it has been read
            pass
        assert first.path.name == "quick"
        assert next(pictures) is None
        assert encoder.n_encoded == 1
        may_end.set()
        while (second := next(pictures)) is None:
            pass
        assert second.path.name == "slow"
        assert encoder.n_encoded == 2, "encoded before it was wanted"
    finally:
        may_end.set()
        ahead.close()
