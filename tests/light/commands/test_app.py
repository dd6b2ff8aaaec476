import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tests.light.toy_variant import write_picture, write_variant
from tinyv_cli.app import app, main
from tinyv_cli.commands import ask as ask_module
from tinyv_cli.disk.writing import DISK_FULL
from tinyv_cli.errors import DeviceError, ExitCode, InputError, WeightsError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("TINYV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))


@pytest.fixture
def asked(monkeypatch):
    """The arguments that `ask` was run with; nothing is answered."""
    seen = []
    monkeypatch.setattr(ask_module, "answer_question", seen.append)
    return seen


def fail_with(monkeypatch, error):
    """Makes `ask` fail in a given way."""

    def raise_error(arguments):
        raise error

    monkeypatch.setattr(ask_module, "answer_question", raise_error)
    return main(["ask", "cat.jpg", "what?"])


def run_program(answer, *words, **options):
    """The program as a process, with a runtime that gives this answer."""
    defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 60, "text": True}
    command = [sys.executable, "-m", "tests.light.toy_program", answer, *words]
    # With unbuffered streams nothing is left for the interpreter to write at its end.
    environment = {key: os.environ[key] for key in os.environ if key != "PYTHONUNBUFFERED"}
    return subprocess.run(command, cwd=ROOT, check=False, env=environment, **(defaults | options))


def test_the_version_is_one_line_on_stdout(capsys):
    assert main(["--version"]) == ExitCode.OK
    out, err = capsys.readouterr()
    python = ".".join(map(str, sys.version_info[:3]))
    found = re.fullmatch(r"tinyv 0\.1\.0 \(Python (\S+), onnxruntime \S+; cpu.*\)\n", out)
    assert found is not None, out
    assert (found[1], err) == (python, "")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("tinyv ba", "batch"), ("tinyv ask --tem", "--temp"), ("tinyv quantize --tar", "--target")],
)
def test_a_shell_completes_verbs_and_flags(typed, expected):
    asked = {
        "_TINYV_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    command = [sys.executable, "-m", "tinyv_cli"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | asked, capture_output=True, text=True, check=True
    )
    assert expected in done.stdout.split()


def test_completion_can_be_installed(capsys):
    main(["--help"])
    assert "--install-completion" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_verb_and_shows_examples(capsys, flag):
    assert main([flag]) == ExitCode.OK
    out, err = capsys.readouterr()
    for verb in ("ask", "quantize", "list"):
        assert f"\n  {verb} " in out
        assert f"\n  tinyv {verb}" in out
    assert err == ""


def test_help_of_quantize_lists_the_files_it_reads(capsys):
    assert main(["quantize", "--help"]) == ExitCode.OK
    out = capsys.readouterr().out
    names = ["phi-2/", "eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth"]
    for name in [*names, "TinyGPT-V_for_Stage4.pth", "Tyrannosaurus/TinyGPT-V"]:
        assert f"{name}" in out


def test_no_verb_shows_the_help_on_stderr_and_is_a_usage_error(capsys):
    assert main([]) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage: tinyv" in err


@pytest.mark.parametrize(
    ("words", "problem", "hint"),
    [
        (["aks", "a", "b"], "there is no command 'aks'", "did you mean `tinyv ask`?"),
        (["dream"], "there is no command 'dream'", "`tinyv --help` lists the commands"),
        (["w" * 300], "there is no command 'wwww", "`tinyv --help` lists the commands"),
        (["--verson"], "there is no option --verson", "did you mean --version?"),
        (["ask", "a", "b", "--tmp", "1"], "there is no option --tmp", "did you mean --temp?"),
        (
            ["ask", "a", "b", "--templat", "x"],
            "there is no option --templat",
            "did you mean --template?",
        ),
        (["ask", "a", "b", "-x"], "there is no option -x", "`tinyv ask --help` lists the options"),
        (["ask"], "the picture and question are missing", "name them: `tinyv ask PICTURE"),
        (["ask", "a"], "the picture is missing: a is no file", "name it before the question"),
        (["quantize", "a"], "got unexpected extra argument", "`tinyv quantize --help` shows"),
        (["ask", "a", "b", "-n"], "option '-n' requires an argument", "`tinyv ask --help` shows"),
        (
            ["ask", "a", "b", "-n", "0"],
            "'0' is no value for --max-tokens",
            "give --max-tokens (or the variable TINYV_MAX_TOKENS) a whole number, 1 or more",
        ),
        (
            ["ask", "a", "b", "--temp", "nan"],
            "--temp is nan",
            "use a number 0 or more: `--temp NUMBER` (or the variable TINYV_TEMP)",
        ),
        (
            ["ask", "a", "b", "--temp", "inf"],
            "--temp is inf",
            "use a number 0 or more: `--temp NUMBER` (or the variable TINYV_TEMP)",
        ),
        (
            ["ask", "a", "b", "--top-p", "1.1"],
            "--top-p is 1.1",
            "use a number from 0 to 1: `--top-p NUMBER` (or the variable TINYV_TOP_P)",
        ),
        (
            ["batch", "nowhere", "b", "-o", "-", "--repeat-penalty", "0"],
            "--repeat-penalty is 0.0",
            "use a number more than 0: `--repeat-penalty NUMBER`",
        ),
        (
            ["chat", "--top-k", "many"],
            "'many' is no value for --top-k",
            "give --top-k (or the variable TINYV_TOP_K) a whole number",
        ),
    ],
)
def test_a_wrong_command_line_is_told_in_two_lines(capsys, words, problem, hint):
    assert main(words) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith(f"error: {problem}")
    assert not first.endswith(".")
    assert second.startswith(f"hint:  {hint}")


