"""Choices or a JSON Schema become a mask of tokens that an answer may go on with; knows no model.

Which tokens fit is llguidance's work, loaded only when an answer is constrained. What is added
here is the end: after each token a way to complete the answer is looked for, and a token after
which it could no longer be completed in time is exchanged for the first one on the way before.
"""

import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.errors import InputError, UsageError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# Finds text that completes an answer, given its bytes so far, a matcher that stands there and may
# be moved, and the id of each byte; None where it finds none.
Completer: TypeAlias = "Callable[[bytes, LLMatcher, dict[int, int]], bytes | None]"

# A schema of its own may set these; any other value would let answers through that it forbids,
# or white space without end.
_JSON_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,
    "coerce_one_of": False,
}

# What ends a JSON value soonest comes first; then what a number, date, pattern or a character that
# was begun may ask for. Inside a string, its end comes before everything.
_CLOSING_ORDER = (
    b'}]",@.:TZ0123456789-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSUVWXY /_+\x80\xa0\x90'
)
_QUOTE = re.compile(rb'\\.|(")', re.DOTALL)
_MAX_CLOSING_BYTES = 256  # of what is not forced: a search that leads nowhere costs time

_SCHEMA_HINT = """try a plain one: `--schema '{"enum": ["yes", "no"]}'`"""


def split_choices(text: str) -> tuple[str, ...]:
    """`yes, no` → ("yes", "no"): the choices between commas, without white space around them.

    Raises:
        UsageError: one is empty, or given twice.
    """
    choices = tuple(each.strip() for each in text.split(","))
    way_out = "separate them by commas: `--choices yes,no`"
    if "" in choices:
        raise UsageError(f"--choices '{text}' has an empty choice", way_out)
    twice = next((each for each in choices if choices.count(each) > 1), None)
    if twice is not None:
        raise UsageError(f"--choices has '{twice}' twice", way_out)
    return choices


def read_schema(word: str) -> str:
    """A file's name, or the JSON itself, becomes the text of a JSON Schema.

    Raises:
        InputError: there is no such file, it cannot be read or is not a JSON object.
    """
    text, name = word, "the schema"
    if not word.lstrip().startswith("{"):
        name = word
        try:
            text = Path(word).read_text("utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise InputError(f"schema {word} cannot be read: {reason}", _SCHEMA_HINT) from error
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON: {error}", _SCHEMA_HINT) from error
    if not isinstance(schema, dict):
        raise InputError(f"{name} is not a JSON object", _SCHEMA_HINT)
    return text


class Grammar:
    """What answers may be; each answer begins its own `Constrained`.

    Args:
        tokenizer: of the variant that answers.
        text: as llguidance takes grammars.
        complete: finds an end for an answer.

    Raises:
        InputError: the grammar is not one, or asks for what cannot be promised.
    """

    def __init__(self, tokenizer: Tokenizer, text: str, complete: Completer) -> None:
        from llguidance import LLMatcher

        self.tokenizer = tokenizer
        self.complete = complete
        self.byte_ids = _find_byte_ids(tokenizer)
        self._matcher = LLMatcher(_make_library_tokenizer(tokenizer), text, log_level=0)
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split())
            raise InputError(f"the schema cannot be kept to: {reason}", _SCHEMA_HINT)

    def start(self) -> "Constrained":
        """Begins an answer."""
        return Constrained(self, self._matcher.deep_copy())


def make_choice_grammar(tokenizer: Tokenizer, choices: Sequence[str]) -> Grammar:
    """Answers that are one of the choices, after at most one space.

    Args:
        tokenizer: of the variant that answers.
        choices: none of them empty or with white space around it.
    """
    from llguidance import LLMatcher

    pattern = " ?(" + "|".join(map(re.escape, choices)) + ")"
    encoded = [each.encode() for each in choices]

    def complete(said: bytes, *_: object) -> bytes | None:
        begun = said.removeprefix(b" ")
        rests = [each[len(begun) :] for each in encoded if each.startswith(begun)]
        return min(rests, key=len, default=None)

    return Grammar(tokenizer, LLMatcher.grammar_from_regex(pattern), complete)


def make_schema_grammar(tokenizer: Tokenizer, schema: str) -> Grammar:
    """Answers that are a JSON document on one line which a JSON Schema allows.

    Args:
        tokenizer: of the variant that answers.
        schema: a JSON object, as `read_schema` gives it.

    Raises:
        InputError: it is no schema, nothing can satisfy it, or it has a keyword whose keeping
            cannot be promised.
    """
    from llguidance import LLMatcher

    text = LLMatcher.grammar_from_json_schema(schema, overrides=_JSON_OPTIONS)  # type: ignore[arg-type]

    return Grammar(tokenizer, text, _close_json)


