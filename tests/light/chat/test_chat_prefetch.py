from contextlib import contextmanager
from threading import Event

import numpy as np
import pytest

from tests.light.chat.toy_chat import EchoDecoder
from tests.light.toy_decoder import ToyEncoder, ToyRuntime
from tests.light.toy_tokenizer import make_tokenizer
from tinyv_cli.chat.prefetch import SessionPrefetcher
from tinyv_cli.errors import DeviceError
from tinyv_cli.prompts.prompt import TEMPLATES
from tinyv_cli.session import Session

WAIT_S = 20
ONE, OTHER = (np.full((1, 3, 2, 2), value, np.float32) for value in (1, 2))


class Opener:
    """Opens toy sessions and notes what happened; fails as often as it is told."""

    def __init__(self, folder):
        self._tokenizer = make_tokenizer(folder)
        self.events = []
        self.encoder = ToyEncoder()
        self.may_open = Event()
        self.may_open.set()
        self.n_failures = 0

    @contextmanager
    def open_about(self, pixels):
        assert self.may_open.wait(WAIT_S)
        if self.n_failures:
            self.n_failures -= 1
            raise DeviceError("no memory", "buy some")
        self.events.append("open" if pixels is None else f"open {pixels.flat[0]:g}")
        runtime = ToyRuntime(EchoDecoder(), self.encoder)
        session = Session(
            runtime.encoder,
            runtime.decoder,
            self._tokenizer,
            TEMPLATES["human"],
            notify=pytest.fail,
        )
        if pixels is not None:
            session.show_pixels(pixels)
        yield session, runtime
        self.events.append("close")


@pytest.fixture
def opener(tmp_path):
    return Opener(tmp_path)


@pytest.fixture
def make_ahead(opener):
    made = []

    def make(stays_open=True):
        made.append(SessionPrefetcher(opener.open_about, stays_open=stays_open))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_picture_opens_a_session_without_keeping_anybody_waiting(opener, make_ahead):
    opener.may_open.clear()
    ahead = make_ahead()
    ahead.show(ONE)
    assert opener.events == []
    opener.may_open.set()
    session, _ = ahead.wait()
    assert opener.events == ["open 1"]
    assert ahead.wait()[0] is session


def test_without_a_picture_nothing_is_opened_until_it_is_wanted(opener, make_ahead):
    unused = SessionPrefetcher(opener.open_about, stays_open=True)
    unused.show(None)
    unused.close()
    assert opener.events == []
    ahead = make_ahead()
    ahead.show(None)
    ahead.wait()
    assert opener.events == ["open"]


def test_another_picture_is_encoded_by_the_session_that_is_open(opener, make_ahead):
    ahead = make_ahead()
    ahead.show(ONE)
    ahead.wait()
    ahead.show(OTHER)
    session, _ = ahead.wait()
    assert opener.events == ["open 1"]
    assert opener.encoder.n_encoded == 1
    assert session.ask("why?").finish().timings.encode_s == 0


@pytest.mark.parametrize(
    ("stays_open", "first", "then", "opened"),
    [(False, ONE, OTHER, "open 2"), (True, None, OTHER, "open 2"), (True, ONE, None, "open")],
)
def test_where_that_is_impossible_a_session_is_closed_before_the_next(
    opener, make_ahead, stays_open, first, then, opened
):
    ahead = make_ahead(stays_open)
    ahead.show(first)
    ahead.wait()
    ahead.show(then)
    ahead.wait()
    assert opener.events[1:] == ["close", opened]


def test_a_failure_is_told_to_who_waits_and_tried_again(opener, make_ahead):
    opener.n_failures = 1
    ahead = make_ahead()
    ahead.show(ONE)
    with pytest.raises(DeviceError, match="no memory"):
        ahead.wait()
    ahead.wait()
    assert opener.events == ["open 1"]


def test_closing_closes_what_is_open(opener):
    ahead = SessionPrefetcher(opener.open_about, stays_open=True)
    ahead.show(ONE)
    ahead.close()
    assert opener.events == ["open 1", "close"]