def test_a_picture_without_a_verb_is_understood(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "cat.png")
    assert main(["cat.png", "what?"]) == ExitCode.USAGE
    assert "hint:  ask about a picture with `tinyv ask cat.png PROMPT`" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "1e3", ""])
def test_a_number_that_is_none_is_refused_for_every_count(capsys, value):
    for flag in ("--max-tokens", "--threads", "--ctx-size"):
        assert main(["ask", "a", "b", flag, value]) == ExitCode.USAGE
        assert f"error: '{value}' is no value for {flag}" in capsys.readouterr().err


def test_without_flags_the_answer_is_greedy(asked):
    assert main(["ask", "cat.jpg", "what?"]) == ExitCode.OK
    [arguments] = asked
    assert (arguments.words, arguments.prompt) == (["cat.jpg", "what?"], None)
    assert arguments.temperature == 0
    assert arguments.repeat_penalty == 1
    assert arguments.max_tokens == 256
    assert arguments.model is None


def test_every_flag_reaches_the_command(asked):
    words = "-m NAME --template human -n 7 --temp 0.5 --top-p 0.9 --top-k 50 --min-p 0.1"
    more = "--repeat-penalty 1.05 --seed 3 --device cpu -t 2 -c 512 --memory-budget 6GB"
    asks = "-i dog.jpg -i - -p TEXT --prompt-file FILE --task vqa --at 0,0,1,1 --stop a --stop b"
    limits = "--choices yes,no --schema {} --system no --draw out.png --force"
    switches = "--no-cache --json --show-prompt --stats --stdin --show --allow-private --offline"
    given = f"{words} {more} {asks} {limits} {switches} --together -q -v".split()
    assert main(["ask", "cat.jpg", "what?", *given]) == ExitCode.OK
    [arguments] = asked
    assert vars(arguments) == {
        "words": ["cat.jpg", "what?"],
        "images": ["dog.jpg", "-"],
        "prompt": "TEXT",
        "prompt_file": Path("FILE"),
        "stdin": True,
        "task": "vqa",
        "at": "0,0,1,1",
        "choices": "yes,no",
        "schema": "{}",
        "stop": ["a", "b"],
        "system": "no",
        "draw": Path("out.png"),
        "force": True,
        "show": True,
        "together": True,
        "allow_private": True,
        "offline": True,
        "quiet": True,
        "verbose": True,
        "model": "NAME",
        "template": "human",
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 50,
        "min_p": 0.1,
        "repeat_penalty": 1.05,
        "seed": 3,
        "device": "cpu",
        "threads": 2,
        "context_length": 512,
        "memory_budget_bytes": 6_000_000_000,
        "no_cache": True,
        "json": True,
        "show_prompt": True,
        "stats": True,
    }


def test_a_flag_wins_over_its_variable_and_the_variable_over_the_default(asked, monkeypatch):
    monkeypatch.setenv("TINYV_MAX_TOKENS", "11")
    monkeypatch.setenv("TINYV_MODEL", "from-variable")
    monkeypatch.setenv("TINYV_JSON", "1")
    main(["ask", "cat.jpg", "what?"])
    main(["ask", "cat.jpg", "what?", "-n", "22", "-m", "from-flag"])
    assert [(each.max_tokens, each.model, each.json) for each in asked] == [
        (11, "from-variable", True),
        (22, "from-flag", True),
    ]


