"""Verbs that need torch turn to no other computer; `light/test_no_network.py` has the others.

Seen in: onnxruntime, pull request 27379; immich 3.3.6.
"""

import getpass

import pytest

from tests.demo import DEMO
from tests.watched import TIMER_S, start_watched

VERBS = {
    "quantize": ["quantize", "--target", "all", "-t", "1"],
    "pull by tensors": ["pull", "--from", str(DEMO / "sources/phi-2")],
}
FAIL = {"pull by tensors": 4}  # the miniature's files are not the published ones


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """All of them after their end; they live on until the runtime's timer must have gone off."""
    folder = tmp_path_factory.mktemp("watched")
    under_way = {
        name: start_watched(folder / name, *words, alive_s=TIMER_S) for name, words in VERBS.items()
    }
    return {name: (each, *each.end(timeout_s=300)) for name, each in under_way.items()}


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_with_torch_turns_to_nobody_and_leaves_nothing_in_the_home(watched, name):
    program, code, said = watched[name]
    assert code == FAIL.get(name, 0), said
    assert program.list_calls() == []
    # torch makes this folder when it is imported, and leaves it empty.
    allowed = {f"temporary/torchinductor_{getpass.getuser()}"}
    assert set(program.list_left()) - allowed == set()
