import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyv_cli.answers.sampling import Sampler, SamplingOptions, keep_tokens
from tinyv_cli.errors import DeviceError, ExitCode, UsageError

NINE = np.log(np.array([0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.01, 0.006, 0.004], np.float32))


def count_draws(logits, options, n=400, generated=()):
    sampler = Sampler(options)
    draws = [sampler.choose(logits, generated) for _ in range(n)]
    return np.bincount(draws, minlength=len(logits))


def find_possible(logits, **options):
    counts = count_draws(logits, SamplingOptions(temperature=1.0, seed=0, **options), n=3000)
    return set(np.flatnonzero(counts).tolist())


def compute_probabilities(logits, options, generated):
    """The plain form of transformers' processors, in float64."""
    scores = logits.astype(np.float64)
    for token in set(generated):
        penalty = options.repetition_penalty
        scores[token] *= penalty if scores[token] < 0 else 1 / penalty
    scores = scores / options.temperature
    if options.top_k:
        scores[scores < np.sort(scores)[-min(options.top_k, len(scores))]] = -np.inf
    order = np.argsort(scores, kind="stable")
    removed = softmax(scores[order]).cumsum() <= 1 - options.top_p
    removed[-1] = False
    if options.top_p < 1:
        scores[order[removed]] = -np.inf
    probabilities = softmax(scores)
    scores[probabilities < options.min_p * probabilities.max()] = -np.inf
    return softmax(scores)


def softmax(scores):
    exponentials = np.exp(scores - scores.max())
    return exponentials / exponentials.sum()


def test_without_options_the_likeliest_token_is_taken():
    logits = np.array([0.5, 3.0, -1.0, 2.9], np.float32)
    assert Sampler(SamplingOptions()).choose(logits, []) == 1
    assert Sampler(SamplingOptions(top_k=3, top_p=0.5, min_p=0.1)).choose(logits, []) == 1


def test_the_penalty_divides_positive_and_multiplies_negative_logits():
    sampler = Sampler(SamplingOptions(repetition_penalty=2.0))
    assert sampler.choose(np.array([3.0, 2.0, 1.0], np.float32), [0]) == 1
    assert sampler.choose(np.array([3.0, 1.4, 1.0], np.float32), [0]) == 0
    assert sampler.choose(np.array([-1.0, -1.5, -9.0], np.float32), [0]) == 1
    assert sampler.choose(np.array([-1.0, -2.5, -9.0], np.float32), [0]) == 0


def test_a_token_said_often_is_penalised_once():
    sampler = Sampler(SamplingOptions(repetition_penalty=2.0))
    assert sampler.choose(np.array([3.0, 1.4], np.float32), [0, 0, 0, 0]) == 0


def test_the_callers_logits_are_left_as_they_are():
    logits = NINE.copy()
    logits.flags.writeable = False
    Sampler(SamplingOptions(temperature=0.5, repetition_penalty=2.0)).choose(logits, [0, 1])
    np.testing.assert_array_equal(logits, NINE)


def test_top_k_keeps_that_many():
    assert find_possible(NINE, top_k=1) == {0}
    assert find_possible(NINE, top_k=3) == {0, 1, 2}
    assert find_possible(NINE, top_k=9) == find_possible(NINE, top_k=1000) == set(range(9))


def test_top_p_keeps_the_fewest_that_reach_the_sum():
    assert find_possible(NINE, top_p=0.39) == {0}
    assert find_possible(NINE, top_p=0.41) == {0, 1}
    assert find_possible(NINE, top_p=0.66) == {0, 1, 2}
    assert find_possible(NINE, top_p=0.0) == {0}


def test_min_p_is_a_share_of_the_likeliest():
    assert find_possible(NINE, min_p=0.2) == {0, 1, 2, 3}
    assert find_possible(NINE, min_p=1.0) == {0}


def test_top_p_counts_what_top_k_left():
    assert find_possible(NINE, top_k=3, top_p=0.8) == {0, 1}  # (0.4 + 0.25) / 0.8 = 0.81


def test_temperature_flattens_before_top_p_counts():
    assert find_possible(NINE, top_p=0.6) == {0, 1}
    sampler = SamplingOptions(temperature=10.0, top_p=0.6, seed=0)
    assert len(np.flatnonzero(count_draws(NINE, sampler))) > 4


def test_equal_scores_survive_top_p_of_zero():
    assert find_possible(np.zeros(7, np.float32), top_p=0.0) == {6}  # a stable rising sort's last


