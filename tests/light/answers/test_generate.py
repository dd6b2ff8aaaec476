import numpy as np
import pytest

from tests.light.toy_decoder import ScriptedDecoder, ToyDecoder
from tinyv_cli.answers.generate import (
    ImageTokens,
    Rules,
    count_positions,
    cut,
    generate,
    to_position_keys,
)
from tinyv_cli.answers.sampling import Sampler, SamplingOptions
from tinyv_cli.answers.tracked import TrackedDecoder

GREEDY = SamplingOptions()


def make_image(key="cat", n=4):
    return ImageTokens(np.zeros((n, 2), np.float32), key)


def run(decoder, segments, stop_ids=(), max_new_tokens=8, options=GREEDY):
    """All tokens, and why they end."""
    steps = generate(decoder, segments, Rules(Sampler(options), stop_ids, max_new_tokens))
    tokens = []
    while True:
        try:
            tokens += next(steps).tokens
        except StopIteration as end:
            return tokens, end.value


def answer_anew(segments, **options):
    return run(ToyDecoder(), segments, **options)


def test_generation_ends_at_the_longest_answer():
    assert run(ScriptedDecoder([5, 6, 7, 8]), [(1, 2)], max_new_tokens=3) == ([5, 6, 7], "length")


def test_a_stop_id_ends_the_answer_and_is_not_part_of_it():
    assert run(ScriptedDecoder([5, 9, 7]), [(1,)], stop_ids={9}) == ([5], "stop")
    assert run(ScriptedDecoder([9, 5]), [(1,)], stop_ids={9}) == ([], "stop")


def test_generation_ends_where_the_context_is_full():
    decoder = ScriptedDecoder(range(10), context_length=5)
    assert run(decoder, [(1, 2, 3)]) == ([0, 1, 2], "length")
    assert decoder.length == 5


def test_a_prompt_that_fills_the_context_still_gets_one_token():
    assert run(ScriptedDecoder([7], context_length=3), [(1, 2, 3)]) == ([7], "length")


def test_no_position_is_computed_that_nobody_asked_for():
    decoder = ScriptedDecoder(range(10))
    steps = generate(decoder, [(1, 2, 3)], Rules(Sampler(GREEDY), (), 8))
    assert decoder.n_computed == 0
    next(steps)
    assert decoder.n_computed == 3
    next(steps)
    assert decoder.n_computed == 4
    run(decoder := ScriptedDecoder(range(10)), [(1, 2, 3)], max_new_tokens=2)
    assert decoder.n_computed == 4


def test_generated_tokens_are_penalised_and_the_prompts_are_not():
    logits = np.array([1.0, 0.9, 0.0], np.float32)

    class Constant(ToyDecoder):
        def compute_logits(self):
            return logits

    options = SamplingOptions(repetition_penalty=1.5)
    assert run(Constant(), [(0, 0)], max_new_tokens=3, options=options)[0] == [0, 1, 0]


def test_each_token_depends_on_all_before_it():
    tokens, _ = answer_anew([(1, 2), make_image(), (3,)])
    assert tokens != answer_anew([(1, 2), make_image("dog"), (3,)])[0]
    assert tokens != answer_anew([(2, 1), make_image(), (3,)])[0]


def test_a_longer_prompt_is_computed_only_from_where_it_differs():
    decoder = ToyDecoder()
    tracked = TrackedDecoder(decoder)
    first = [(1, 2), make_image(), (3, 4)]
    rest, n_kept = tracked.rewind_to_common(first)
    assert (rest, n_kept) == (first, 0)
    tokens, _ = run(tracked, rest)
    second = [(1, 2), make_image(), (3, 4, *tokens, 30, 31)]
    rest, n_kept = tracked.rewind_to_common(second)
    assert n_kept == 8 + len(tokens) - 1
    assert rest == [(tokens[-1], 30, 31)]
    before = decoder.n_computed
    assert run(tracked, rest) == answer_anew(second)
    assert decoder.n_computed - before == 3 + 7


