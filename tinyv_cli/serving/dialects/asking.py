"""What a request asks, whatever dialect it came in, and how a JSON body is read for it.

Keys that nobody knows are passed over. `null`, an empty text, list or object mean "not given".
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinyv_cli.errors import TinyvError
from tinyv_cli.prompts.prompt import Turn
from tinyv_cli.prompts.tasks import TASKS

DEFAULT_MAX_TOKENS = 256
CHORE_MAX_TOKENS = 64  # of what Open WebUI asks for itself: titles, tags, follow-ups

_ROLES = ("system", "developer", "user", "assistant", "tool")
_CHORE = "### Task:"
_TAG = re.compile(rf"\s*\[(?:{'|'.join(TASKS)})\]\s*", re.IGNORECASE)
# Only such escapes can stand for what no text may hold: half a character, or NUL.
_SUSPECT = re.compile(rb"\\u(?:[dD][89a-fA-F]|0000)")
_LARGEST = 2**64  # of any number; what a seed may be


class RefusedError(TinyvError):
    """A request that gets no answer; the dialects lay it out.

    Attributes:
        status: of HTTP, where the answer has not begun.
        code: names the kind for programs; None where the status says it.
        retry_after_s: when it may be tried again; None where that would not help.
    """

    def __init__(
        self, status: int, message: str, code: str | None = None, retry_after_s: int | None = None
    ) -> None:
        """Keeps what is told; the message is all that its reader sees."""
        super().__init__(message, "")
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Asked:
    """A question, as one of the dialects put it.

    Attributes:
        model: a variant's name; None for the one that the server was started with.
        question: with its task's tag; None asks nothing, only to load or unload.
        turns: before it, about the same pictures.
        pictures: `data:` or http addresses, in the prompt's order.
        max_tokens: of the answer; None for as many as the context holds.
        sampling: fields of `SamplingOptions`.
        stop: texts that end the answer.
        schema: a JSON Schema, as text, that the answer keeps to.
        keep_alive_s: how long the model stays in memory afterwards; None for the server's own.
        streams: whether the answer is sent piece by piece.
        notes: for the server's log.
    """

    model: str | None
    question: str | None
    turns: tuple[Turn, ...] = ()
    pictures: tuple[str, ...] = ()
    max_tokens: int | None = DEFAULT_MAX_TOKENS
    sampling: Mapping[str, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    schema: str | None = None
    keep_alive_s: float | None = None
    streams: bool = False
    notes: tuple[str, ...] = ()

    @property
    def is_chore(self) -> bool:
        """Whether a program asks for itself, so that people's questions go first."""
        return not self.pictures and (self.question or "").startswith(_CHORE)


def read_body(content: bytes | bytearray, **defaults: object) -> "Body":
    """Reads a request's JSON object, whatever its type was said to be.

    Args:
        content: UTF-8.
        defaults: for keys that are missing or empty.

    Raises:
        RefusedError: it is none, or holds text that cannot be written as UTF-8.
    """
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = "is nested too deep" if isinstance(error, RecursionError) else "is not JSON"
        raise RefusedError(400, f"the body {reason}") from error
    if not isinstance(values, dict):
        raise RefusedError(400, "the body is not a JSON object")
    if _SUSPECT.search(content):
        _check_text(values)
    missing = {key: each for key, each in defaults.items() if not values.get(key)}
    return Body({**values, **missing})


def _check_text(value: object) -> None:
    """Checks every text in a JSON value; raises a `RefusedError` of half characters and NUL."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            if "\0" in each or any("\ud800" <= letter <= "\udfff" for letter in each):
                raise RefusedError(400, "a text in the body holds NUL or half a character")
        elif isinstance(each, dict):
            left += [*each, *each.values()]
        elif isinstance(each, list):
            left += each


class Body:
    """A JSON object whose values are taken with the type that is expected of them.

    Args:
        values: the object.
        where: its place for messages, such as `options`; empty for the outermost.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "") -> None:
        self._values = values
        self._where = where

    def get(self, key: str) -> Any:  # noqa: ANN401 - JSON
        """Returns a value; None where it is missing or empty."""
        value = self._values.get(key)
        return None if value in ("", [], {}) and not isinstance(value, bool) else value

    def text(self, key: str) -> str | None:
        """Returns a text."""
        value: str | None = self._typed(key, str, "a text")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """Returns a boolean."""
        value: bool | None = self._typed(key, bool, "true or false")
        return default if value is None else value

    def items(self, key: str) -> list[Any]:
        """Returns a list; an empty one where it is missing."""
        return self._typed(key, list, "a list") or []

    def part(self, key: str) -> "Body":
        """Returns an object; an empty one where it is missing."""
        return Body(self._typed(key, dict, "an object") or {}, self.name(key))

    def number(self, key: str, least: float = -math.inf, most: float = math.inf) -> float | None:
        """Returns a finite number within bounds."""
        value = self.get(key)
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) <= _LARGEST or not least <= value <= most:
            bounds = f" from {least:g}" * (least > -math.inf) + f" to {most:g}" * (most < math.inf)
            raise self.refuse(key, f"has to be a number{bounds}")
        return float(value)

    def whole(self, key: str, least: float = -math.inf) -> int | None:
        """Returns a whole number, which may be written as 12.0."""
        value = self.number(key, least)
        if value is not None and value != int(value):
            raise self.refuse(key, "has to be a whole number")
        return None if value is None else int(self._values[key])

    def texts(self, key: str) -> tuple[str, ...]:
        """Returns a text or a list of texts; empty ones are passed over."""
        value = self.get(key)
        found = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise self.refuse(key, "has to be a text or a list of texts")
        return tuple(each for each in found if each)

    def refuse(self, key: str, why: str) -> RefusedError:
        """Makes the refusal of a value."""
        return RefusedError(400, f"`{self.name(key)}` {why}")

    def name(self, key: str) -> str:
        """Names a value by its place."""
        return f"{self._where}.{key}" if self._where else key

    def _typed(self, key: str, kind: type, expected: str) -> Any:  # noqa: ANN401 - JSON
        value = self.get(key)
        if value is not None and not isinstance(value, kind):
            raise self.refuse(key, f"has to be {expected}")
        return value


