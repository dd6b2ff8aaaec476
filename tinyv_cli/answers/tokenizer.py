"""Text becomes token ids, and token ids text again, whole characters at a time.

The `tokenizers` library encodes. Decoding is done here from each token's bytes, because answers are
streamed: the library decodes whole sequences, this one token at a time, with the same result.
"""

import codecs
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import tokenizers
from tokenizers.decoders import Decoder
from tokenizers.models import BPE

from tinyv_cli.errors import WeightsError, describe_os_error
from tinyv_cli.variants.manifest import Variant

END_OF_TEXT = "<|endoftext|>"
STOP_MARK = "###"
_MAKE_AGAIN = "make the variant again: `tinyv quantize --sources FOLDER`"

# Which byte a character of a token stands for: printable bytes are themselves; the others, in
# order, are characters from U+0100 on. Source: GPT-2's `bytes_to_unicode`.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(0x100) if byte not in _PRINTABLE]
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(0x100 + i): byte for i, byte in enumerate(_OTHERS)
}
_PROBES = ("".join(map(chr, range(0x180))), "what is this?", "### a")  # a panic shows with these


class Tokenizer:
    """GPT-2's byte-level BPE as Phi-2's `tokenizer.json` describes it.

    Attributes:
        vocab_size: ids that stand for a token are below it; the network may have more.
    """

    def __init__(
        self,
        path: Path,
        n_ids: int | None = None,
        *,
        text: str | None = None,
        hint: str = _MAKE_AGAIN,
    ) -> None:
        """Reads a `tokenizer.json`.

        Args:
            path: the file.
            n_ids: how many ids have a row in the token embeddings; None where that is not known.
            text: what is in it, where that is known; then the path only stands in messages.
            hint: what to do about a damaged one.

        Raises:
            WeightsError: it cannot be read, is damaged, is not a byte-level BPE, or has an id
                without a row.
        """
        self._path, self._hint = path, hint
        with _mute_stderr(), self._translate_failures("is not a tokenizer"):
            library = tokenizers.Tokenizer.from_str(self._read_text() if text is None else text)
            if not isinstance(library.model, BPE) or not _is_byte_level(library.decoder):
                raise WeightsError(f"{path} is not a byte-level tokenizer", hint)
            library.no_truncation()
            library.no_padding()
            library.model.dropout = None  # else a text gets other ids each time
            for probe in _PROBES:
                library.encode(probe, add_special_tokens=False)
            ids = library.get_vocab(with_added_tokens=True)
            added = library.get_added_tokens_decoder()
        missing = [byte for sign, byte in _BYTE_OF.items() if sign not in ids]
        if missing:
            raise WeightsError(f"{path} has no token for the byte {min(missing)}", hint)
        last = max(ids, key=ids.__getitem__)
        if n_ids is not None and ids[last] >= n_ids:
            raise WeightsError(
                f"{path} gives the token {last!r} the id {ids[last]}, the embeddings have rows for "
                f"{n_ids}",
                hint,
            )
        self.vocab_size = ids[last] + 1
        self._library = library
        self._special_ids = frozenset(id for id, token in added.items() if token.special)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        return frozenset(derive_stop_ids(self))

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of one text; nothing is added at its start or end."""
        with self._translate_failures("cannot encode a text"):
            return self._library.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of a sequence of ids.

        Bytes that are not UTF-8 become U+FFFD; special tokens and ids without a token become
        nothing.
        """
        return b"".join(map(self.to_bytes, ids)).decode("utf-8", "replace")

    def make_stream(self) -> "TextStream":
        """Starts decoding a sequence that arrives id by id."""
        return TextStream(self)

    def to_bytes(self, token_id: int) -> bytes:
        """Returns the UTF-8 bytes, possibly part of a character, that one id stands for."""
        token = self._library.id_to_token(token_id)
        if token is None or token_id in self._special_ids:
            return b""
        try:
            return bytes(_BYTE_OF[character] for character in token)
        except KeyError:  # an added token, such as a run of spaces, is written as itself
            return token.encode()

    def find_special(self, token: str) -> int | None:
        """Returns the id of a token as written in the vocabulary; None if there is none."""
        return self._library.token_to_id(token)

    def _read_text(self) -> str:
        """Reads the file."""
        try:
            return self._path.read_text("utf-8-sig")
        except FileNotFoundError as error:
            raise WeightsError(f"there is no tokenizer {self._path}", self._hint) from error
        except OSError as error:
            reason = describe_os_error(error)
            raise WeightsError(f"{self._path} cannot be read: {reason}", self._hint) from error
        except UnicodeDecodeError as error:
            problem = f"{self._path} is not a tokenizer: it is not UTF-8 text"
            raise WeightsError(problem, self._hint) from error

    @contextmanager
    def _translate_failures(self, problem: str) -> Iterator[None]:
        """Makes a `WeightsError` of whatever the library raises."""
        try:
            yield
        except WeightsError:
            raise
        except Exception as error:  # the library raises plain `Exception`
            raise WeightsError(f"{self._path} {problem}: {error}", self._hint) from error
        except BaseException as error:
            # A panic of Rust's; its class can be imported from nowhere.
            if type(error).__name__ != "PanicException":
                raise
            raise WeightsError(f"{self._path} {problem}: {error}", self._hint) from error


class TextStream:
    """Turns ids into text as they arrive; its texts joined equal `Tokenizer.decode` of all ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """Takes one id; returns the characters it completes, often one word, sometimes nothing."""
        return self._decoder.decode(self._tokenizer.to_bytes(token_id))

    def flush(self) -> str:
        """Ends the sequence; returns U+FFFD if a character was left unfinished."""
        return self._decoder.decode(b"", final=True)


def open_tokenizer(variant: Variant) -> Tokenizer:
    """Reads a variant's tokenizer.

    Raises:
        WeightsError: it is missing or damaged, or has an id beyond the variant's embeddings.
    """
    return Tokenizer(variant.path("tokenizer"), variant.manifest.spec.language.vocab_size)


def _is_byte_level(decoder: Decoder | None) -> bool:
    """Checks for a byte-level decoder, by itself or alone in a sequence."""
    if decoder is None:
        return False
    state = json.loads(decoder.__getstate__())
    while state["type"] == "Sequence" and len(state["decoders"]) == 1:
        [state] = state["decoders"]
    return bool(state["type"] == "ByteLevel")


@contextmanager
def _mute_stderr() -> Iterator[None]:
    """Keeps back what Rust writes to stderr when it panics, past `sys.stderr`."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def derive_stop_ids(tokenizer: Tokenizer) -> list[int]:
    """Finds the ids that end an answer.

    Returns:
        In rising order the ids of ``###`` and `` ###``, where each is a single token, and of
        ``<|endoftext|>``: 21017, 44386 and 50256 in Phi-2's vocabulary.

    Source: the stopping criteria of the published demo.
    """
    marks = [tokenizer.encode(text) for text in (STOP_MARK, f" {STOP_MARK}")]
    found = {ids[0] for ids in marks if len(ids) == 1}
    end = tokenizer.find_special(END_OF_TEXT)
    return sorted(found if end is None else found | {end})