@pytest.mark.parametrize(
    ("held", "wanted", "n_kept"),
    [
        ([(1, 2, 3)], [(1, 2, 3)], 2),
        ([(1, 2, 3)], [(1, 2)], 1),
        ([(1, 2, 3)], [(9, 2, 3)], 0),
        ([(1,), make_image(), (2,)], [(1,), make_image(), (3,)], 5),
        ([(1,), make_image(), (2,)], [(1,), make_image("dog"), (2,)], 1),
        ([(1,), make_image(), (2,)], [(1,), make_image()], 1),
        ([(1,), make_image(n=6)], [(1,), make_image(n=4), (2,)], 5),
        ([(1,), make_image(n=4)], [(1,), make_image(n=6), (2,)], 1),
        ([(1, 2), (3, 4)], [(1,), (2, 3), (5,)], 3),
        ([(1, 2)], [(1, 2), make_image()], 2),
        ([(7,)], [(7,)], 0),
    ],
)
def test_the_shared_beginning_is_kept_and_the_answer_is_that_of_a_fresh_start(held, wanted, n_kept):
    tracked = TrackedDecoder(ToyDecoder())
    tracked.extend(held)
    rest, n = tracked.rewind_to_common(wanted)
    assert n == n_kept == tracked.length
    assert n + count_positions(rest) == count_positions(wanted)
    assert run(tracked, rest) == answer_anew(wanted)


def test_a_picture_is_computed_whole_or_not_at_all():
    tracked = TrackedDecoder(ToyDecoder())
    image = make_image(n=6)
    tracked.extend([(1,), make_image(n=4)])
    rest, _ = tracked.rewind_to_common([(1,), image, (2,)])
    assert rest == [image, (2,)]


def test_a_decoder_that_already_holds_something_is_emptied():
    decoder = ToyDecoder()
    decoder.extend([(1, 2)])
    assert TrackedDecoder(decoder).length == 0


def test_what_the_decoder_lost_is_not_counted_on():
    decoder = ToyDecoder()
    tracked = TrackedDecoder(decoder)
    tracked.extend([(1, 2, 3)])
    decoder.rewind(1)
    assert tracked.rewind_to_common([(1, 2, 3, 4)]) == ([(2, 3, 4)], 1)


class Interrupted(ToyDecoder):
    """Ctrl-C arrives once, before or after the positions were cached."""

    def __init__(self, at, after_caching):
        super().__init__()
        self._at = at
        self._after_caching = after_caching

    def extend(self, segments):
        self._at -= 1
        if self._at == 0 and not self._after_caching:
            raise KeyboardInterrupt
        logits = super().extend(segments)
        if self._at == 0:
            raise KeyboardInterrupt
        return logits


@pytest.mark.parametrize("after_caching", [False, True])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_after_an_interruption_the_record_is_still_true(at, after_caching):
    prompt = [(1, 2), make_image(), (3,)]
    tracked = TrackedDecoder(Interrupted(at, after_caching))
    with pytest.raises(KeyboardInterrupt):
        run(tracked, prompt)
    rest, _ = tracked.rewind_to_common(prompt)
    assert run(tracked, rest) == answer_anew(prompt)


def test_a_long_prompt_is_cut_where_the_decoder_cuts_it_itself():
    image = ImageTokens(np.arange(12, dtype=np.float32).reshape(6, 2), "cat")
    whole = [(1, 2, 3), image, (4, 5, 6, 7, 8)]
    for n_most in range(1, 16):
        pieces = cut(whole, n_most)
        assert [count_positions(each) for each in pieces[:-1]] == [n_most] * (len(pieces) - 1)
        keys = [key for piece in pieces for key in to_position_keys(piece)]
        assert keys == to_position_keys(whole)
        rows = [s.embeddings for p in pieces for s in p if isinstance(s, ImageTokens)]
        assert np.array_equal(np.concatenate(rows), image.embeddings)
