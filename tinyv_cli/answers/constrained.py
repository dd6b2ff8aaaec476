"""Choices or a JSON Schema become a mask of the tokens that may come next; runs no model.

llguidance, loaded only when an answer is constrained, computes which tokens fit. Added here is that
an answer comes to its end: after each token a way to complete the answer is looked for, and a token
after which it could no longer be completed in time is replaced by the first one of the way before.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.disk.reading import read_bytes
from tinyv_cli.disk.typed_json import read_object
from tinyv_cli.errors import InputError, UsageError, describe_os_error

if TYPE_CHECKING:
    from llguidance import LLMatcher

# Finds text that completes an answer, given its bytes so far, a matcher that stands there and may
# be moved, and the id of each byte; None where it finds none.
Completer: TypeAlias = "Callable[[bytes, LLMatcher, dict[int, int]], bytes | None]"

# A schema may set these itself, so they are fixed here: any other value would let through answers
# that the schema forbids, or white space without end (one more thing to go on with for ever).
_JSON_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,
    "coerce_one_of": False,
}

# What ends a JSON value soonest comes first; then what a number, date, pattern or a character that
# was begun may ask for (its continuation bytes). Inside a string, its end comes before everything:
# `}` is allowed there too, and would be taken for ever.
_CLOSING_ORDER = (
    b'}]",@.:TZ0123456789-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSUVWXY /_+\x80\xa0\x90'
)
_QUOTE = re.compile(rb'\\.|(")', re.DOTALL)
_MAX_CLOSING_BYTES = 256  # of what is not forced: a search that leads nowhere costs time

_SCHEMA_HINT = """try a plain one: `--schema '{"enum": ["yes", "no"]}'`"""


def split_choices(text: str) -> tuple[str, ...]:
    """Splits `yes, no` at its commas into ("yes", "no"), without white space around them.

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
    """Returns the text of a JSON Schema, given that text itself or the name of its file.

    Raises:
        InputError: there is no such file, it cannot be read or is not a JSON object.
    """
    text, name = word.removeprefix("\ufeff"), "the schema"
    if not text.lstrip().startswith("{"):
        name = f"schema {word}"
        try:
            text = read_bytes(Path(word)).decode("utf-8-sig")
        except (OSError, ValueError) as error:
            not_text = "it is not UTF-8 text"
            reason = describe_os_error(error) if isinstance(error, OSError) else not_text
            raise InputError(f"{name} cannot be read: {reason}", _SCHEMA_HINT) from error
    try:
        read_object(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} cannot be used: {error}", _SCHEMA_HINT) from error
    return text


class _TokenTable:
    """A tokenizer as llguidance asks for it; what ends an answer is an id of its own.

    Tokens are `Tokenizer.to_bytes`, llguidance's only view of them, so both cannot disagree.
    """

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = tokenizer.vocab_size
        self.special_token_ids = (tokenizer.vocab_size,)
        self.tokens = (*map(tokenizer.to_bytes, range(tokenizer.vocab_size)), b"\xff<end>")

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text.decode() if isinstance(text, bytes) else text)


class AnswerGrammar:
    """The set of answers that are allowed; each answer begins its own `GrammarConstraint`.

    Args:
        tokenizer: of the variant that answers.
        text: a grammar in llguidance's notation.
        complete: finds an end for an answer.

    Raises:
        InputError: the grammar is not one, or asks for what cannot be promised.
    """

    def __init__(self, tokenizer: Tokenizer, text: str, complete: Completer) -> None:
        from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

        self.tokenizer = tokenizer
        self.complete = complete
        pieces = ((tokenizer.to_bytes(id), id) for id in reversed(range(tokenizer.vocab_size)))
        self.byte_ids = {piece[0]: id for piece, id in pieces if len(piece) == 1}
        library_tokenizer = LLTokenizer(TokenizerWrapper(_TokenTable(tokenizer)))
        self._matcher = LLMatcher(library_tokenizer, text, log_level=0)
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split())
            raise InputError(f"the schema cannot be kept to: {reason}", _SCHEMA_HINT)

    def start(self) -> "GrammarConstraint":
        """Begins an answer."""
        return GrammarConstraint(self, self._matcher.deep_copy())


def make_grammar(
    tokenizer: Tokenizer, choices: str | None, schema: str | None
) -> "AnswerGrammar | None":
    """Makes the grammar of `--choices` or `--schema`, as typed; None where both are missing.

    Raises:
        UsageError: the choices make no sense.
        InputError: the schema cannot be used.
    """
    if choices is not None:
        return make_choice_grammar(tokenizer, split_choices(choices))
    return None if schema is None else make_schema_grammar(tokenizer, read_schema(schema))


