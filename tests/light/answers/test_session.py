import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.golden import CASES, GOLDEN, needs_golden
from tests.light.toy_decoder import ScriptedDecoder, ToyDecoder, ToyEncoder, ToyRuntime
from tests.light.toy_tokenizer import make_tokenizer
from tinyv_cli.answers.sampling import SamplingOptions
from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.errors import InputError, UsageError
from tinyv_cli.pictures.image import hash_pixels, read_picture
from tinyv_cli.prompts.prompt import TEMPLATES, Turn
from tinyv_cli.session import AnswerOptions, Session

RED = Image.new("RGB", (20, 10), "red")
BLUE = Image.new("RGB", (20, 10), "blue")
END = 262  # the toy tokenizer's <|endoftext|>
CAT = 260


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


class Conversation:
    """A session over a toy, with what it notified."""

    def __init__(self, tokenizer, decoder=None, picture=RED, template="human"):
        self.runtime = ToyRuntime(decoder or ToyDecoder(tokenizer.vocab_size))
        self.notes = []
        encoder, decoder = self.runtime.encoder, self.runtime.decoder
        asked = TEMPLATES[template]
        self.session = Session(encoder, decoder, tokenizer, asked, notify=self.notes.append)
        if picture is not None:
            self.session.show(picture, 28)

    def ask(self, question="why?", **options):
        return self.session.ask(question, AnswerOptions(**options)).finish()


def say(tokenizer, *parts):
    """A scripted decoder whose answers are these texts (or ids), each part one answer."""
    script = []
    for part in parts:
        script += tokenizer.encode(part) if isinstance(part, str) else part
    return ScriptedDecoder(script)


def one_byte_each(text):
    return [*text.encode()]


def make_small_conversation(tokenizer, context_length, n_turns, picture=RED):
    decoder = ToyDecoder(tokenizer.vocab_size, context_length)
    conversation = Conversation(tokenizer, decoder, picture)
    conversation.session._turns = [Turn(f"q{i}", f"a{i}") for i in range(n_turns)]
    return conversation


@needs_golden
@pytest.mark.parametrize("case", CASES)
def test_both_golden_turns_send_the_published_prompts(case):
    expected = json.loads((GOLDEN / case / "expected.json").read_text())
    script = itertools.chain(*(turn["greedy_ids"] for turn in expected["turns"]))
    decoder = ScriptedDecoder(script, vocab_size=384)
    session = Session(
        ToyEncoder(32),
        decoder,
        Tokenizer(GOLDEN / case / "phi-2" / "tokenizer.json"),
        TEMPLATES[expected["template"]],
        notify=pytest.fail,
    )
    session.show(read_picture(GOLDEN / case / "image.png"), expected["image_size"])
    for turn in expected["turns"]:
        reply = session.ask(turn["question"], AnswerOptions(max_new_tokens=24))
        text = "".join(reply)
        before, after = turn["segment_ids"]
        sent = decoder.held[: len(before) + 32 + len(after)]
        assert sent[: len(before)] == before
        assert sent[len(before) + 32 :] == after
        assert reply.answer.prompt == turn["prompt"]
        assert reply.answer.text == text == turn["answer"]
        assert reply.answer.token_ids == tuple(turn["greedy_ids"])
        assert reply.answer.finish_reason == "length"


def test_an_answer_streams_and_then_tells_how_it_went(tokenizer):
    conversation = Conversation(tokenizer, say(tokenizer, " a cat  on it ", [END]))
    reply = conversation.session.ask("what is it?")
    assert "".join(reply) == "a cat  on it"
    answer = reply.answer
    assert (answer.text, answer.finish_reason) == ("a cat  on it", "stop")
    assert answer.token_ids == tuple(tokenizer.encode(" a cat  on it "))
    assert answer.prompt == "###Human: <Img><ImageHere></Img> what is it?###Assistant: "
    assert list(reply) == []


def test_usage_counts_every_position(tokenizer):
    decoder = say(tokenizer, "cat", [END], " cat", [END])
    conversation = Conversation(tokenizer, decoder, template="inst")
    first, second = conversation.ask(), conversation.ask()
    texts = first.prompt.split("<ImageHere>")
    assert first.usage.prompt_tokens == sum(len(tokenizer.encode(text)) for text in texts) + 4
    assert (first.usage.image_tokens, first.usage.reused_tokens) == (4, 0)
    assert (first.usage.completion_tokens, second.usage.completion_tokens) == (1, 1)
    assert second.usage.reused_tokens == first.usage.prompt_tokens + 1
    n_computed = first.usage.prompt_tokens + 1
    n_computed += second.usage.prompt_tokens - second.usage.reused_tokens + 1
    assert conversation.runtime.decoder.n_computed == n_computed


