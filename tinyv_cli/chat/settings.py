"""Words such as `temp 0.5` become the options of the next answers; answers nothing itself."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from tinyv_cli.errors import UsageError
from tinyv_cli.session import AnswerOptions

OFF = "off"  # the seed that draws anew each time, no text that ends an answer
STOP = "stop"  # takes all that follows it

_SAMPLING = {
    "temp": "temperature",
    "top-p": "top_p",
    "top-k": "top_k",
    "min-p": "min_p",
    "repeat-penalty": "repetition_penalty",
    "seed": "seed",
}
_WHOLE = {"max-tokens", "top-k", "seed"}
NAMES = ("max-tokens", *_SAMPLING, STOP)
_BEFORE_STOP = re.compile(rf"(?:^|(?<=\s))(?:--)?{STOP}(?:\s*=\s*|\s+|$)")


def list_settings(options: AnswerOptions) -> dict[str, Any]:
    """Returns the settings by their typed names; a seed of None draws anew each time.

    What ends an answer is a list of texts, None where nothing does.
    """
    sampling = {name: getattr(options.sampling, field) for name, field in _SAMPLING.items()}
    return {"max-tokens": options.max_new_tokens, **sampling, STOP: list(options.stop) or None}


def format_settings(settings: Mapping[str, object]) -> str:
    """Formats one line a setting, as they are typed."""
    shown = {
        name: shlex.join(value) if isinstance(value, list) else OFF if value is None else value
        for name, value in settings.items()
    }
    return "\n".join(f"{name:<15} {value}" for name, value in shown.items())


def change_settings(options: AnswerOptions, words: str) -> AnswerOptions:
    """Applies pairs of a name and a value, all of them or none.

    Args:
        options: as they are.
        words: `temp 0.5 top-p 0.9`; an equals sign may stand between name and value. Behind `stop`
            stand texts that end an answer, each in quotes where it holds a blank, or `off`.

    Raises:
        UsageError: there is no such setting, its value is missing, or out of its range.
    """
    words, *texts = _BEFORE_STOP.split(words, maxsplit=1)
    parts = words.replace("=", " ").split()
    for i in range(0, len(parts), 2):
        name = parts[i].removeprefix("--").replace("_", "-")
        options = _change(options, name, parts[i + 1] if i + 1 < len(parts) else None)
    if not texts:
        return options
    try:
        stop = shlex.split(texts[0])
    except ValueError as error:
        problem = f"{texts[0]} has a quote that does not end"
        raise UsageError(
            problem, f'give texts in quotes: `/set {STOP} "one text" other`'
        ) from error
    return _change(options, STOP, stop or None)


def restore_settings(options: AnswerOptions, settings: Mapping[str, object]) -> AnswerOptions:
    """Applies settings as `list_settings` gave them; those that are missing stay.

    Raises:
        UsageError: as `change_settings` does.
    """
    for name, value in settings.items():
        text = OFF if value is None else value if isinstance(value, list) else str(value)
        options = _change(options, name, text)
    return options


def _change(options: AnswerOptions, name: str, text: str | list[Any] | None) -> AnswerOptions:
    """Applies one setting; of those that are numbers the text, of `stop` the list of texts."""
    if name not in NAMES:
        close = get_close_matches(name, NAMES, n=1)
        hint = f"did you mean `/set {close[0]}`?" if close else f"use one of {', '.join(NAMES)}"
        raise UsageError(f"there is no setting '{name}'", hint)
    if text is None:
        kind = "TEXT" if name == STOP else "NUMBER"
        raise UsageError(f"{name} lacks its value", f"give one: `/set {name} {kind}`")
    if name == STOP:
        texts = [] if text in (OFF, [OFF]) else text
        if not isinstance(texts, list) or not all(isinstance(each, str) and each for each in texts):
            raise UsageError(f"'{text}' is no list of texts that end an answer", "`/set stop TEXT`")
        return replace(options, stop=tuple(texts))
    value: Any  # int, float or None, by its name
    try:
        is_off = name == "seed" and text == OFF
        value = None if is_off else int(str(text)) if name in _WHOLE else float(str(text))
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