class Constrained:
    """One answer on its way through a grammar; a `generate.Constraint`."""

    def __init__(self, grammar: Grammar, matcher: "LLMatcher") -> None:
        self._grammar = grammar
        self._tokenizer = grammar.tokenizer
        self._matcher = matcher
        self._said = b""
        self._way: list[int] | None = None  # ids that would complete the answer
        self._is_cut = False

    @property
    def is_complete(self) -> bool:
        """Whether the answer may end here."""
        return self._matcher.is_accepting()

    @property
    def is_finished(self) -> bool:
        """Whether it must end here."""
        return self._matcher.is_stopped() or (self._is_cut and not self._way)

    @property
    def is_cut(self) -> bool:
        """Whether it was brought to an end for want of room."""
        return self._is_cut

    def begin(self, n_left: int) -> None:
        """Looks whether an answer fits.

        Args:
            n_left: tokens there is room for.

        Raises:
            InputError: the shortest that was found has more.
        """
        self._way = self._find_way()
        if self._way is not None and len(self._way) > n_left:
            n_needed = len(self._way)
            raise InputError(
                f"an answer of the form asked for takes {n_needed} tokens, there is room for "
                f"{n_left}",
                f"allow more: `-n {2 * n_needed}`",
            )

    def allow(self) -> np.ndarray:
        """Tokens the answer can go on with, (V,) bool; those that end it are not among them.

        Raises:
            InputError: the grammar has become too large to follow.
        """
        bias = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8)
        self._check()
        return bias[: self._tokenizer.vocab_size] > 0

    def take(self, token: int, n_left: int) -> int | None:
        """Goes on with a token, or with another where the answer could not be completed after it.

        Args:
            token: one of those allowed.
            n_left: tokens there is room for, this one included.

        Returns:
            The token that was taken; None where the answer has to end before it.

        Raises:
            InputError: the grammar has become too large to follow.
        """
        if self._is_cut:
            return self._follow_way()
        self._matcher.consume_token(token)
        self._check()
        said, self._said = self._said, self._said + self._tokenizer.to_bytes(token)
        way = self._find_way()
        knew_a_way = self._way is not None and len(self._way) <= n_left
        if knew_a_way and (way is None or len(way) >= n_left):
            self._matcher.rollback(1)
            self._said = said
            self._is_cut = True
            return self._follow_way()
        self._way = way
        return token

    def _follow_way(self) -> int | None:
        """Takes the next token of the way that was found, if there is one."""
        if not self._way:
            return None
        token = self._way.pop(0)
        self._matcher.consume_token(token)
        self._said += self._tokenizer.to_bytes(token)
        self._check()
        return token

    def _find_way(self) -> list[int] | None:
        """Ids that would complete the answer: of the text found, as the tokenizer divides it."""
        if self._matcher.is_accepting():
            return []
        rest = self._grammar.complete(self._said, self._matcher.deep_copy(), self._grammar.byte_ids)
        if rest is None:
            return None
        ids = self._encode(rest)
        if self._matcher.validate_tokens(ids) == len(ids):
            return ids
        return None

    def _encode(self, rest: bytes) -> list[int]:
        """Ids of text that may begin inside a character."""
        n_begun = next((i for i, byte in enumerate(rest) if byte & 0xC0 != 0x80), len(rest))
        begun = [self._grammar.byte_ids[byte] for byte in rest[:n_begun]]
        return begun + self._tokenizer.encode(rest[n_begun:].decode())

    def _check(self) -> None:
        """Refuses to go on where the library has given up.

        Raises:
            InputError: it has.
        """
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split())
            raise InputError(f"the form asked for is too large to follow: {reason}", _SCHEMA_HINT)


def _close_json(said: bytes, matcher: "LLMatcher", byte_ids: dict[int, int]) -> bytes | None:
    """Looks for a short end of a JSON document, taking what closes most at every step."""
    found = b""
    while not matcher.is_accepting():
        step = matcher.compute_ff_bytes()
        if not step:
            order = b'"' + _CLOSING_ORDER if _ends_in_string(said + found) else _CLOSING_ORDER
            fits = (byte for byte in order if matcher.validate_tokens([byte_ids[byte]]))
            step = bytes(itertools.islice(fits, 1))
        if not step or len(found) + len(step) > _MAX_CLOSING_BYTES:
            return None
        if not matcher.consume_tokens([byte_ids[byte] for byte in step]):
            return None
        found += step
    return found


def _ends_in_string(text: bytes) -> bool:
    """Whether JSON text that begins outside a string ends inside one."""
    return sum(bool(quote) for quote in _QUOTE.findall(text)) % 2 == 1


def _find_byte_ids(tokenizer: Tokenizer) -> dict[int, int]:
    """The id of each byte that is a token by itself."""
    pieces = ((tokenizer.to_bytes(id), id) for id in reversed(range(tokenizer.vocab_size)))
    return {piece[0]: id for piece, id in pieces if len(piece) == 1}


def _make_library_tokenizer(tokenizer: Tokenizer) -> "LLTokenizer":
    """Tells llguidance what each id stands for; what ends an answer is an id of its own."""
    from llguidance import LLTokenizer, TokenizerWrapper

    class Described:
        """A tokenizer as llguidance asks for it."""

        eos_token_id = tokenizer.vocab_size
        bos_token_id = None
        tokens = (*map(tokenizer.to_bytes, range(tokenizer.vocab_size)), b"\xff<end>")
        special_token_ids = (tokenizer.vocab_size,)

        def __call__(self, text: str | bytes) -> list[int]:
            return tokenizer.encode(text.decode() if isinstance(text, bytes) else text)

    return LLTokenizer(TokenizerWrapper(Described()))
