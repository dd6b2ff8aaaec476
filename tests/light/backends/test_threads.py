"""Threads are what was asked for, or what the machine has, and never more than its cores.

Seen in: issue "what other people's reports broke", table A: `-t 1000` on two cores, no answer in a
minute.
"""

import json
from io import BytesIO, TextIOWrapper

import pytest

from tests.light.toy_variant import make_open_backend, make_script
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.backends.backend import BackendOptions, resolve_threads
from tinyv_cli.errors import UsageError


@pytest.fixture
def cores(monkeypatch):
    """Lets a process use four cores, two of which share what multiplies with the other two."""
    backend = "tinyv_cli.backends.backend"
    monkeypatch.setattr(f"{backend}.os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(f"{backend}.psutil.cpu_count", lambda logical: 8 if logical else 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_threads_are_those_asked_for_then_the_variables_then_the_cores(cores, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert (resolve_threads(4), resolve_threads(None)) == (4, 3)
    for useless in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", useless)
        assert resolve_threads(None) == 2


# Seen in: issue "what other people's reports broke", table A: `-t 1000` on two cores, no answer in
# a minute.
@pytest.mark.parametrize(
    ("asked", "variable", "origin"),
    [
        (1000, None, "--threads is 1000"),
        (5, "2", "--threads is 5"),
        (10**30, None, f"--threads is {10**30}"),
        (None, "1000", "OMP_NUM_THREADS is 1000"),
    ],
)
def test_more_threads_than_cores_are_told_and_cut_down(cores, monkeypatch, asked, variable, origin):
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    notes = []
    assert resolve_threads(asked, notes.append) == 4
    assert notes == [f"{origin}: limited to 4, the cores that there are"]


@pytest.mark.parametrize("asked", [None, 1, 4])
def test_as_many_threads_as_cores_are_no_news(cores, asked):
    notes = []
    assert resolve_threads(asked, notes.append) == (asked or 2)
    assert notes == []


@pytest.mark.parametrize(
    ("device", "threads", "takes_turns"),
    [("cpu", None, True), ("cpu", 2, True), ("cpu", 1, False), ("cuda", None, False)],
)
def test_both_sides_compute_at_once_where_each_has_whole_cores(cores, device, threads, takes_turns):
    assert BackendOptions(device, threads).takes_turns == takes_turns


def test_fewer_threads_than_one_are_refused():
    with pytest.raises(UsageError, match="0 threads compute nothing"):
        resolve_threads(0)


NOTE = "note: --threads is 1000: limited to 4, the cores that there are\n"
VERBS = {
    "ask": ["ask", "cat.png", "what?"],
    "chat": ["chat", "cat.png"],
    "batch": ["batch", "cat.png", "what?", "-o", "answers.jsonl"],
    "eval": ["eval", "questions.jsonl"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_that_answer_say_so_once_and_go_on(place, cores, monkeypatch, capsys, verb):
    seen = {}
    monkeypatch.setattr(backends, "open_backend", make_open_backend(make_script("yes"), seen))
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"what?\n")))
    line = {"picture": "cat.png", "task": "what", "question": "what?", "answer": "yes"}
    (place / "questions.jsonl").write_text(json.dumps(line) + "\n", "utf-8")
    assert main([*VERBS[verb], "-m", "bits4", "-t", "1000"]) == 0
    assert capsys.readouterr().err.count(NOTE) == 1
    assert seen["options"].threads == 4
