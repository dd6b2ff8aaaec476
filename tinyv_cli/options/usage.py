"""Complaints of typer about a command line become usage errors."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperGroup

from tinyv_cli.disk.paths import is_file
from tinyv_cli.errors import UsageError

# All complaints derive from the parent of this one, wherever a release of typer keeps it.
CommandLineError: type[Exception] = typer.BadParameter.__mro__[1]


class Verbs(TyperGroup):
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
        if close := get_close_matches(word, self.commands, n=1):
            hint = f"did you mean `tinyv {close[0]}`?"
        elif is_file(word):
            hint = f"ask about a picture with `tinyv ask {word} PROMPT`"
        raise UsageError(f"there is no command '{word}'", hint)


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
    option, similar = (getattr(complaint, name, None) for name in ("option_name", "possibilities"))
    if similar:
        nearest = get_close_matches(str(option), similar, n=1, cutoff=0)[0]
        return UsageError(f"there is no option {option}", f"did you mean {nearest}?")
    if option and hasattr(complaint, "possibilities"):
        return UsageError(f"there is no option {option}", f"`{help_command}` lists the options")
    message = " ".join(complaint.format_message().split())  # type: ignore[attr-defined]
    problem = message[:1].lower() + message[1:].rstrip(".")
    variable = getattr(getattr(complaint, "param", None), "envvar", None)
    extra = f"; the variable {variable} sets it too" if variable else ""
    return UsageError(problem, f"`{help_command}` shows what can be typed{extra}")