def test_reuse_never_changes_an_answer(tokenizer):
    one = Conversation(tokenizer)
    for question in ("what is it?", "why?", "where is the cat?", "why?"):
        answer = one.ask(question, max_new_tokens=6)
        fresh = Conversation(tokenizer)
        fresh.session._turns = list(one.session.turns[:-1])
        again = fresh.ask(question, max_new_tokens=6)
        assert again.token_ids == answer.token_ids
        assert again.usage.reused_tokens == 0
    assert answer.usage.reused_tokens > 100


def test_a_seed_repeats_an_answer(tokenizer):
    sampling = SamplingOptions(temperature=1.0, seed=4)
    answers = [Conversation(tokenizer).ask(sampling=sampling).token_ids for _ in range(2)]
    assert answers[0] == answers[1]
    other = SamplingOptions(temperature=1.0, seed=5)
    assert Conversation(tokenizer).ask(sampling=other).token_ids != answers[0]


def test_the_picture_is_encoded_once_and_only_when_asked_about(tokenizer):
    conversation = Conversation(tokenizer)
    encoder = conversation.runtime.encoder
    assert encoder.n_encoded == 0
    assert conversation.ask(max_new_tokens=2).timings.encode_s > 0
    assert conversation.ask(max_new_tokens=2).timings.encode_s == 0
    assert encoder.n_encoded == 1


def test_a_new_picture_begins_a_new_conversation(tokenizer):
    conversation = Conversation(tokenizer)
    conversation.ask(max_new_tokens=3)
    conversation.session.show(BLUE, 28)
    assert conversation.session.turns == ()
    answer = conversation.ask(max_new_tokens=3)
    assert answer == ask_anew(answer, Conversation(tokenizer, picture=BLUE))
    before_picture = tokenizer.encode(answer.prompt.split("<ImageHere>")[0])
    assert answer.usage.reused_tokens == len(before_picture)
    assert conversation.runtime.encoder.n_encoded == 2


def ask_anew(answer, conversation):
    """The answer of a fresh conversation, with the times and reuse of the other one."""
    fresh = conversation.ask(max_new_tokens=3)
    return replace(fresh, timings=answer.timings, usage=answer.usage)


def test_the_same_picture_shown_again_is_not_encoded_again(tokenizer):
    conversation = Conversation(tokenizer)
    conversation.ask(max_new_tokens=1)
    conversation.session.show(RED.copy(), 28)
    assert conversation.ask(max_new_tokens=1).usage.reused_tokens > 10
    assert conversation.runtime.encoder.n_encoded == 1


def test_a_session_without_a_picture_sends_text_only(tokenizer):
    answer = Conversation(tokenizer, picture=None).ask(max_new_tokens=2)
    assert answer.prompt == "###Human: why?###Assistant: "
    assert answer.usage.image_tokens == 0


def test_the_text_of_a_stop_mark_ends_an_answer_across_tokens(tokenizer):
    ids = one_byte_each("yes ###Human: no")
    conversation = Conversation(tokenizer, ScriptedDecoder(ids))
    reply = conversation.session.ask("why?")
    assert "".join(reply) == reply.answer.text == "yes"
    assert reply.answer.finish_reason == "stop"
    assert reply.answer.token_ids == tuple(one_byte_each("yes "))
    assert reply.answer.usage.completion_tokens == 4


def test_a_users_stop_text_ends_an_answer(tokenizer):
    ids = one_byte_each("one. Two. Three")
    answer = Conversation(tokenizer, ScriptedDecoder(ids)).ask(stop=("wo.", "Three"))
    assert (answer.text, answer.finish_reason) == ("one. T", "stop")


def test_a_token_that_holds_answer_and_stop_text_is_kept(tokenizer):
    answer = Conversation(tokenizer, ScriptedDecoder([97, CAT, 98, 99])).ask(stop=("tb",))
    assert answer.text == "aca"
    assert answer.token_ids == (97, CAT)


