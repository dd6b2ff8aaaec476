"""What is typed in a conversation, over a runtime that repeats its questions."""

import json

import pytest
from PIL import Image

from tests.light.chat.toy_chat import EchoDecoder
from tests.light.toy_variant import write_variant
from tinyv_cli.chat.prefetch import SessionPrefetcher
from tinyv_cli.chat.slash import COMMANDS
from tinyv_cli.chat.talk import is_open, to_question
from tinyv_cli.disk import places
from tinyv_cli.errors import DeviceError, InputError, UsageError, WeightsError


def list_errors(err):
    return [line.removeprefix("error: ") for line in err.splitlines() if line.startswith("error:")]


def test_answers_go_to_stdout_and_nothing_else_does(hold, toys):
    out, err = hold("what?", " ", "why?", "/show", "/help")
    assert out == "1:what?\n2:why?\n"
    assert list_errors(err) == []
    assert toys.events == ["open", "close"]
    assert toys.encoder.n_encoded == 1


def test_undo_takes_the_last_turn_back(hold):
    out, err = hold("what?", "why?", "/undo", "how?", "/undo", "/undo", "/undo", "so?")
    assert out == "1:what?\n2:why?\n2:how?\n1:so?\n"
    assert "note: taken back: why?\n" in err
    assert list_errors(err) == ["nothing was said yet"]


def test_retry_puts_a_new_answer_in_the_place_of_the_old_one(hold):
    out, err = hold("/retry", "what?", "why?", "/retry", "how?")
    assert out == "1:what?\n2:why?\n2:why?\n3:how?\n"
    assert list_errors(err) == ["nothing was said yet"]
    assert "the answer will be the same; `/set temp 0.7` makes others" in err


def test_retry_with_a_seed_tells_why_nothing_will_change(hold):
    _, err = hold("/set temp 0.001", "what?", "/retry", "/set seed 4", "/retry")
    assert err.count("will be the same") == 1
    assert "`/set seed off` makes others" in err


def test_clear_forgets_what_was_said_and_keeps_the_picture(hold):
    out, err = hold("what?", "/clear", "why?", "/show prompt")
    assert out == "1:what?\n1:why?\n"
    assert "note: what was said is forgotten; cat.png is still shown\n" in err
    assert "prompt:\n###Human: <Img><ImageHere></Img> why?###Assistant: " in err


def test_a_failure_leaves_the_conversation_as_it_was(hold, monkeypatch):
    def fail(decoder):
        if decoder.n_computed > 60:
            raise DeviceError("no memory", "buy some")
        return compute(decoder)

    compute = EchoDecoder.compute_logits
    monkeypatch.setattr(EchoDecoder, "compute_logits", fail)
    out, err = hold("what?", "why?", "/retry", "/undo", "/undo")
    assert out == "1:what?\n"
    assert list_errors(err) == ["no memory", "no memory", "nothing was said yet"]


def test_ctrl_c_before_the_first_word_leaves_the_conversation_as_it_was(hold, monkeypatch):
    compute = EchoDecoder.compute_logits
    steps = []

    def interrupt_second(decoder):
        steps.append(decoder.length)
        if len(steps) in {9, 10}:  # "1:what?" and its end take 8
            raise KeyboardInterrupt
        return compute(decoder)

    monkeypatch.setattr(EchoDecoder, "compute_logits", interrupt_second)
    out, err = hold("what?", "/retry", "why?", "/retry", "/undo", "/undo")
    assert out == "1:what?\n2:why?\n"
    assert err.count("note: stopped\n") == 2
    assert "taken back: why?\nnote: taken back: what?\n" in err


def test_ctrl_c_where_something_is_typed_leaves_only_when_it_comes_twice(hold, capsys):
    with pytest.raises(KeyboardInterrupt):
        hold(KeyboardInterrupt(), "what?", KeyboardInterrupt(), KeyboardInterrupt(), "why?")
    out, err = capsys.readouterr()
    assert out == "1:what?\n"
    assert err.count("note: Ctrl-C again leaves") == 2


def test_bye_leaves(hold):
    assert hold("what?", "/bye", "why?").out == "1:what?\n"


def test_another_picture_begins_a_new_conversation(hold, toys):
    out, err = hold("what?", "/image dog.png", "why?", "/image 'dog.png'", "/show settings")
    assert out == "1:what?\n1:why?\n"
    assert err.count("note: dog.png is shown; a new conversation begins\n") == 2
    assert "picture         dog.png\n" in err
    assert toys.events == ["open", "close"]


