"""The worker by itself: a bug, a failing model, death, and what two owners share."""

import itertools
import json
import queue
from dataclasses import replace

import pytest

from tests.demo import DEMO
from tests.light.serving.served import LONG, URLS, wait_until
from tinyv_cli.answers.scheduler import Scheduler
from tinyv_cli.backends.backend import BackendOptions
from tinyv_cli.errors import DeviceError
from tinyv_cli.serving.catalog import Catalog
from tinyv_cli.serving.dialects.asking import Asked, RefusedError
from tinyv_cli.serving.jobs import Ended, Failed, Job, Piece
from tinyv_cli.serving.metrics import Metrics
from tinyv_cli.serving.preparing import Preparer
from tinyv_cli.serving.shelf import OpenModel, Shelf
from tinyv_cli.serving.worker import Worker

CAT = Asked(None, "what is this?", pictures=(URLS["cat"],), streams=True)


class House:
    def __init__(self, **options):
        self.catalog = Catalog(str(DEMO / "variant"), None)
        self.preparer = Preparer(self.catalog, fetches=False, max_images=None)
        self.lines = []
        shelf = Shelf(BackendOptions(device="cpu"), 1, self.lines.append)
        self.worker = Worker(shelf, 4, 60.0, Metrics(), self.lines.append)

    def submit(self, asked=CAT, owner=""):
        events = queue.Queue()
        job = Job(self.preparer.prepare(asked, owner), events.put)
        self.worker.submit(job)
        return job, events

    def ask(self, asked=CAT, owner=""):
        _, events = self.submit(asked, owner)
        pieces = []
        while True:
            event = events.get(timeout=60)
            if isinstance(event, Piece):
                pieces.append(event.text)
            elif isinstance(event, Ended | Failed):
                return "".join(pieces), event


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path))
    house = House()
    house.worker.start()
    yield house
    house.worker.end()
    assert not house.worker.is_alive


def fail_once(monkeypatch, error):
    whole = Scheduler.advance

    def advance(self):
        monkeypatch.setattr(Scheduler, "advance", whole)
        raise error

    monkeypatch.setattr(Scheduler, "advance", advance)


@pytest.mark.parametrize(
    ("error", "status"),
    [(DeviceError("memory does not suffice", "x"), 503), (KeyError("a bug"), 500)],
)
def test_a_model_that_fails_is_told_and_answers_the_next_question(
    house, monkeypatch, error, status
):
    assert house.ask()[0] == "a cat"
    fail_once(monkeypatch, error)
    _, failed = house.ask()
    assert failed.refusal.status == status
    assert "bug" not in failed.refusal.problem
    text, ended = house.ask()
    assert text == ended.text == "a cat"
    assert ended.load_s > 0
    assert house.worker.is_alive


def test_one_questions_bug_is_its_own(house, monkeypatch):
    monkeypatch.setattr("tinyv_cli.serving.shelf.OpenModel.begin", lambda *_: 1 / 0)
    _, failed = house.ask()
    assert failed.refusal.status == 500
    monkeypatch.undo()
    assert house.ask()[0] == "a cat"
    assert any("ZeroDivisionError" in each for each in house.lines)


@pytest.mark.parametrize(
    "where", [(Worker, "_begin"), (OpenModel, "begin"), (Scheduler, "advance")]
)
def test_a_worker_that_dies_tells_its_askers_and_its_owner(tmp_path, monkeypatch, where):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path))
    house, deaths = House(), queue.Queue()
    house.worker.on_death = lambda: deaths.put(True)

    def die(*_):
        raise SystemExit

    monkeypatch.setattr(*where, die)
    house.worker.start()
    _, failed = house.ask()
    assert failed.refusal.status == 503
    assert deaths.get(timeout=10)
    house.worker._thread.join(10)
    assert not house.worker.is_alive
    with pytest.raises(RefusedError):
        house.submit()


def test_image_tokens_and_keys_of_one_owner_serve_no_other(house):
    def look(owner):
        ended = house.ask(owner=owner)[1]
        return ended.encode_s, ended.answer.usage.reused_tokens

    assert look("one")[0] > 0.001
    assert look("one")[0] < 0.001
    encode_s, n_reused = look("two")
    assert encode_s > 0.001
    assert n_reused == 0


def test_an_answer_that_nobody_waits_for_any_more_ends_within_one_token(house, monkeypatch):
    whole, n_made = Scheduler.advance, itertools.count()

    def advance(self):
        next(n_made)
        return whole(self)

    monkeypatch.setattr(Scheduler, "advance", advance)
    job, events = house.submit(replace(CAT, schema=json.dumps(LONG), max_tokens=1900))
    while not isinstance(events.get(timeout=60), Piece):
        pass
    house.worker.cancel(job)
    n_then = next(n_made)
    wait_until(lambda: house.worker.n_running == 0, 5)
    assert next(n_made) - n_then <= 2  # one of them for this look
    assert house.ask()[0] == "a cat"


def test_a_cancelled_question_is_dropped_unseen(house):
    jobs = [house.submit()[0] for _ in range(3)]
    for each in jobs:
        house.worker.cancel(each)
    assert house.ask()[0] == "a cat"
    assert house.worker.n_waiting == 0