def test_half_a_stop_mark_is_text_when_the_answer_ends_there(tokenizer):
    conversation = Conversation(tokenizer, ScriptedDecoder([*one_byte_each("a #"), 35, 98]))
    reply = conversation.session.ask("why?", AnswerOptions(max_new_tokens=4))
    assert list(reply) == ["a", " ##"]
    assert reply.answer.text == "a ##"


def test_an_unfinished_character_ends_an_answer_as_a_replacement(tokenizer):
    decoder = ScriptedDecoder([97, 0xE6, 0x97, END])
    answer = Conversation(tokenizer, decoder).ask()
    assert answer.text == "a\ufffd"
    decoder = ScriptedDecoder([97, 0xE6, END])
    answer = Conversation(tokenizer, decoder).ask(stop=("\ufffd",), max_new_tokens=2)
    assert (answer.text, answer.finish_reason) == ("a", "stop")


def test_an_answer_can_be_empty(tokenizer):
    conversation = Conversation(tokenizer, say(tokenizer, " \n", [END]))
    assert conversation.ask().text == ""
    assert conversation.session.turns == (Turn("why?", ""),)


def test_history_holds_finished_answers_only(tokenizer):
    conversation = Conversation(tokenizer)
    reply = conversation.session.ask("what?", AnswerOptions(max_new_tokens=5))
    next(reply)
    assert conversation.session.turns == ()
    reply.finish()
    assert conversation.session.turns == (Turn("what?", reply.answer.text),)


def test_turns_that_are_taken_back_are_asked_anew_from_what_is_cached(tokenizer):
    one = Conversation(tokenizer)
    for question in ("what is it?", "why?"):
        one.ask(question, max_new_tokens=4)
    one.session.recall(one.session.turns[:1])
    again = one.ask("where?", max_new_tokens=4)
    other = Conversation(tokenizer)
    other.session.recall(one.session.turns[:1])
    fresh = other.ask("where?", max_new_tokens=4)
    assert (again.prompt, again.token_ids) == (fresh.prompt, fresh.token_ids)
    assert [turn.question for turn in one.session.turns] == ["what is it?", "where?"]
    assert again.usage.reused_tokens > 20
    assert one.runtime.encoder.n_encoded == 1


def test_other_turns_end_an_unheard_reply(tokenizer):
    conversation = Conversation(tokenizer)
    reply = conversation.session.ask("what?")
    next(reply)
    conversation.session.recall([Turn("why?", "so")])
    assert reply.answer.finish_reason == "interrupted"
    assert conversation.session.turns == (Turn("why?", "so"),)


def test_the_same_turns_recalled_leave_out_what_was_left_out(tokenizer):
    conversation = make_small_conversation(tokenizer, 120, 5)
    conversation.ask("q8", max_new_tokens=1)
    n_left_out = conversation.session._n_left_out
    assert n_left_out > 0
    conversation.session.recall(conversation.session.turns)
    assert conversation.session._n_left_out == n_left_out
    conversation.session.recall(conversation.session.turns[:-1])
    assert conversation.session._n_left_out == 0


def test_a_picture_looked_at_is_encoded_before_it_is_asked_about(tokenizer):
    conversation = Conversation(tokenizer)
    conversation.session.look()
    assert conversation.runtime.encoder.n_encoded == 1
    assert conversation.ask(max_new_tokens=2).timings.encode_s == 0
    assert conversation.runtime.encoder.n_encoded == 1


def test_without_a_picture_there_is_nothing_to_look_at(tokenizer):
    conversation = Conversation(tokenizer, picture=None)
    conversation.session.look()
    assert conversation.ask(max_new_tokens=2).timings.encode_s == 0
    assert conversation.runtime.encoder.n_encoded == 0


def test_an_unfinished_reply_has_no_answer_yet(tokenizer):
    reply = Conversation(tokenizer).session.ask("why?")
    with pytest.raises(RuntimeError, match="still being made"):
        _ = reply.answer


def test_a_closed_reply_is_forgotten_and_the_session_goes_on(tokenizer):
    conversation = Conversation(tokenizer)
    reply = conversation.session.ask("what is that?")
    heard = next(reply) + next(reply)
    reply.close()
    assert (reply.answer.text, reply.answer.finish_reason) == (heard, "interrupted")
    assert conversation.session.turns == ()
    answer = conversation.ask("why?", max_new_tokens=5)
    assert answer.token_ids == Conversation(tokenizer).ask("why?", max_new_tokens=5).token_ids
    assert answer.usage.reused_tokens > 0