def test_a_picture_can_have_an_address(hold):
    _, err = hold("/image http://127.0.0.1:9/a.png", "/image https://x.org/a.png", offline=True)
    assert list_errors(err) == [
        "http://127.0.0.1:9/a.png is not fetched, since --offline was asked for",
        "https://x.org/a.png is not fetched, since --offline was asked for",
    ]


def test_ctrl_c_while_the_model_is_opened_can_be_retried(hold, monkeypatch):
    wait, waits = SessionPrefetcher.wait, []

    def interrupt_first(ahead):
        waits.append(ahead)
        if len(waits) == 1:
            raise KeyboardInterrupt
        return wait(ahead)

    monkeypatch.setattr(SessionPrefetcher, "wait", interrupt_first)
    out, err = hold("what?", "/retry", "/retry")
    assert out == "1:what?\n1:what?\n"
    assert err.count("note: stopped\n") == 1
    assert err.count("will be the same") == 1


def test_a_conversation_can_begin_without_a_picture(hold, toys):
    out, err = hold("what?", "/show prompt", "/image cat.png", "why?", picture=None)
    assert out == "1:what?\n1:why?\n"
    assert "bits4 answers; `/image PATH` shows a picture, /help lists" in err
    assert "prompt:\n###Human: what?###Assistant: \n" in err
    assert toys.events == ["open", "close", "open", "close"]


def test_settings_hold_for_the_next_answers(hold):
    out, err = hold("/set max-tokens 3", "what?", "/set", "/set max-tokens=20", "what?", top_k=5)
    assert out == "1:w\n2:what?\n"
    assert "note: the answer was cut after 3 tokens; `/set max-tokens 6` allows more\n" in err
    assert err.count("max-tokens      3\ntemp            0.0\n") == 2
    assert "top-k           5\n" in err


def test_show_tells_prompt_settings_and_memory(hold):
    _, err = hold("/show", "what?", "/undo", "why?", "how?", "/undo", "/show", "/show colours")
    before, _, after = err.partition("taken back")
    assert "prompt:\nnothing was said yet\n\nsettings:\nmodel           bits4\n" in before
    assert "context used" not in before
    assert "prompt:\n###Human: <Img><ImageHere></Img> why?###Assistant: \n" in after
    assert list_errors(err) == ["there is no 'colours' to show"]


def test_show_tells_how_much_of_the_context_is_used(hold):
    _, err = hold("what?", "/show memory", context_length=100)
    assert "memory:\nestimated       " in err
    n_used = int(err.partition("context used    ")[2].split()[0])
    assert f"context used    {n_used} of 100 positions" in err
    assert 20 < n_used < 60


def test_what_was_asked_for_is_shown_where_notes_are_kept_back(hold):
    assert hold("/show settings", "/undo", quiet=True).err.startswith("settings:\n")


def test_a_conversation_is_taken_up_with_picture_settings_and_turns(hold, place):
    hold("what?", "/set temp 0.5", "/save mine", "why?", "/save")
    out, err = hold("no", "/load mine", "how?", "/show settings", picture="dog.png")
    assert out == "1:no\n3:how?\n"
    assert f"2 questions and their answers from {place}/home/chats/mine.json" in err
    assert "> why?\n2:why?\n" in err
    assert f"picture         {place / 'cat.png'}\n" in err
    assert "temp            0.5\n" in err


def test_loading_about_the_picture_that_is_shown_opens_nothing_anew(hold, toys):
    hold("what?", "/save mine", "/clear", "/load mine", "why?")
    assert toys.events == ["open", "close"]
    assert toys.encoder.n_encoded == 1


def test_a_conversation_without_a_picture_is_taken_up_as_one(hold, toys):
    hold("what?", "/save mine", picture=None)
    out, err = hold("/load mine", "why?", "/show prompt")
    assert out == "2:why?\n"
    assert "<Img>" not in err
    assert "note: question and its answer from " in err


def test_it_is_told_when_picture_or_model_are_not_those_of_then(hold, place):
    hold("what?", "/save mine")
    Image.new("RGB", (8, 8), "green").save(place / "cat.png")
    _, err = hold("/load mine", picture=None)
    assert f"note: {place / 'cat.png'} is not the picture it was then\n" in err
    _, err = hold("/load mine", picture=None, model="bits8")
    assert "is not the picture" not in err
    assert "note: bits4 answered then, bits8 answers now\n" in err


def test_what_cannot_be_loaded_changes_nothing(hold, place):
    hold("what?", "/set temp 0.5", "/save mine")
    (place / "cat.png").unlink()
    out, err = hold("why?", "/load mine", "/load", "how?", "/show settings", picture="dog.png")
    assert out == "1:why?\n2:how?\n"
    assert list_errors(err) == [f"there is no file {place / 'cat.png'}", "/load lacks something"]
    assert "temp            0.0\n" in err