def test_a_wrong_value_in_a_variable_is_told_with_the_variables_name(capsys, monkeypatch):
    monkeypatch.setenv("TINYV_MIN_P", "2")
    assert main(["ask", "cat.jpg", "what?"]) == ExitCode.USAGE
    assert "error: --min-p is 2.0" in (told := capsys.readouterr().err)
    assert "the variable TINYV_MIN_P" in told
    monkeypatch.delenv("TINYV_MIN_P")
    monkeypatch.setenv("TINYV_TOP_K", "some")
    assert main(["ask", "cat.jpg", "what?"]) == ExitCode.USAGE
    assert "TINYV_TOP_K" in capsys.readouterr().err
    monkeypatch.setenv("TINYV_TOP_K", "1")
    monkeypatch.setenv("TINYV_STATS", "perhaps")
    assert main(["ask", "cat.jpg", "what?"]) == ExitCode.USAGE
    assert "TINYV_STATS" in capsys.readouterr().err


def test_every_option_of_every_verb_has_the_variable_of_its_long_flag():
    for verb, command in typer.main.get_command(app).commands.items():
        for option in command.params:
            if option.param_type_name == "option":
                [long] = [flag for flag in option.opts if flag.startswith("--")]
                expected = "TINYV_" + long.removeprefix("--").replace("-", "_").upper()
                if long == "--yes":  # consent is given each time, not once for all
                    expected = None
                assert option.envvar == expected, f"{verb} {long}"
                assert option.help


@pytest.mark.parametrize(
    "question",
    ["###Human: a###Assistant: b", "  two  spaces \n", "[vqa] what?", "-", "日本", "\\n"],
)
def test_a_question_is_passed_on_exactly_as_typed(asked, question):
    main(["ask", "cat.jpg", question])
    assert asked[0].words == ["cat.jpg", question]


def test_words_after_two_dashes_are_no_options(asked):
    main(["ask", "--", "-cat.jpg", "--what?"])
    assert asked[0].words == ["-cat.jpg", "--what?"]


@pytest.mark.parametrize("kind", [InputError, WeightsError, DeviceError])
def test_a_planned_failure_is_two_lines_and_its_exit_code(capsys, monkeypatch, kind):
    assert fail_with(monkeypatch, kind("it is broken", "mend it")) == kind.exit_code
    assert capsys.readouterr() == ("", "error: it is broken\nhint:  mend it\n")


@pytest.mark.parametrize("code", sorted(DISK_FULL))
def test_a_full_disk_is_told_with_the_file_that_found_no_room(capsys, monkeypatch, code):
    error = OSError(code, "No space left", "/x/decoder.data")
    assert fail_with(monkeypatch, error) == ExitCode.DEVICE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: the disk has no room left for /x/decoder.data\nhint:  free ")


def test_any_other_failure_of_the_system_is_not_hidden(monkeypatch):
    with pytest.raises(OSError, match="I/O error"):
        fail_with(monkeypatch, OSError(5, "I/O error"))


def test_ctrl_c_is_130_without_a_word(capsys, monkeypatch):
    assert fail_with(monkeypatch, KeyboardInterrupt()) == ExitCode.INTERRUPTED
    assert capsys.readouterr() == ("", "")


def test_what_nobody_planned_for_keeps_its_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        fail_with(monkeypatch, ZeroDivisionError("a bug"))


@pytest.fixture
def words(tmp_path):
    """A command line that is answered by the toy runtime."""
    variant = write_variant(tmp_path / "home" / "variants" / "toy")
    picture = write_picture(tmp_path / "cat.png")
    return ["ask", str(picture), "what is it?", "-m", str(variant)]


def test_the_program_answers_on_stdout_and_says_nothing_else(words):
    done = run_program("a [red] square", *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a [red] square\n", "")


def test_a_bug_ends_the_program_with_a_plain_traceback_and_1(words):
    done = run_program("BUG", *words)
    assert done.returncode == ExitCode.BUG
    assert done.stdout == ""
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.endswith("RuntimeError: a bug\n")
    assert "─" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
@pytest.mark.parametrize("command", ["ask", "ask --json", "list", "list --json", "--help"])
def test_a_reader_that_has_gone_away_ends_the_program_quietly(words, command):
    verb, *flags = command.split()
    line = [*words, *flags] if verb == "ask" else [verb, *flags]
    reading, writing = os.pipe()
    os.close(reading)
    done = run_program("a long answer", *line, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_nobody_on_stderr_leaves_the_exit_code_as_it_is(words, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = run_program("a", "ask", str(tmp_path / "none.png"), "what?", *words[3:], stderr=writing)
    os.close(writing)
    assert (done.returncode, done.stdout) == (ExitCode.INPUT, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_an_answer_that_finds_no_room_is_a_full_disk(words, flags):
    with Path("/dev/full").open("w") as full:
        done = run_program("a red square", *words, *flags, stdout=full)
    assert done.returncode == ExitCode.DEVICE
    problem, hint = done.stderr.splitlines()
    assert problem == "error: stdout cannot be written: no space left on device"
    assert hint.startswith("hint:  make room")
