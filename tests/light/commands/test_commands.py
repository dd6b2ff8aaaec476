import io
import json
import sys

import pytest

from tests.light.toy_variant import (
    ERRORS,
    LOAD_S,
    make_open_backend,
    make_script,
    write_picture,
    write_variant,
)
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.disk import places
from tinyv_cli.errors import ExitCode
from tinyv_cli.variants.manifest import read_variant


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TINYV_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def toy(tmp_path):
    write_picture(tmp_path / "cat.png")
    return add("toy")


def add(name, made_s=None, **changes):
    return write_variant(places.variants_dir() / name, made_s, **changes)


@pytest.fixture
def say(monkeypatch):
    """Makes the runtime follow a script; returns what it is asked."""

    def follow(script):
        seen = {}
        script = make_script(script) if isinstance(script, str) else script
        monkeypatch.setattr(backends, "open_backend", make_open_backend(script, seen))
        return seen

    return follow


def put_on_stdin(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_an_answer_is_one_line_on_stdout(toy, say, capsys):
    say("a [red] square")
    assert main(["ask", "cat.png", "what is it?"]) == ExitCode.OK
    assert capsys.readouterr() == ("a [red] square\n", "")


def test_the_document_holds_the_answer_and_how_it_came_about(toy, say, capsys):
    say("a red square")
    assert main(["ask", "cat.png", "what is it?", "--json"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    document = json.loads(out)
    timings = document.pop("timings")
    assert document == {
        "answer": "a red square",
        "finish_reason": "stop",
        "tokens": list(b"a red square"),
        "prompt": "###Human: <Img><ImageHere></Img> what is it?###Assistant: ",
        "template": "human",
        "model": "toy",
        "toy": False,
        "device": "toy",
        "usage": {
            "prompt_tokens": document["usage"]["prompt_tokens"],
            "image_tokens": 4,
            "completion_tokens": 12,
            "reused_tokens": 0,
        },
        "boxes": [],
    }
    assert list(timings) == ["load", "encode", "prefill", "decode", "first_token", "total"]
    assert timings.pop("load") == LOAD_S
    assert 0 < timings["prefill"] <= timings["first_token"] <= timings["total"]


def test_a_question_too_long_for_a_name_is_no_mistake(toy, say, capsys):
    say("yes")
    assert main(["ask", "dog.png", "is it? " * 1000]) == ExitCode.INPUT
    assert "there is no file dog.png" in capsys.readouterr().err


def test_a_question_before_its_picture_is_put_right(toy, say, capsys):
    say("never said")
    assert main(["ask", "what is it?", "cat.png"]) == ExitCode.INPUT
    assert capsys.readouterr() == (
        "",
        "error: there is no file what is it?\n"
        "hint:  the picture comes first: `tinyv ask cat.png 'what is it?'`\n",
    )


def test_an_answer_that_reaches_its_limit_is_said_to_be_cut(toy, say, capsys):
    say(make_script("a red square", stop=False))
    assert main(["ask", "cat.png", "what is it?", "-n", "5"]) == ExitCode.OK
    assert capsys.readouterr() == (
        "a red\n",
        "note: the answer was cut after 5 tokens; `-n 10` allows more\n",
    )


def test_an_answer_that_fills_the_context_is_said_to_be_cut(toy, say, capsys):
    say("yes")
    main(["ask", "cat.png", "what is it?", "--json"])
    n_prompt = json.loads(capsys.readouterr().out)["usage"]["prompt_tokens"]
    say(make_script("a red square", stop=False))
    assert main(["ask", "cat.png", "what is it?", "-c", str(n_prompt + 4)]) == ExitCode.OK
    note = "note: the answer was cut after 5 tokens; the context is full, see `-c`\n"
    assert capsys.readouterr() == ("a red\n", note)


def test_the_prompt_can_be_seen_before_the_answer(toy, say, capsys):
    say("a red square")
    assert main(["ask", "cat.png", "[vqa] what?", "--show-prompt"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == "a red square\n"
    assert err == "###Human: <Img><ImageHere></Img> [vqa] what?###Assistant: \n"


@pytest.mark.parametrize("question", ["###Human: a ###Assistant: b", " two  spaces ", "a\nb"])
def test_the_prompt_holds_the_question_exactly_as_typed(toy, say, capsys, question):
    say("yes")
    main(["ask", "cat.png", question, "--json"])
    prompt = json.loads(capsys.readouterr().out)["prompt"]
    assert prompt == f"###Human: <Img><ImageHere></Img> {question}###Assistant: "


def test_another_template_can_be_chosen(toy, say, capsys):
    say("yes")
    main(["ask", "cat.png", "what?", "--template", "inst", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["template"] == "inst"
    assert document["prompt"] == "<s>[INST] <Img><ImageHere></Img> what? [/INST]"


def test_a_template_that_does_not_exist_is_a_usage_error_that_lists_them(toy, say, capsys):
    say("yes")
    assert main(["ask", "cat.png", "what?", "--template", "chat"]) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert "error: there is no template 'chat'\n" in err
    assert "human-system, human, inst, train-inst" in err


def test_a_variant_with_a_template_nobody_knows_is_an_error_of_the_weights(toy, say, capsys):
    say("yes")
    add("odd", template="chat")
    assert main(["ask", "cat.png", "what?", "-m", "odd"]) == ExitCode.WEIGHTS
    assert "'chat', which variant odd asks for" in capsys.readouterr().err


def test_times_are_told_when_asked_for(toy, say, capsys):
    say("a red square")
    assert main(["ask", "cat.png", "what?", "--stats"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == "a red square\n"
    labels = [line.split("  ")[0] for line in err.splitlines()]
    assert labels == ["load", "picture", "prompt", "answer", "first token", "total", "memory"]
    assert "0.25 s" in err


def test_device_threads_and_context_reach_the_runtime(toy, say):
    seen = say("yes")
    main(["ask", "cat.png", "what?", "--device", "cpu", "-t", "1", "-c", "99"])
    options = seen["options"]
    assert (options.device, options.threads, options.context_length) == ("cpu", 1, 99)


def test_sampling_reaches_the_answer_and_a_seed_repeats_it(toy, say, capsys):
    answers = []
    for _ in range(2):
        say(make_script("abcdefgh", stop=False))
        flags = ["--temp", "9", "--seed", "5", "-n", "8", "--json"]
        assert main(["ask", "cat.png", "what?", *flags]) == ExitCode.OK
        answers.append(json.loads(capsys.readouterr().out)["tokens"])
    assert answers[0] == answers[1] != list(b"abcdefgh")


def test_the_question_can_come_from_stdin(toy, say, capsys, monkeypatch):
    for content in (b"what is it?\n", b"what is it?\r\n", b"what is it?"):
        say("yes")
        put_on_stdin(monkeypatch, content)
        assert main(["ask", "cat.png", "-", "--json"]) == ExitCode.OK
        assert "</Img> what is it?###" in json.loads(capsys.readouterr().out)["prompt"]


def test_only_the_last_newline_of_stdin_is_dropped(toy, say, capsys, monkeypatch):
    say("yes")
    put_on_stdin(monkeypatch, "  é\n\n".encode())
    main(["ask", "cat.png", "-", "--json"])
    assert "</Img>   é\n###" in json.loads(capsys.readouterr().out)["prompt"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"caf\xe9", "the question on stdin is not UTF-8 text"), (b"\n", "the question is blank")],
)
def test_a_question_on_stdin_that_is_none_is_an_error_of_input(
    toy, say, capsys, monkeypatch, content, problem
):
    seen = say("yes")
    put_on_stdin(monkeypatch, content)
    assert main(["ask", "cat.png", "-"]) == ExitCode.INPUT
    assert problem in capsys.readouterr().err
    assert seen == {}


def test_a_blank_question_is_found_before_anything_is_opened(toy, say, capsys):
    seen = say("yes")
    assert main(["ask", "cat.png", " "]) == ExitCode.INPUT
    assert "the question is blank" in capsys.readouterr().err
    assert seen == {}


def test_the_picture_can_come_from_stdin(toy, say, capsys, monkeypatch, tmp_path):
    say("a red square")
    put_on_stdin(monkeypatch, (tmp_path / "cat.png").read_bytes())
    assert main(["ask", "-", "what?"]) == ExitCode.OK
    assert capsys.readouterr().out == "a red square\n"


def test_picture_and_question_cannot_both_come_from_stdin(toy, say, capsys):
    say("yes")
    assert main(["ask", "-", "-"]) == ExitCode.USAGE
    assert "cannot both come from stdin" in capsys.readouterr().err


def test_a_picture_that_is_none_is_found_before_anything_is_opened(toy, say, capsys, tmp_path):
    seen = say("yes")
    (tmp_path / "cat.txt").write_text("a cat")
    assert main(["ask", "cat.txt", "what?"]) == ExitCode.INPUT
    assert "cat.txt is not a picture" in capsys.readouterr().err
    assert seen == {}


def test_a_damaged_variant_is_found_before_anything_is_opened(toy, say, capsys):
    seen = say("yes")
    (toy / "decoder.data").write_bytes(b"codes and scalez")
    assert main(["ask", "cat.png", "what?"]) == ExitCode.WEIGHTS
    out, err = capsys.readouterr()
    assert out == ""
    assert "decoder.data is damaged" in err
    assert seen == {}


def test_without_a_variant_the_way_to_one_is_told(say, capsys, tmp_path):
    say("yes")
    write_picture(tmp_path / "cat.png")
    assert main(["ask", "cat.png", "what?"]) == ExitCode.WEIGHTS
    assert "tinyv pull && tinyv quantize --bits 4" in capsys.readouterr().err


def test_which_of_several_variants_answers_is_told_unless_it_was_chosen(toy, say, capsys):
    add("newest", made_s=4_000_000_000)
    say("yes")
    main(["ask", "cat.png", "what?"])
    note = "note: newest answers, the newest variant; `-m NAME` takes another\n"
    assert capsys.readouterr() == ("yes\n", note)
    say("yes")
    main(["ask", "cat.png", "what?", "-m", "toy"])
    assert capsys.readouterr() == ("yes\n", "")


def test_ctrl_c_keeps_what_was_said_and_ends_its_line(toy, say, capsys):
    say([*b"a red", KeyboardInterrupt()])
    assert main(["ask", "cat.png", "what?"]) == ExitCode.INTERRUPTED
    assert capsys.readouterr() == ("a red\n", "")


def test_ctrl_c_still_gives_one_document(toy, say, capsys):
    say([*b"a red", KeyboardInterrupt()])
    assert main(["ask", "cat.png", "what?", "--json"]) == ExitCode.INTERRUPTED
    document = json.loads(capsys.readouterr().out)
    assert (document["answer"], document["finish_reason"]) == ("a red", "interrupted")


def test_a_failure_in_the_middle_ends_the_line_and_writes_no_document(toy, say, capsys):
    for flags, out in ([], "a red\n"), (["--json"], ""):
        say([*b"a red", OSError(28, "No space left on device")])
        assert main(["ask", "cat.png", "what?", *flags]) == ExitCode.DEVICE
        shown = capsys.readouterr()
        assert shown.out == out
        assert shown.err.startswith("error: the disk has no room left\n")


def test_the_list_shows_what_variants_say_of_themselves(capsys):
    add("b", bits=8, errors=None)
    add("a")
    assert main(["list"]) == ExitCode.OK
    out, err = capsys.readouterr()
    header, first, second = out.splitlines()
    assert err == ""
    assert header.split()[:5] == ["name", "size", "bits", "rounding", "divergence"]
    size = read_variant(places.variants_dir() / "a").manifest.size_bytes
    measured = ["0.0123", "97.5", "%"]
    assert first.split()[:8] == ["a", f"{size / 1000:.1f}", "kB", "4", "-", *measured]
    assert second.split()[3:7] == ["8", "-", "-", "-"]


def test_the_list_shows_damaged_variants_with_the_reason(toy, capsys):
    (add("bad") / "decoder.data").unlink()
    assert main(["list"]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("toy ")
    missing = places.variants_dir() / "bad" / "decoder.data"
    assert lines[2] == f"bad  damaged: {missing} is missing"


def test_the_list_as_a_document_holds_sound_and_damaged(toy, capsys):
    (add("bad") / "decoder.data").unlink()
    assert main(["list", "--json"]) == ExitCode.OK
    bad, good = json.loads(capsys.readouterr().out)["variants"]
    assert (bad["name"], good["name"]) == ("bad", "toy")
    assert "decoder.data is missing" in bad["damaged"]["problem"]
    assert good["damaged"] is None
    assert good["folder"] == str(toy)
    assert good["errors"] == vars(ERRORS)
    assert (good["bits"], good["stage"], good["template"]) == (4, 4, "human")


def test_an_empty_list_is_empty_and_tells_the_way_to_a_variant(capsys):
    assert main(["list"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == ""
    assert "tinyv pull && tinyv quantize --bits 4" in err
    assert main(["list", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == {"variants": []}
