"""Many questions over toy decoders: each answer is what it would be alone."""

import itertools
from functools import partial

import numpy as np
import pytest

from tests.light.toy_decoder import ToyDecoder, ToyEncoder, ToySlots
from tests.light.toy_tokenizer import make_tokenizer
from tinyv_cli.answers.constrained import make_choice_grammar, make_schema_grammar
from tinyv_cli.answers.generate import PIECE_POSITIONS, ImageTokens, divide
from tinyv_cli.answers.sampling import SamplingOptions
from tinyv_cli.answers.scheduler import Request, Scheduler
from tinyv_cli.answers.slots import Slots, SlotView
from tinyv_cli.errors import DeviceError, InputError
from tinyv_cli.prompts.prompt import TEMPLATES
from tinyv_cli.session import AnswerOptions, Session

QUESTIONS = [f"what is number {i}?" * (1 + i % 3) for i in range(12)]
IMAGES = [ImageTokens(np.full((4, 2), i, np.float32), f"picture {i}") for i in range(3)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


class Desk:
    """A scheduler over toys, with a session for each slot."""

    def __init__(self, tokenizer, n_slots, decoder=ToyDecoder):
        self.toys = ToySlots(*(decoder(tokenizer.vocab_size) for _ in range(n_slots)))
        self.slots = Slots(self.toys, are_shared=True)
        self.scheduler = Scheduler(self.slots)
        self.sessions = [
            Session(ToyEncoder(), each, tokenizer, TEMPLATES["human"], notify=pytest.fail)
            for each in self.slots.decoders
        ]

    def begin(self, number, options, slot):
        session = self.sessions[slot]
        session.show_images(IMAGES[number % len(IMAGES)])
        return session.ask(QUESTIONS[number], options)

    def request(self, number, **options):
        options = {"max_new_tokens": 6 + 5 * (number % 4), **options}
        return Request(number, partial(self.begin, number, AnswerOptions(**options)))

    def answer(self, requests):
        return list(self.scheduler.run(iter(requests)))


def tell(finished):
    """Number → tokens and reason."""
    return {each.identity: (each.answer.token_ids, each.answer.finish_reason) for each in finished}


@pytest.fixture(scope="module")
def alone(tokenizer):
    desk = Desk(tokenizer, 1)
    return tell(desk.answer(desk.request(n) for n in range(len(QUESTIONS))))


@pytest.mark.parametrize("n_slots", [2, 5, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_answer_is_the_same_beside_any_neighbours_in_any_order(tokenizer, alone, n_slots, seed):
    desk = Desk(tokenizer, n_slots)
    order = np.random.default_rng(seed).permutation(len(QUESTIONS)).tolist()
    assert tell(desk.answer(map(desk.request, order))) == alone
    assert max(map(len, desk.toys.steps)) > n_slots // 2


def test_short_answers_do_not_wait_for_a_long_one(tokenizer):
    desk = Desk(tokenizer, 2)
    requests = [desk.request(0, max_new_tokens=60)]
    requests += [desk.request(n, max_new_tokens=3) for n in range(1, 8)]
    assert desk.answer(requests)[-1].identity == 0


def test_what_another_slot_holds_is_copied_from_there(tokenizer):
    desk, one = Desk(tokenizer, 4), Desk(tokenizer, 1)
    same_picture = [0, 3, 6, 9]
    for each in (desk, one):
        each.answer(each.request(n) for n in same_picture)
    computed = [sum(toy.n_computed for toy in each.toys.decoders) for each in (desk, one)]
    assert computed[0] <= computed[1] + 4, "at most what the first prompts did not wait for"


def test_a_prompt_is_cut_the_same_way_whatever_is_held_already():
    text = tuple(range(2 * PIECE_POSITIONS + 3))
    whole = divide([(1, 2), IMAGES[0], text])
    assert [sum(map(len, piece)) for piece in whole] == [2, 4, PIECE_POSITIONS, PIECE_POSITIONS, 3]
    assert divide([text]) == whole[2:]


def fail_at_once(_slot):
    raise InputError("the prompt is too long", "ask a shorter one")


@pytest.mark.parametrize("n_slots", [3, 8])
def test_one_that_fails_or_is_cancelled_takes_no_other_with_it(tokenizer, alone, n_slots):
    desk = Desk(tokenizer, n_slots)
    schema = '{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}'
    grammar = make_schema_grammar(tokenizer, schema)
    others = [n for n in range(8) if n not in (2, 5)]
    requests = [desk.request(n) for n in others]
    requests.insert(1, Request("broken picture", fail_at_once))
    requests.insert(2, desk.request(2, grammar=grammar, max_new_tokens=2))
    requests.insert(3, desk.request(5, max_new_tokens=10**3))
    finished = []
    for each in desk.scheduler.run(iter(requests)):
        finished.append(each)
        desk.scheduler.cancel(5)
    failed = {each.identity: each.error.problem for each in finished if each.error}
    assert set(failed) == {"broken picture", 2}
    assert "takes" in failed[2]
    good = [each for each in finished if not each.error]
    assert tell(good) == {n: alone[n] for n in others}
    assert desk.scheduler.is_idle


def test_each_has_its_own_sampling_seed_penalty_stop_text_and_grammar(tokenizer):
    grammar = make_choice_grammar(tokenizer, ["yes", "no", "perhaps"])
    plans = [
        {"sampling": SamplingOptions(temperature=2.0, seed=4)},
        {"sampling": SamplingOptions(temperature=2.0, seed=5)},
        {"sampling": SamplingOptions(repetition_penalty=1.3)},
        {"stop": ("e", "a", "t")},
        {"grammar": grammar},
    ]
    told = []
    for n_slots in (1, 5):
        desk = Desk(tokenizer, n_slots)
        requests = (desk.request(n, **plan) for n, plan in enumerate(plans))
        told.append(tell(desk.answer(requests)))
    assert told[0] == told[1]
    assert tokenizer.decode(told[0][4][0]).strip() in ("yes", "no", "perhaps")


def test_a_request_that_is_not_ready_holds_nobody_up(tokenizer, alone):
    desk = Desk(tokenizer, 4)
    ready = itertools.chain.from_iterable([None, None, desk.request(n)] for n in range(6))
    assert tell(desk.answer(ready)) == {n: alone[n] for n in range(6)}


def test_a_device_that_fails_ends_them_all(tokenizer):
    class Failing(ToyDecoder):
        def extend(self, segments):
            if self.length > 30:
                raise DeviceError("memory does not suffice", "close other programs")
            return super().extend(segments)

    desk = Desk(tokenizer, 3, Failing)
    with pytest.raises(DeviceError, match="suffice"):
        desk.answer(desk.request(n) for n in range(5))
    assert desk.scheduler.is_idle


def test_a_token_that_was_computed_ahead_and_does_not_come_is_forgotten():
    toys = ToySlots(ToyDecoder(), ToyDecoder())
    slots = Slots(toys, are_shared=True)
    first = slots.decoders[0]
    first.extend([(1, 2, 3)])
    slots.compute_ahead({0: 7})
    assert first.length == 3
    other = ToyDecoder()
    other.extend([(1, 2, 3)])
    assert np.array_equal(first.extend([(8,)]), other.extend([(8,)]))
    assert toys.decoders[0].held == [1, 2, 3, 8]


def test_a_view_asks_the_decoder_once_for_what_was_computed_ahead():
    toys = ToySlots(ToyDecoder())
    slots = Slots(toys, are_shared=True)
    slots.decoders[0].extend([(1, 2)])
    slots.compute_ahead({0: 9})
    n_computed = toys.decoders[0].n_computed
    slots.decoders[0].extend([(9,)])
    assert toys.decoders[0].n_computed == n_computed
    assert SlotView(toys).length == 3


def test_reciting_an_answer_tells_its_logits_and_leaves_the_conversation_alone(tokenizer):
    decoder = ToyDecoder(tokenizer.vocab_size)
    session = Session(ToyEncoder(), decoder, tokenizer, TEMPLATES["human"], notify=pytest.fail)
    session.show_images(IMAGES[0])
    session.ask("first?", AnswerOptions(3)).finish()
    turns = session.turns
    rows = []
    reply = session.recite("second?", (4, 5), rows.append)
    assert reply.finish().token_ids[:2] == (4, 5)
    assert session.turns == turns
    held = decoder.held
    fresh = ToyDecoder(tokenizer.vocab_size)
    fresh.held = held[:-2]
    for row, token in zip(rows, (4, 5, None), strict=True):
        assert (row == fresh.compute_logits()).all()
        fresh.held.append(token)
    assert held[-2:] == [4, 5], "the last token is told of and not appended"
