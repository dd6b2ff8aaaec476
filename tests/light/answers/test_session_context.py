"""A conversation that outgrows the context: what is left out, and what is said of it."""

import pytest

from tests.light.answers.test_session import Conversation, make_small_conversation
from tests.light.toy_tokenizer import make_tokenizer
from tinyv_cli.errors import InputError
from tinyv_cli.prompts.prompt import Turn


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def list_kept(prompt):
    return [i for i in range(9) if f"q{i}###" in prompt]


def test_a_full_context_loses_the_oldest_text_turns_and_keeps_the_picture(tokenizer):
    n_all = make_small_conversation(tokenizer, 2048, 5).ask("q8", max_new_tokens=1)
    n_turn = len(tokenizer.encode("###Human: q1###Assistant: a1"))
    room = n_all.usage.prompt_tokens + 20 - n_turn  # one turn less than all
    conversation = make_small_conversation(tokenizer, room, 5)
    answer = conversation.ask("q8", max_new_tokens=20)
    assert list_kept(answer.prompt) == [0, 2, 3, 4, 8]
    assert "<ImageHere></Img> q0###" in answer.prompt
    assert len(conversation.notes) == 1
    assert "the oldest question and its answer are left out" in conversation.notes[0]
    assert len(conversation.session.turns) == 6
    again = conversation.ask("q7", max_new_tokens=20)
    assert list_kept(again.prompt)[0] == 0
    assert again.usage.prompt_tokens + 20 <= room
    assert len(conversation.notes) == 2


def test_what_was_left_out_is_told_once(tokenizer):
    conversation = make_small_conversation(tokenizer, 120, 5)
    conversation.ask("q8", max_new_tokens=1)
    n_notes = len(conversation.notes)
    assert n_notes == 1
    n_left_out = conversation.session._n_left_out
    conversation.session._turns.pop()
    conversation.ask("q8", max_new_tokens=1)
    assert (len(conversation.notes), conversation.session._n_left_out) == (1, n_left_out)


def test_turns_that_fit_with_their_answer_are_all_kept(tokenizer):
    n_all = make_small_conversation(tokenizer, 2048, 5).ask("q8", max_new_tokens=1)
    conversation = make_small_conversation(tokenizer, n_all.usage.prompt_tokens + 20, 5)
    assert list_kept(conversation.ask("q8", max_new_tokens=20).prompt) == [0, 1, 2, 3, 4, 8]
    assert conversation.notes == []


def test_without_a_picture_the_first_turn_can_go_too(tokenizer):
    conversation = make_small_conversation(tokenizer, 60, 3, picture=None)
    assert list_kept(conversation.ask("q8", max_new_tokens=30).prompt) == [8]
    assert "3 questions and their answers" in conversation.notes[0]


@pytest.mark.parametrize("n_free", [0, 2])
def test_an_answer_ends_with_the_context(tokenizer, n_free):
    n = Conversation(tokenizer).ask(max_new_tokens=1).usage.prompt_tokens
    conversation = make_small_conversation(tokenizer, n + n_free, 0)
    answer = conversation.ask(max_new_tokens=50)
    assert (len(answer.token_ids), answer.finish_reason) == (n_free + 1, "length")


def test_a_prompt_that_cannot_fit_is_refused_with_figures(tokenizer):
    conversation = make_small_conversation(tokenizer, 60, 3)
    conversation.session._turns[0] = Turn("q" * 10, "a" * 10)
    with pytest.raises(InputError) as caught:
        conversation.ask("why?" * 20, max_new_tokens=9)
    after = f"</Img> {'q' * 10}###Assistant: {'a' * 10}###Human: {'why?' * 20}###Assistant: "
    n = len(tokenizer.encode("###Human: <Img>")) + 4 + len(tokenizer.encode(after))
    assert caught.value.problem == f"the prompt needs {n} positions, the context has 60"
    assert f"tinyv ask --ctx-size {n + 9}" in caught.value.hint
    assert conversation.notes == []
    assert len(conversation.session.turns) == 3
