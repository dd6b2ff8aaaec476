"""Complaints of typer about a command line become usage errors."""

import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import typer

from tinyv_cli.addresses import to_shown
from tinyv_cli.errors import UsageError
from tinyv_cli.options.guidance.pages import Program
from tinyv_cli.pictures.names import names_picture

# All complaints derive from the parent of this one, wherever a release of typer keeps it.
CommandLineError: type[Exception] = typer.BadParameter.__mro__[1]

# What other programs of this kind call it: ollama, llama.cpp, mlx-vlm, llm, docker.
_VERBS_ELSEWHERE = {
    "run": "did you mean `tinyv ask PICTURE PROMPT`, or `tinyv chat PICTURE`?",
    "generate": "did you mean `tinyv ask PICTURE PROMPT`?",
    "caption": "did you mean `tinyv ask PICTURE --task caption`?",
    "describe": "did you mean `tinyv ask PICTURE --task caption`?",
    "ps": "nothing runs between two commands; `tinyv list` shows the variants",
    "stop": "nothing runs between two commands; Ctrl-C ends one that runs",
    "models": "did you mean `tinyv list`?",
    "create": "did you mean `tinyv quantize`?",
    "convert": "did you mean `tinyv quantize`?",
    "download": "did you mean `tinyv pull`?",
    "install": "did you mean `tinyv pull`?",
    "remove": "did you mean `tinyv rm NAME`?",
    "delete": "did you mean `tinyv rm NAME`?",
}
_OPTIONS_ELSEWHERE = {
    "--ctx": "--ctx-size",
    "--num-ctx": "--ctx-size",
    "--context": "--ctx-size",
    "--predict": "--max-tokens",
    "--n-predict": "--max-tokens",
    "--file": "--prompt-file",
    "--mmproj": "--model",
    "--picture": "--image",
    "--cpu": "--device cpu",
    "--gpu": "--device cuda",
    "--cuda": "--device cuda",
    "--top": "--top-p",
}


# What is missing, by the name of the argument or option that typer misses, and how it is given.
_MISSING = {
    "folder": ("the folder that is to be made is missing", "name one: `-o vision`"),
    "output": (
        "the file for the answers is missing",
        "name one: `-o answers.jsonl`; `-o -` is stdout",
    ),
    "questions": (
        "the file of questions is missing",
        "name it: `tinyv eval questions.jsonl`",
    ),
}


def to_own_words(words: Sequence[str]) -> list[str]:
    """Replaces a first word that can mean only one thing by what this program calls it.

    What may mean several things, or removes something, is left to be asked about.
    """
    match words:
        case ["ls", *rest]:
            return ["list", *rest]
        case ["version"]:
            return ["--version"]
        case ["help"]:
            return ["--help"]
        case ["help", verb]:
            return [verb, "--help"]
    return list(words)


class Verbs(Program):
    """The group of all verbs; a word that is none of them gets a suggestion."""

    # The types of both are typer's own, and lie elsewhere in each release.
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401
        """Finds the verb that the first word names.

        Raises:
            UsageError: there is no such verb.
        """
        word = args[0]
        if self.get_command(ctx, word) is not None or word.startswith("-"):
            return super().resolve_command(ctx, args)
        hint = "`tinyv --help` lists the commands"
        if names_picture(word):
            shown = shlex.quote(to_shown(word))
            hint = f"ask about a picture with `tinyv ask {shown} PROMPT`"
        elif word.lower() in _VERBS_ELSEWHERE:
            hint = _VERBS_ELSEWHERE[word.lower()]
        elif close := get_close_matches(word, self.commands, n=1):
            hint = f"did you mean `tinyv {close[0]}`?"
        raise UsageError(f"there is no command '{to_shown(word)}'", hint)


def to_usage_error(complaint: Exception, words: Sequence[str]) -> UsageError:
    """Translates a complaint of typer into this program's words.

    Args:
        complaint: a `CommandLineError`.
        words: the command line without the program; where the complaint does not tell whose
            options were meant, its first word does.
    """
    context = getattr(complaint, "ctx", None)
    verb = " ".join(words[:1])
    help_command = f"{context.command_path if context else f'tinyv {verb}'} --help"
    option = getattr(complaint, "option_name", None)
    if option and hasattr(complaint, "possibilities"):
        meant = _find_option(option, context)
        hint = f"did you mean {meant}?" if meant else f"`{help_command}` lists the options"
        return UsageError(f"there is no option {option}", hint)
    parameter = getattr(complaint, "param", None)
    if context is not None and hasattr(complaint, "param_type") and not option:
        missing = _MISSING.get(getattr(parameter, "name", ""))
        if missing:
            return UsageError(*missing)
    message = " ".join(complaint.format_message().split())  # type: ignore[attr-defined]
    problem = message[:1].lower() + message[1:].rstrip(".")
    variable = getattr(parameter, "envvar", None)
    extra = f"; the variable {variable} sets it too" if variable else ""
    return UsageError(problem, f"`{help_command}` shows what can be typed{extra}")


def _find_option(typed: str, context: Any) -> str | None:  # noqa: ANN401
    """Returns the option that was probably meant, None where no one comes near.

    One whose whole name the typed one begins with goes before one that is merely alike: of
    `--temp` and `--template`, `--temperature` is the first.
    """
    params = context.command.params if context else ()
    known: list[str] = [flag for each in params for flag in each.opts]
    name = typed.lower().replace("_", "-")
    if name == "-v" and "-v" not in known:
        return "--version" if context and context.parent is None else None
    for meant in (name, _OPTIONS_ELSEWHERE.get(name, "")):
        if meant.partition(" ")[0] in known:
            return meant
    cut_short = [flag for flag in known if flag.startswith(name)]
    begun = [flag for flag in known if len(flag) > 2 and name.startswith(flag)]
    longest = [max(begun, key=len)] if begun else []
    return next(iter([*cut_short, *longest, *get_close_matches(name, known, 1)]), None)
