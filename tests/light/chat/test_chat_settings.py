import pytest

from tinyv_cli.chat.settings import (
    NAMES,
    change_settings,
    format_settings,
    list_settings,
    restore_settings,
)
from tinyv_cli.errors import UsageError
from tinyv_cli.session import AnswerOptions

OPTIONS = AnswerOptions()


def test_every_setting_can_be_changed_and_restored():
    words = "max-tokens 9 temp 0.5 top-p 0.9 top-k 40 min-p 0.1 repeat-penalty 1.2 seed 7"
    words += " stop 'two words' ="
    changed = change_settings(OPTIONS, words)
    expected = {
        "max-tokens": 9,
        "temp": 0.5,
        "top-p": 0.9,
        "top-k": 40,
        "min-p": 0.1,
        "repeat-penalty": 1.2,
        "seed": 7,
        "stop": ["two words", "="],
    }
    assert list_settings(changed) == expected
    assert tuple(expected) == NAMES
    assert restore_settings(OPTIONS, expected) == changed
    assert restore_settings(changed, list_settings(OPTIONS)) == OPTIONS


@pytest.mark.parametrize("words", ["temp=0.5", "--temp 0.5", "temp = 0.5"])
def test_a_setting_can_be_typed_as_elsewhere(words):
    assert change_settings(OPTIONS, words).sampling.temperature == 0.5


def test_a_seed_can_be_taken_away():
    seeded = change_settings(OPTIONS, "seed 4")
    assert "seed            4" in format_settings(list_settings(seeded))
    assert change_settings(seeded, "seed off") == OPTIONS
    assert "seed            off" in format_settings(list_settings(OPTIONS))


@pytest.mark.parametrize(
    ("words", "stop"),
    [
        ("stop .", (".",)),
        ("stop=.", (".",)),
        ("--stop 'temp 1' \"it's\" stop", ("temp 1", "it's", "stop")),
        ("stop off", ()),
    ],
)
def test_all_behind_stop_are_texts_that_end_an_answer(words, stop):
    before = change_settings(OPTIONS, "stop x")
    changed = change_settings(before, f"top-p 0.5 {words}")
    assert (changed.stop, changed.sampling.top_p) == (stop, 0.5)


def test_stop_is_shown_as_it_is_typed():
    shown = format_settings(list_settings(change_settings(OPTIONS, "stop 'two words' .")))
    assert shown.endswith("stop            'two words' .")
    assert format_settings(list_settings(OPTIONS)).endswith("stop            off")


@pytest.mark.parametrize("value", [[1], [""], "x", {"a": 1}])
def test_a_saved_stop_that_is_no_list_of_texts_is_refused(value):
    with pytest.raises(UsageError, match="is no list of texts"):
        restore_settings(OPTIONS, {"stop": value})


@pytest.mark.parametrize(
    ("words", "problem", "hint"),
    [
        ("tmp 1", "there is no setting 'tmp'", "did you mean `/set temp`?"),
        ("colour 1", "there is no setting 'colour'", "use one of max-tokens, temp"),
        ("temp", "temp lacks its value", "`/set temp NUMBER`"),
        ("stop", "stop lacks its value", "`/set stop TEXT`"),
        ("stop 'x", "'x has a quote that does not end", "give texts in quotes"),
        ("stop ''", "'['']' is no list of texts that end an answer", "`/set stop TEXT`"),
        ("temp hot", "'hot' is no value for temp", "give a number: `/set temp NUMBER`"),
        ("top-k 1.5", "'1.5' is no value for top-k", "give a whole number: `/set top-k"),
        ("seed x", "'x' is no value for seed", "`/set seed NUMBER`, or off"),
        ("temp -1", "temp is -1.0", "use a number 0 or more: `/set temp NUMBER`"),
        ("temp nan", "temp is nan", "0 or more"),
        ("max-tokens 0", "max-tokens is 0", "`/set max-tokens 256`"),
    ],
)
def test_a_wrong_setting_is_told_with_the_way_out(words, problem, hint):
    with pytest.raises(UsageError) as caught:
        change_settings(OPTIONS, f"top-p 0.5 {words}")
    assert caught.value.problem == problem
    assert hint in caught.value.hint