def read_sampling(body: Body) -> dict[str, float]:
    """Reads how tokens are chosen; what is missing is taken from `SamplingOptions`."""
    found = {
        "temperature": body.number("temperature", 0, 1e6),
        "top_p": body.number("top_p", 0, 1),
        "top_k": body.whole("top_k", -1),
        "min_p": body.number("min_p", 0, 1),
        "repetition_penalty": body.number("repeat_penalty", 1e-3, 1e3),
        "seed": body.whole("seed"),
    }
    given = {name: value for name, value in found.items() if value is not None}
    if "seed" in given:
        given["seed"] %= _LARGEST
    if "top_k" in given:
        given["top_k"] = max(0, given["top_k"])
    return given


def note_penalties(body: Body) -> tuple[str, ...]:
    """Returns a note on penalties that are asked for and that there are not."""
    names = ("frequency_penalty", "presence_penalty")
    asked = [name for name in names if body.number(name)]
    return (f"{' and '.join(asked)} ignored; there is `repeat_penalty`",) if asked else ()


@dataclass(frozen=True)
class Said:
    """One message of a conversation, in any dialect."""

    role: str
    text: str
    pictures: tuple[str, ...] = ()


def read_role(message: Body) -> str:
    """Reads who says a message: `system`, `developer`, `user` or `assistant`; a tool is a user."""
    role = message.text("role") or "user"
    if role not in _ROLES:
        raise message.refuse("role", f"has to be one of {', '.join(_ROLES)}")
    return "user" if role == "tool" else role


def to_conversation(
    messages: Sequence[Said],
) -> tuple[str, tuple[Turn, ...], tuple[str, ...]]:
    """Makes question, earlier turns and pictures of messages.

    The last pictures that somebody shows begin the conversation, as in `tinyv chat`: what was said
    before them, about others, is left out. What a system says stands before the first question,
    behind its task's tag.

    Raises:
        RefusedError: there is no question at the end.
    """
    system = "\n\n".join(each.text for each in messages if each.role in ("system", "developer"))
    said = [each for each in messages if each.role in ("user", "assistant")]
    if not said or said[-1].role != "user":
        raise RefusedError(400, "the last message has to be a question: `role` user")
    starts = [i for i, each in enumerate(said) if each.role == "user" and each.pictures]
    said = said[starts[-1] :] if starts else said
    pictures = said[0].pictures if starts else ()
    turns: list[Turn] = []
    asked: list[str] = []
    for each in said:
        text = each.text.strip()
        if each.role == "user":
            asked.append(text)
        elif asked:
            turns.append(Turn("\n\n".join(asked), text))
            asked = []
    question = "\n\n".join(asked)
    if not question:
        raise RefusedError(400, "the question is blank")
    if not system.strip():
        return question, tuple(turns), pictures
    first = turns[0].question if turns else question
    tag = _TAG.match(first)
    split = tag.end() if tag else 0
    opened = f"{first[:split]}{system.strip()}\n\n{first[split:]}"
    if not turns:
        return opened, (), pictures
    return question, (Turn(opened, turns[0].answer), *turns[1:]), pictures


def to_address(content: str) -> str:
    """Makes an address that holds or names a picture, of an address or of base64 alone.

    What a `data:` address says of its type does not count, nor does a missing mark of base64.

    Raises:
        RefusedError: it names a file, or is of another scheme.
    """
    content = content.strip()
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", content)
    if scheme is None:
        return f"data:;base64,{content}"
    match scheme[1].lower():
        case "http" | "https":
            return content
        case "data":
            return f"data:;base64,{content.partition(',')[2]}"
    raise RefusedError(400, "a picture comes in the request, as `data:image/png;base64,…`")