def test_draws_follow_the_probabilities():
    counts = count_draws(NINE, SamplingOptions(temperature=1.0, seed=3), n=20000)
    np.testing.assert_allclose(counts / 20000, np.exp(NINE), atol=0.012)


def test_a_seed_repeats_the_draws_and_none_does_not():
    logits = np.zeros(5000, np.float32)

    def draw(seed):
        sampler = Sampler(SamplingOptions(temperature=1.0, seed=seed))
        return [sampler.choose(logits, []) for _ in range(8)]

    assert draw(5) == draw(5)
    assert draw(5) != draw(6)
    assert draw(None) != draw(None)


options_of_any_kind = st.builds(
    SamplingOptions,
    temperature=st.floats(0.05, 3),
    top_p=st.sampled_from([1.0, 0.95, 0.9, 0.5, 0.1]),
    top_k=st.sampled_from([0, 1, 5, 50, 400, 9999]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.05, 1.5, 0.8]),
)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.floats(0.1, 12), options=options_of_any_kind)
def test_probabilities_are_those_of_the_plain_formulas(seed, spread, options):
    random = np.random.default_rng(seed)
    logits = (random.standard_normal(400) * spread).astype(np.float32)
    generated = random.integers(0, 400, 30).tolist()
    wanted = compute_probabilities(logits, options, generated)
    cumulative = wanted.cumsum()
    for point in np.linspace(0.0125, 0.9875, 40):
        token = draw_at(options, logits, generated, point)
        assert cumulative[token] - wanted[token] - 1e-4 <= point <= cumulative[token] + 1e-4


def draw_at(options, logits, generated, point):
    """Chooses with a random number that is given."""
    sampler = Sampler(options)

    class Fixed:
        def random(self):
            return point

    sampler._random = Fixed()
    return sampler.choose(logits, generated)


def make_logits(shape, n, random):
    """Logits (n,) float32; where tokens are forbidden few are left, as a schema leaves them."""
    normal = random.standard_normal(n)
    if shape in ("peaked", "forbidden"):
        normal[random.integers(0, n, 9)] += np.linspace(4, 9, 9)
    logits = (normal * {"flat": 1e-3, "equal": 0, "deep": 25}.get(shape, 2)).astype(np.float32)
    if shape == "ties":
        logits = np.round(logits)
    if shape == "forbidden":
        allowed = random.random(n) < 0.02
        allowed[random.integers(n)] = True
        logits[~allowed] = -np.inf
    return logits


def weigh_plainly(scores, options):
    """Each step over all tokens, by whole sorts and sums; weight 0 is for what is dropped."""
    kept = np.full(len(scores), True)
    if options.top_k:
        kept = scores >= np.sort(scores)[-min(options.top_k, len(scores))]
    weights = np.where(kept, np.exp(scores), np.float32(0))
    if options.top_p < 1:
        probabilities = (weights / weights.sum(dtype=np.float64)).astype(np.float32)
        order = np.argsort(probabilities, kind="stable")
        mass_above = probabilities[order][::-1].cumsum(dtype=np.float64)[::-1]
        removed = 1 - np.append(mass_above[1:], 0) <= 1 - options.top_p
        removed[-1] = False
        weights[order[removed]] = 0
    weights[weights < np.float32(options.min_p)] = 0
    return weights


PLAIN_OPTIONS = [
    SamplingOptions(temperature=1.0),
    SamplingOptions(temperature=100.0),
    SamplingOptions(temperature=0.1),
    SamplingOptions(temperature=0.7, top_p=0.9),
    SamplingOptions(temperature=1.5, top_p=0.999),
    SamplingOptions(temperature=1.0, top_p=0.0),
    SamplingOptions(temperature=1.0, top_k=1),
    SamplingOptions(temperature=1.0, top_k=3),
    SamplingOptions(temperature=1.0, top_k=40),
    SamplingOptions(temperature=1.0, top_k=3000),
    SamplingOptions(temperature=1.0, top_k=60_000),
    SamplingOptions(temperature=1.0, min_p=0.05),
    SamplingOptions(temperature=100.0, min_p=1.0),
    SamplingOptions(temperature=0.8, top_p=0.95, top_k=50, min_p=0.02),
]
SHAPES = ("peaked", "flat", "equal", "ties", "deep", "forbidden")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 2, 50, 256, 257, 1500, 51_200])
def test_what_is_kept_and_drawn_is_what_whole_sorts_and_sums_give(shape, n):
    random = np.random.default_rng([n, SHAPES.index(shape)])
    for options in PLAIN_OPTIONS:
        logits = make_logits(shape, n, random)
        scores = (logits - logits.max()) / np.float32(options.temperature)
        wanted = weigh_plainly(scores, options)
        ids, weights = keep_tokens(scores.copy(), options)
        ids = np.arange(n) if ids is None else ids
        can_be_drawn = (wanted > 0) & (scores >= -60)  # the rest is less than a draw's least step
        np.testing.assert_array_equal(ids, np.flatnonzero(can_be_drawn))
        np.testing.assert_array_equal(weights, wanted[ids])
        cumulative = wanted.cumsum(dtype=np.float64)
        for point in random.random(12):
            token = cumulative.searchsorted(point * cumulative[-1], side="right")
            assert draw_at(options, logits, [], point) == token