def make_choice_grammar(tokenizer: Tokenizer, choices: Sequence[str]) -> AnswerGrammar:
    """Makes the grammar of answers that are one of the choices, after at most one space.

    Args:
        tokenizer: of the variant that answers.
        choices: none of them empty or with white space around it.
    """
    from llguidance import LLMatcher

    # A template that ends without a space makes ` yes` likelier than `yes`.
    pattern = " ?(" + "|".join(map(re.escape, choices)) + ")"
    encoded = [each.encode() for each in choices]

    def complete(said: bytes, *_: object) -> bytes | None:
        begun = said.removeprefix(b" ")
        rests = [each[len(begun) :] for each in encoded if each.startswith(begun)]
        return min(rests, key=len, default=None)

    return AnswerGrammar(tokenizer, LLMatcher.grammar_from_regex(pattern), complete)


def make_schema_grammar(tokenizer: Tokenizer, schema: str) -> AnswerGrammar:
    """Makes the grammar of answers that are a JSON document on one line which a schema allows.

    Args:
        tokenizer: of the variant that answers.
        schema: a JSON object, as `read_schema` returns it.

    Raises:
        InputError: it is no schema, nothing can satisfy it, or it has a keyword whose keeping
            cannot be promised.
    """
    from llguidance import LLMatcher

    text = LLMatcher.grammar_from_json_schema(schema, overrides=_JSON_OPTIONS)  # type: ignore[arg-type]

    def complete(said: bytes, matcher: "LLMatcher", byte_ids: dict[int, int]) -> bytes | None:
        """Searches for a short end of the document, taking what closes most at every step."""
        found = b""
        while not matcher.is_accepting():
            step = matcher.compute_ff_bytes()  # what the grammar forces
            if not step:
                n_quotes = sum(bool(quote) for quote in _QUOTE.findall(said + found))
                order = b'"' + _CLOSING_ORDER if n_quotes % 2 else _CLOSING_ORDER
                fits = (byte for byte in order if matcher.validate_tokens([byte_ids[byte]]))
                step = bytes(itertools.islice(fits, 1))
            if not step or len(found) + len(step) > _MAX_CLOSING_BYTES:
                return None
            if not matcher.consume_tokens([byte_ids[byte] for byte in step]):
                return None
            found += step
        return found

    return AnswerGrammar(tokenizer, text, complete)


class GrammarConstraint:
    """One answer on its way through a grammar; a `generate.Constraint`."""

    def __init__(self, grammar: AnswerGrammar, matcher: "LLMatcher") -> None:
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
        """Checks that an answer fits.

        Args:
            n_left: tokens there is room for.

        Raises:
            InputError: the shortest that was found is longer.
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
        """Returns a mask of the tokens that may come next, (V,) bool; those that end it are False.

        Raises:
            InputError: the grammar has become too large to follow.
        """
        bias = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8)
        self._check()
        return bias[: self._tokenizer.vocab_size] > 0

    def take(self, token: int, n_left: int) -> int | None:
        """Appends a token, or another one where the answer could not be completed after it.

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

    def force(self, n_left: int) -> Sequence[int]:
        """Appends the tokens that alone can follow, as the tokenizer divides their text.

        Args:
            n_left: tokens there is room for.

        Returns:
            The tokens; none where there is a choice, or no room for them and for what has to
            follow.

        Raises:
            InputError: the grammar has become too large to follow.
        """
        forced = [] if self._is_cut else self._matcher.compute_ff_tokens()
        if not forced or len(forced) > n_left:
            return ()
        self._matcher.consume_tokens(forced)
        self._check()
        said, self._said = self._said, self._said + b"".join(map(self._tokenizer.to_bytes, forced))
        way = self._find_way()
        if self._way is not None and (way is None or len(way) > n_left - len(forced)):
            self._matcher.rollback(len(forced))
            self._said = said
            return ()
        self._way = way
        return forced

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
        """Returns ids that would complete the answer, as the tokenizer divides the text found."""
        if self._matcher.is_accepting():
            return []
        rest = self._grammar.complete(self._said, self._matcher.deep_copy(), self._grammar.byte_ids)
        if rest is None:
            return None
        # The text may begin inside a character, whose bytes are tokens by themselves.
        n_begun = next((i for i, byte in enumerate(rest) if byte & 0xC0 != 0x80), len(rest))
        ids = [self._grammar.byte_ids[byte] for byte in rest[:n_begun]]
        ids += self._tokenizer.encode(rest[n_begun:].decode())
        return ids if self._matcher.validate_tokens(ids) == len(ids) else None

    def _check(self) -> None:
        """Raises an `InputError` where the library has given up."""
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split())
            raise InputError(f"the form asked for is too large to follow: {reason}", _SCHEMA_HINT)
