"""JSON becomes frozen dataclasses whose values have the declared types, whatever they mean."""

import json
import math
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin

T = TypeVar("T")
_SHOWN_DIGITS = 20

_KIND_NAMES = {int: "a whole number", float: "a number", str: "a text", dict: "an object"}


def read_object(text: str | bytes) -> dict[str, Any]:
    """Parses a JSON object; NaN, infinity and numbers too large for a float are refused.

    Args:
        text: UTF-8 where it is bytes; a byte order mark at its start is dropped.

    Raises:
        ValueError: it is none; the message says why.
        RecursionError: it is nested too deep.
    """

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not a number")

    def read_float(digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else refuse(digits[:_SHOWN_DIGITS])

    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        values = json.loads(
            text.removeprefix("\ufeff"), parse_constant=refuse, parse_float=read_float
        )
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON (line {error.lineno}: {error.msg})") from error
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    return values


def to_dataclass(kind: type[T], value: object, where: str = "") -> T:
    """Makes a dataclass from a JSON object; keys without a field are ignored.

    Args:
        kind: a dataclass whose fields are int, float, str, dict, a dataclass like it,
            `tuple[x, ...]` or `x | None` of these.
        value: as the JSON parser gave it.
        where: the value's place for messages, such as `files[2]`; empty for the outermost.

    Raises:
        ValueError: a key is missing or a value is of another type; the message says which.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where or 'it'} is not an object")
    prefix = f"{where}." if where else ""
    typed = {}
    for field in fields(cast("Any", kind)):
        if field.name not in value:
            raise ValueError(f"{prefix}{field.name} is missing")
        typed[field.name] = _to_typed(field.type, value[field.name], prefix + field.name)
    return kind(**typed)


def _to_typed(kind: object, value: object, where: str) -> object:
    """Checks one value and converts lists to tuples, objects to dataclasses, 1 to 1.0."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if value is None else _to_typed(arguments[0], value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} is not a list")
        return tuple(_to_typed(arguments[0], each, f"{where}[{i}]") for i, each in enumerate(value))
    if isinstance(kind, type) and is_dataclass(kind):
        return to_dataclass(kind, value, where)
    plain = cast("type", origin or kind)
    if plain is float and type(value) is int:
        try:
            return float(value)
        except OverflowError as error:
            raise ValueError(f"{where} has more digits than a number holds") from error
    if type(value) is not plain:  # isinstance would take True for a number
        raise ValueError(f"{where} is not {_KIND_NAMES[plain]}")
    return value