@pytest.mark.parametrize("n", [3, 256, 600, 51_200])
@pytest.mark.parametrize("temperature", [0.01, 1.0, 100.0])
def test_a_forbidden_token_is_never_drawn(n, temperature):
    options = SamplingOptions(temperature=temperature)
    for allowed in ([0], [n - 1], [n // 2], [1, n - 2]):
        logits = np.full(n, -np.inf, np.float32)
        logits[allowed] = [-20, -21][: len(allowed)]
        for point in (0.0, 2**-53, 0.5, 1 - 2**-53):
            assert draw_at(options, logits, [], point) in allowed


def test_an_edge_belongs_to_the_token_after_it():
    options = SamplingOptions(temperature=1.0)
    for n in (4, 1024):
        logits = np.zeros(n, np.float32)
        tokens = [draw_at(options, logits, [], point) for point in (0.0, 0.25, 0.5, 0.75)]
        assert tokens == [0, n // 4, n // 2, 3 * n // 4]
    assert find_possible(np.zeros(4, np.float32), top_p=0.75) == {1, 2, 3}


def test_every_token_is_found_between_the_edges_of_its_interval():
    logits = np.log(np.random.default_rng(0).permutation(np.arange(1, 801)).astype(np.float32))
    cumulative = np.exp(logits - logits.max()).cumsum(dtype=np.float64)
    edges = np.concatenate([[0], cumulative / cumulative[-1]])
    options = SamplingOptions(temperature=1.0)
    for share in (1e-6, 0.5, 1 - 1e-6):
        points = edges[:-1] + share * np.diff(edges)
        tokens = [draw_at(options, logits, [], point) for point in points]
        assert tokens == list(range(800))


def test_extreme_numbers_neither_warn_nor_break():
    logits = np.array([1e30, -1e30, -np.inf, 0.0], np.float32)
    for temperature in (1e-300, 1e-6, 1e-4, 1.0, 1e30):
        options = SamplingOptions(temperature=temperature, top_p=0.9, min_p=0.1, top_k=3, seed=0)
        assert Sampler(options).choose(logits, [2]) in (0, 1, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_reported(bad, temperature):
    logits = np.array([0.0, bad, 1.0], np.float32)
    with pytest.raises(DeviceError, match="instead of a number"):
        Sampler(SamplingOptions(temperature=temperature)).choose(logits, [])


@pytest.mark.parametrize(
    ("flag", "options"),
    [
        ("--temp", {"temperature": -0.1}),
        ("--temp", {"temperature": math.nan}),
        ("--temp", {"temperature": math.inf}),
        ("--top-p", {"top_p": 1.1}),
        ("--top-p", {"top_p": -0.1}),
        ("--top-k", {"top_k": -1}),
        ("--min-p", {"min_p": 2.0}),
        ("--min-p", {"min_p": math.nan}),
        ("--repeat-penalty", {"repetition_penalty": 0.0}),
        ("--repeat-penalty", {"repetition_penalty": math.inf}),
        ("--seed", {"seed": -1}),
    ],
)
def test_a_value_out_of_range_names_its_flag(flag, options):
    with pytest.raises(UsageError) as caught:
        SamplingOptions(**options)
    assert caught.value.problem == f"{flag} is {next(iter(options.values()))}"
    assert f"`{flag} " in caught.value.hint
    assert caught.value.exit_code == ExitCode.USAGE


def test_choosing_from_phi_2s_vocabulary_takes_a_fraction_of_a_step():
    logits = (np.random.default_rng(0).standard_normal(51200) * 3).astype(np.float32)
    sampler = Sampler(SamplingOptions(0.8, 0.9, 50, 0.05, 1.05, seed=0))
    sampler.choose(logits, [1, 2, 3])
    started = time.perf_counter()
    for _ in range(20):
        sampler.choose(logits, [1, 2, 3])
    assert (time.perf_counter() - started) / 20 < 0.02  # 0.1 ms; the rest is for a busy machine
