import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinyv_cli.answers.reply import StopText


@settings(max_examples=400, deadline=None)
@given(
    text=st.text("ab# \n", max_size=24),
    stops=st.lists(st.text("ab# ", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 24), max_size=8),
)
@example("abcX", ["abcX", "b"], [])
@example(" a# ##b", [], [2, 3])
def test_however_text_arrives_the_answer_is_the_same(text, stops, cuts):
    stops = ["###", *stops]
    ends = (
        (text[:i].endswith(stop), i, -len(stop)) for i in range(len(text) + 1) for stop in stops
    )
    complete = min(((end, length) for found, end, length in ends if found), default=None)
    wanted = (text if complete is None else text[: sum(complete)]).strip()
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    scanner, streamed = StopText(stops), ""
    for start, end in itertools.pairwise(edges):
        streamed += scanner.push(text[start:end])
        assert wanted.startswith(streamed)
        if scanner.stop_start is not None:
            break
    streamed += scanner.finish()
    assert streamed == scanner.answer == wanted
    assert (scanner.stop_start is None) == (complete is None)


def test_text_is_not_held_back_longer_than_needed():
    scanner = StopText(["###", "The end"])
    assert [scanner.push(part) for part in ("a", " ", "b#", "c", "Th", "is")] == [
        *("a", "", " b", "#c", "", "This")
    ]
