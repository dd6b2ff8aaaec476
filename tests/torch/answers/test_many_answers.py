"""Answers beside others, by the real operators: the same bits whoever the neighbours are."""

from functools import partial

import numpy as np
import pytest
import torch

from tests.demo import DEMO
from tests.torch.one_slot import make_steps
from tests.torch.weights.random_weights import make_read
from tinyv_cli.answers.generate import ImageTokens
from tinyv_cli.answers.scheduler import Request, Scheduler
from tinyv_cli.backends.backend import BackendOptions
from tinyv_cli.backends.cuda.torch_device import TorchDevice
from tinyv_cli.backends.opening import open_backend
from tinyv_cli.engine import Demand, find_variant, plan_engine
from tinyv_cli.model.decoder import TorchDecoder
from tinyv_cli.model.tinygptv import load_model
from tinyv_cli.pictures.image import read_picture, to_pixels
from tinyv_cli.session import AnswerOptions
from tinyv_cli.spec import make_tiny_spec
from tinyv_cli.variants.manifest import read_variant

PICTURES = ("breakfast", "car-and-tree", "cat", "three-apples")
WORDS = (
    "[vqa] what is this?",
    "[caption] describe it",
    "how many things are there?",
    "[refer] the apple",
    "which colour has the background?",
    "[detection] cat",
)
QUESTIONS = [(picture, question) for picture in PICTURES for question in WORDS]


def make_ids(n, seed):
    return tuple(np.random.default_rng(seed).integers(0, 256, n).tolist())


@pytest.fixture(scope="module")
def variant():
    return read_variant(DEMO / "variant")


def open_slots(variant, n_slots, context_length=96):
    options = BackendOptions(threads=2, context_length=context_length, n_slots=n_slots)
    return open_backend(variant, options).slots


def test_logits_do_not_depend_on_the_other_slots(variant):
    slots = open_slots(variant, 8)
    alone = open_slots(variant, 1)
    prompts = [make_ids(5 + 3 * n, n) for n in range(8)]
    steps = [make_ids(4, 100 + n) for n in range(8)]
    for n, prompt in enumerate(prompts):
        slots.extend(n, [prompt])
    # Of some slots only, in any order, so that rows move; three slots get a fourth, for a pair.
    turns = [(0, 1, 2, 3, 4, 5, 6, 7), (7, 2, 5), (7, 2), (6, 7), (0, 3, 1, 4, 6), (5, 0, 3), (1,)]
    taken = [0] * 8
    found = {n: [] for n in range(8)}
    for turn in turns:
        tokens = {n: steps[n][taken[n]] for n in turn}
        for n, logits in zip(tokens, slots.step(tokens), strict=True):
            found[n].append(logits)
            taken[n] += 1
    for n, prompt in enumerate(prompts):
        alone.rewind(0, 0)
        alone.extend(0, [prompt])
        expected = [alone.step({0: token})[0] for token in steps[n][: taken[n]]]
        assert np.array_equal(found[n], expected), n


def test_a_slot_that_has_no_turn_keeps_what_it_holds_to_its_last_position(variant):
    slots, alone = open_slots(variant, 4, 40), open_slots(variant, 1, 40)
    for each, slot in ((slots, 1), (alone, 0)):
        each.extend(slot, [make_ids(38, 1)])
    for n in (0, 2):
        slots.extend(n, [make_ids(3, n)])
        slots.step({n: 5})
    slots.copy(1, 3, 20)
    expected = alone.step({0: 9})[0]
    assert np.array_equal(slots.step({1: 9})[0], expected)
    alone.rewind(0, 20)
    alone.step({0: 7})
    slots.step({0: 4, 3: 7})
    assert np.array_equal(slots.step({3: 8, 2: 1})[0], alone.step({0: 8})[0])


class Desk:
    """The miniature with some slots, asked the same questions in any order."""

    def __init__(self, opened, image_px):
        self.opened = opened
        n_slots = len(opened.slots.decoders)
        self.sessions = [opened.start_session(slot) for slot in range(n_slots)]
        self.images = {}
        for name in PICTURES:
            pixels = to_pixels(read_picture(DEMO / "examples" / f"{name}.png"), image_px)
            self.images[name] = ImageTokens(opened.backend.encoder.encode(pixels)[0], name)

    def begin(self, number, slot):
        picture, question = QUESTIONS[number]
        self.sessions[slot].show_images(self.images[picture])
        return self.sessions[slot].ask(question, AnswerOptions(24))

    def answer(self, order):
        scheduler = Scheduler(self.opened.slots)
        requests = (Request(n, partial(self.begin, n)) for n in order)
        return {each.identity: each.answer.token_ids for each in scheduler.run(requests)}


@pytest.fixture(scope="module")
def answers():
    """By answers at once and order: number → tokens."""
    told = {}
    for n_slots in (1, 2, 5, 8):
        engine = plan_engine(
            find_variant(str(DEMO / "variant")),
            BackendOptions("cpu", 2),
            Demand(200, n_slots=n_slots),
            lambda _: None,
        )
        with engine.open() as opened:
            desk = Desk(opened, engine.image_px)
            for seed in range(2):
                order = np.random.default_rng(seed).permutation(len(QUESTIONS)).tolist()
                told[n_slots, seed] = desk.answer(order)
            told[n_slots, "resumed"] = desk.answer(range(7)) | desk.answer(range(7, len(QUESTIONS)))
    return told


def test_answers_are_the_same_however_many_there_are_at_once_and_in_any_order(answers):
    expected = answers[1, 0]
    assert len(set(expected.values())) > len(WORDS), "they differ from one another"
    assert all(each == expected for each in answers.values())


@pytest.mark.parametrize("first_span", [8, 64])
def test_a_cards_steps_of_several_slots_are_those_of_one(first_span):
    spec = make_tiny_spec(3)
    language = load_model(spec, make_read(spec)).language
    steps = make_steps(
        language, 64, TorchDevice("cpu"), n_slots=3, use_graphs=False, first_span=first_span
    )
    plain = [TorchDecoder(language, 64) for _ in range(3)]
    for n, decoder in enumerate(plain):
        prompt = [make_ids(4 + 9 * n, n)]
        assert np.allclose(steps.extend(n, prompt), decoder.extend(prompt), atol=1e-5)
    for turn in ((0, 1, 2), (2, 0), (1,), (2, 1, 0)):
        tokens = {n: 11 * n + len(turn) for n in turn}
        for logits, (n, token) in zip(steps.step(tokens), tokens.items(), strict=True):
            expected = plain[n].extend([(token,)])
            assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
    assert list(steps.lengths) == [each.length for each in plain]
    steps.copy(2, 0, 10)
    plain[2].rewind(10)
    assert torch.allclose(
        torch.tensor(steps.step({0: 3})[0]), torch.tensor(plain[2].extend([(3,)])), atol=1e-4
    )


def test_a_cards_logits_do_not_depend_on_who_else_has_a_turn():
    spec = make_tiny_spec(3)
    language = load_model(spec, make_read(spec)).language
    found = []
    for neighbours in ({}, {1: 5}, {1: 5, 2: 9}):
        steps = make_steps(language, 64, TorchDevice("cpu"), n_slots=3, use_graphs=False)
        for n in range(3):
            steps.extend(n, [make_ids(6, n)])
        found.append(steps.step({0: 7, **neighbours})[0])
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