def test_a_conversation_of_that_name_is_not_written_over(hold):
    hold("what?", "/save mine")
    _, err = hold("/save mine", "why?", "/save", "/save mine")
    path = places.home_dir() / "chats" / "mine.json"
    assert list_errors(err) == [
        "nothing was said yet",
        "/save lacks something",
        f"{path} is there already",
    ]
    assert json.loads(path.read_text("utf-8"))["turns"][0]["question"] == "what?"


def test_a_conversation_is_exported(hold, place):
    _, err = hold("what?", "/export md talk.md", "/export json talk.json", "/export md talk.md")
    assert list_errors(err) == []
    assert "**what?**\n\n1:what?\n" in (place / "talk.md").read_text("utf-8")
    document = json.loads((place / "talk.json").read_text("utf-8"))
    assert document["turns"] == [{"question": "what?", "answer": "1:what?"}]
    _, err = hold("what?", "/export pdf x", "/export", "/export md", "/export md cat.png")
    assert list_errors(err) == [
        "there is no export as 'pdf'",
        "/export lacks something",
        "/export lacks something",
        "cat.png is there already",
    ]


def test_boxes_of_the_last_answer_are_drawn(hold, place):
    Image.new("RGB", (400, 400), "white").save(place / "white.png")
    entries = ["/draw x.png", "what?", "/draw x.png", "box", "/draw x.png", "/draw x.png"]
    out, err = hold(*entries, "/draw white.png", "/draw x.txt", picture="white.png")
    assert out == "1:what?\na cat (left: 10-50 % across, 20-60 % down)\n"
    assert "note: `/draw FILE.png` draws it\n" in err
    assert err.count("note: 1 box in x.png\n") == 2
    assert list_errors(err)[:3] == [
        *["the last answer holds no box"] * 2,
        "white.png is there already",
    ]
    assert "--draw" not in err
    drawn = Image.open(place / "x.png")
    assert drawn.getpixel((300, 300)) == (255, 255, 255)
    assert len(drawn.crop((20, 60, 220, 260)).getcolors(9999)) > 2


@pytest.mark.parametrize(
    ("typed", "problem", "hint"),
    [
        ("/imag x", "there is no command '/imag'", "did you mean `/image`?"),
        ("/qqq", "there is no command '/qqq'", "`/help` lists them"),
        ("/clear it", "/clear takes nothing, not 'it'", "type `/clear` alone"),
        ("/image", "/image lacks something", "type `/image PATH`"),
        ("/set temp", "temp lacks its value", "`/set temp NUMBER`"),
    ],
)
def test_a_mistyped_command_is_told_with_the_way_out(hold, typed, problem, hint):
    out, err = hold(typed)
    assert out == ""
    assert list_errors(err) == [problem]
    assert hint in err


def test_help_names_every_command(hold):
    err = hold("/help").err
    for command in COMMANDS.values():
        assert f"\n{command.usage} " in "\n" + err.partition("commands\n")[2]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"picture": "none.png"}, InputError),
        ({"picture": "-"}, UsageError),
        ({"model": "none"}, WeightsError),
        ({"template": "none"}, UsageError),
        ({"temperature": -1.0}, UsageError),
        ({"memory_budget_bytes": 1000}, DeviceError),
    ],
)
def test_what_cannot_go_well_is_told_before_anything_is_typed(hold, toys, arguments, error):
    with pytest.raises(error):
        hold(RuntimeError("nothing is to be read"), **arguments)
    assert toys.events == []


def test_too_little_memory_names_a_shorter_conversation(hold):
    with pytest.raises(DeviceError) as caught:
        hold(memory_budget_bytes=1000)
    assert "`-c 512`" in caught.value.hint


def test_a_damaged_variant_is_told_before_anything_is_typed(hold, place):
    (write_variant(place / "broken") / "decoder.data").write_bytes(b"codes and scaled")
    with pytest.raises(WeightsError):
        hold(RuntimeError("nothing is to be read"), model=str(place / "broken"))


@pytest.mark.parametrize(
    ("entry", "question", "more"),
    [
        (" what? ", "what?", False),
        ("/set", None, False),
        (" /set", "/set", False),
        ('"""', "", True),
        ('"""a', "a", True),
        ('"""a\n b"""', "a\n b", False),
        ('"""\na\n"""\n', "a", False),
        ('""""""', "", False),
        ('say """', 'say """', False),
    ],
)
def test_quotes_stand_around_several_lines(entry, question, more):
    assert is_open(entry) == more
    if not more:
        assert to_question(entry) == question
