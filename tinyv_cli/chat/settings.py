"""Words such as `temp 0.5` become the options of the next answers; answers nothing itself."""

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from tinyv_cli.errors import UsageError
from tinyv_cli.session import AnswerOptions

OFF = "off"  # the seed that draws anew each time

_SAMPLING = {
    "temp": "temperature",
    "top-p": "top_p",
    "top-k": "top_k",
    "min-p": "min_p",
    "repeat-penalty": "repetition_penalty",
    "seed": "seed",
}
_WHOLE = {"max-tokens", "top-k", "seed"}
NAMES = ("max-tokens", *_SAMPLING)


def list_settings(options: AnswerOptions) -> dict[str, float | None]:
    """Returns the settings by their typed names; a seed of None draws anew each time."""
    sampling = {name: getattr(options.sampling, field) for name, field in _SAMPLING.items()}
    return {"max-tokens": options.max_new_tokens, **sampling}


def format_settings(settings: Mapping[str, object]) -> str:
    """Formats one line a setting, as they are typed."""
    return "\n".join(
        f"{name:<15} {OFF if value is None else value}" for name, value in settings.items()
    )


def change_settings(options: AnswerOptions, words: str) -> AnswerOptions:
    """Applies pairs of a name and a value, all of them or none.

    Args:
        options: as they are.
        words: `temp 0.5 top-p 0.9`; an equals sign may stand between name and value.

    Raises:
        UsageError: there is no such setting, its value is missing, or out of its range.
    """
    parts = words.replace("=", " ").split()
    for i in range(0, len(parts), 2):
        name = parts[i].removeprefix("--").replace("_", "-")
        options = _change(options, name, parts[i + 1] if i + 1 < len(parts) else None)
    return options


def restore_settings(options: AnswerOptions, settings: Mapping[str, object]) -> AnswerOptions:
    """Applies settings as `list_settings` gave them; those that are missing stay.

    Raises:
        UsageError: as `change_settings` does.
    """
    for name, value in settings.items():
        options = _change(options, name, OFF if value is None else str(value))
    return options


def _change(options: AnswerOptions, name: str, text: str | None) -> AnswerOptions:
    """Applies one setting."""
    if name not in NAMES:
        close = get_close_matches(name, NAMES, n=1)
        hint = f"did you mean `/set {close[0]}`?" if close else f"use one of {', '.join(NAMES)}"
        raise UsageError(f"there is no setting '{name}'", hint)
    if text is None:
        raise UsageError(f"{name} lacks its value", f"give one: `/set {name} NUMBER`")
    value: Any  # int, float or None, by its name
    try:
        is_off = name == "seed" and text == OFF
        value = None if is_off else int(text) if name in _WHOLE else float(text)
    except ValueError as error:
        kind = "a whole number" if name in _WHOLE else "a number"
        way_out = f"give {kind}: `/set {name} NUMBER`" + (", or off" if name == "seed" else "")
        raise UsageError(f"'{text}' is no value for {name}", way_out) from error
    try:
        if name == "max-tokens":
            return replace(options, max_new_tokens=value)
        return replace(options, sampling=replace(options.sampling, **{_SAMPLING[name]: value}))
    except UsageError as error:  # is written for the command line's flags
        problem, hint = error.problem.removeprefix("--"), error.hint.replace("`--", "`/set ")
        raise UsageError(problem, hint) from error
