"""The miniature answers in the forms asked for; `tests.constrained_answers` does it 500 times."""

import pytest

from tests.constrained_answers import CHOICES, SCHEMAS, Miniature, list_forms


@pytest.fixture(scope="module")
def miniature():
    opened = Miniature()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def forms(miniature):
    return {name: (grammar, holds) for name, grammar, holds in list_forms(miniature.tokenizer)}


@pytest.mark.parametrize("name", [*CHOICES, *SCHEMAS])
@pytest.mark.parametrize("max_new_tokens", [30, 60])
def test_every_answer_has_its_form(miniature, forms, name, max_new_tokens):
    grammar, holds = forms[name]
    for i in range(10):
        told = miniature.answer(i, grammar, max_new_tokens)
        assert holds(told.text), told
        assert told.n_tokens <= max_new_tokens


def test_what_is_in_the_picture_is_chosen(miniature, forms):
    grammar, _ = forms["things"]
    assert miniature.answer(10, grammar).text == "cat"  # the third picture, the first question
