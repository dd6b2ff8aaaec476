"""Help pages: nothing is cut at any width, options stand in groups, examples can be typed."""

import re
import shlex

import pytest
import typer

from tinyv_cli.app import app, main
from tinyv_cli.errors import ExitCode
from tinyv_cli.options.declare import PANELS
from tinyv_cli.options.guidance.pages import EXAMPLES

VERBS = typer.main.get_command(app).commands


def show(capsys, monkeypatch, columns, *words):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main([*words, "--help"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("verb", ["", *VERBS])
def test_a_page_fits_and_cuts_nothing(capsys, monkeypatch, verb, columns):
    page = show(capsys, monkeypatch, columns, *verb.split())
    assert max(map(len, page.splitlines())) <= columns
    assert "..." not in re.sub(r"\[?(PICTURE|PATHS|NAME|ARGS)\]?\.\.\.", "", page)
    assert "<" not in page  # a type's own name
    flat = " ".join(page.split())
    if verb:
        for each in VERBS[verb].params:
            if each.param_type_name == "option" and not each.hidden:
                assert each.opts[-1] in flat
                assert " ".join(each.help.split()).rstrip(".") in flat
    else:
        for name, each in VERBS.items():
            assert f"{name} {' '.join(each.help.partition(chr(10) * 2)[0].split())}" in flat


def test_options_of_ask_stand_in_groups_with_the_wanted_ones_first(capsys, monkeypatch):
    page = show(capsys, monkeypatch, 80, "ask")
    headings = re.findall(r"^(\S.*):$", page, re.MULTILINE)
    assert headings == ["Examples", "What to ask", "Answers", "Output", "Machine", "Options"]
    assert set(headings[1:]) < set(PANELS)
    first = re.findall(r":\n  (\S+(?: \S+)?)", page.partition("What to ask")[2])
    assert first[0].startswith("PICTURE")
    assert [each.split()[0] for each in first[1:]] == ["-m,", "--json", "--device", "-h,"]


def test_an_option_that_is_always_refused_is_not_offered(capsys, monkeypatch):
    assert "--system" not in show(capsys, monkeypatch, 80, "ask")


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_two_examples_that_can_be_typed_on_one_line(verb):
    assert len(EXAMPLES[verb]) == 2
    for line in EXAMPLES[verb]:
        assert len(line) <= 76
        [command] = [each for each in line.split(" | ") if each.startswith("tinyv")]
        words = shlex.split(command.partition(" > ")[0])
        assert words[:2] == ["tinyv", verb]
        context = VERBS[verb].make_context(verb, words[2:])
        models = [context.params.get(name) for name in ("model", "against")]
        assert {str(each) for each in models if each} <= {"miniature", "stage4-4bit", "stage4-8bit"}


def test_an_example_that_is_broken_is_one_command_for_a_shell(capsys, monkeypatch):
    page = show(capsys, monkeypatch, 40, "batch").partition("Examples:\n")[2].partition("\n\n")[0]
    assert page.count(" \\\n") >= 2
    joined = page.replace("\\\n", "").strip().splitlines()
    assert [shlex.split(each) for each in joined] == [shlex.split(e) for e in EXAMPLES["batch"]]
