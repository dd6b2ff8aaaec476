"""What all clients ask, and what has to hold when one leaves."""

from contextlib import contextmanager

import pytest

from tests.light.serving.served import ENCODED, LONG, ask_of, wait_until

NAME, QUESTION = "three-apples", "[caption] describe this image."
KEY = "a-key"
SCHEMA = {"type": "object", "properties": {"n": {"enum": [2, 3]}}, "required": ["n"]}
SCHEMA |= {"additionalProperties": False}
FORM = {"type": "json_schema", "json_schema": {"name": "count", "schema": SCHEMA}}
LONG_FORM = {"type": "json_schema", "json_schema": {"name": "long", "schema": LONG}}
BROKEN = ENCODED["cat"][:800]
# Libraries warn of their own age, and leave sockets to the collector.
AS_THEY_COME = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@contextmanager
def leaving(served):
    """Checks that what is asked inside, at length, ends long before its answer would.

    The answer's 1,900 tokens take some ten seconds. An answer is either counted as dropped, and the
    worker makes no more of it, or as answered.
    """
    dropped, answered = "tinyv_dropped_by_client_total", "tinyv_first_token_seconds_count"
    before = [served.count(name) for name in (dropped, answered)]
    yield
    wait_until(lambda: served.count("tinyv_running") == 0, 3)
    assert [served.count(name) for name in (dropped, answered)] == [before[0] + 1, before[1]]
    with served.client() as client:
        answer = client.post("/v1/chat/completions", json=ask_of("cat", "what is this?")).json()
    assert answer["choices"][0]["message"]["content"] == "a cat"