def test_an_interrupted_answer_can_be_kept(tokenizer):
    conversation = Conversation(tokenizer)
    reply = conversation.session.ask("what?")
    heard = next(reply) + next(reply)
    reply.keep()
    reply.keep()
    assert conversation.session.turns == (Turn("what?", heard),)
    answer = conversation.ask("why?", max_new_tokens=5)
    assert f"###Assistant: {heard}###Human: why?" in answer.prompt


def test_keeping_a_finished_answer_changes_nothing(tokenizer):
    conversation = Conversation(tokenizer)
    reply = conversation.session.ask("what?", AnswerOptions(max_new_tokens=2))
    reply.finish()
    reply.keep()
    assert len(conversation.session.turns) == 1
    assert reply.answer.finish_reason == "length"


@pytest.mark.parametrize("n_said", [0, 3])
def test_ctrl_c_in_a_step_leaves_a_usable_session(tokenizer, n_said):
    script = [*one_byte_each("abc")[:n_said], KeyboardInterrupt(), *one_byte_each("yes"), END]
    conversation = Conversation(tokenizer, ScriptedDecoder(script))
    reply = conversation.session.ask("what?")
    heard = []
    with pytest.raises(KeyboardInterrupt):
        heard.extend(reply)
    answer = reply.answer
    assert (answer.text, answer.finish_reason) == ("abc"[:n_said], "interrupted")
    assert "".join(heard) == answer.text
    assert (answer.timings.first_token_s is None) == (n_said == 0)
    reply.keep()
    assert conversation.session.turns == ((Turn("what?", "abc"),) if n_said else ())
    assert conversation.ask("and?").text == "yes"


def test_ctrl_c_while_encoding_leaves_a_usable_session(tokenizer):
    conversation = Conversation(tokenizer)

    def interrupt(pixels):
        raise KeyboardInterrupt

    conversation.runtime.encoder.encode = interrupt
    with pytest.raises(KeyboardInterrupt):
        conversation.ask()
    del conversation.runtime.encoder.encode
    assert conversation.ask(max_new_tokens=2).finish_reason == "length"


def test_a_new_question_ends_an_unheard_reply(tokenizer):
    conversation = Conversation(tokenizer)
    first = conversation.session.ask("what?")
    next(first)
    second = conversation.ask("why?", max_new_tokens=4)
    assert first.answer.finish_reason == "interrupted"
    assert list(first) == []
    assert second.token_ids == Conversation(tokenizer).ask("why?", max_new_tokens=4).token_ids


def test_a_blank_question_is_refused_at_once(tokenizer):
    conversation = Conversation(tokenizer)
    with pytest.raises(InputError, match="blank"):
        conversation.session.ask(" ")


@pytest.mark.parametrize(
    ("flag", "options"),
    [
        ("--max-tokens", {"max_new_tokens": 0}),
        ("--stop", {"stop": ("a", "")}),
    ],
)
def test_an_option_out_of_range_names_its_flag(flag, options):
    with pytest.raises(UsageError, match=flag):
        AnswerOptions(**options)


def test_times_add_up(tokenizer):
    timings = Conversation(tokenizer).ask(max_new_tokens=5).timings
    assert min(timings.encode_s, timings.prefill_s, timings.decode_s) > 0
    assert timings.encode_s + timings.prefill_s <= timings.first_token_s <= timings.total_s
    assert timings.first_token_s + timings.decode_s <= timings.total_s


def test_several_pictures_stand_in_one_prompt_in_their_order(tokenizer):
    decoder = ToyDecoder(tokenizer.vocab_size)
    encoder = ToyEncoder()
    session = Session(encoder, decoder, tokenizer, TEMPLATES["human"], notify=print)
    one, other = (np.full((1, 3, 4, 4), value, np.float32) for value in (1, 2))
    session.show_pixels(one, other, one)
    answer = session.ask("what is the same?", AnswerOptions(3)).finish()
    assert answer.prompt.count("<ImageHere>") == 3
    assert answer.usage.image_tokens == 3 * 4
    pictures = [key[0] for key in decoder.held if isinstance(key, tuple)]
    assert pictures == [hash_pixels(each) for each in (one, other, one) for _ in range(4)]
    assert encoder.n_encoded == 2
    session.show_pixels(other)
    session.ask("what is it?", AnswerOptions(3)).finish()
    assert encoder.n_encoded == 2
