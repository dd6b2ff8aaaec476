"""Text becomes token ids, and token ids text again, whole characters at a time.

The `tokenizers` library encodes. Decoding is done here from each token's bytes, because answers are
streamed: the library decodes whole sequences, this one token at a time, with the same result.
"""

import codecs
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import tokenizers
from tokenizers.decoders import ByteLevel, Sequence
from tokenizers.models import BPE

from tinyv_cli.errors import WeightsError, describe_os_error

END_OF_TEXT = "<|endoftext|>"
STOP_MARK = "###"

# Which byte a character of a token stands for: printable bytes are themselves; the others, in
# order, are characters from U+0100 on. Source: GPT-2's `bytes_to_unicode`.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(0x100) if byte not in _PRINTABLE]
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(0x100 + i): byte for i, byte in enumerate(_OTHERS)
}


class Tokenizer:
    """GPT-2's byte-level BPE as Phi-2's `tokenizer.json` describes it."""

    def __init__(self, path: Path, n_rows: int | None = None) -> None:
        """Reads a `tokenizer.json`.

        Args:
            path: the file.
            n_rows: of the network's embedding; every token's id is below it.

        Raises:
            WeightsError: it cannot be read, is damaged, is not byte-level, or a token has no row.
        """
        hint = "make the variant again: `tinyv quantize --sources FOLDER`"
        try:
            library = tokenizers.Tokenizer.from_str(path.read_text("utf-8"))
        except FileNotFoundError as error:
            raise WeightsError(f"there is no tokenizer {path}", hint) from error
        except OSError as error:
            reason = describe_os_error(error)
            raise WeightsError(f"{path} cannot be read: {reason}", hint) from error
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # the library raises plain `Exception`; its panics are none
            raise WeightsError(f"{path} is not a tokenizer: {error}", hint) from error
        if not _is_byte_level(library.decoder):
            raise WeightsError(f"{path} is not a byte-level tokenizer", hint)
        largest = max(library.get_vocab(with_added_tokens=True).values(), default=0)
        if n_rows is not None and largest >= n_rows:
            token = library.id_to_token(largest)
            problem = f"{path} gives token {token!r} the id {largest}, but the embedding has "
            raise WeightsError(f"{problem}{n_rows} rows", hint)
        if isinstance(library.model, BPE):
            library.model.dropout = None  # of training: it would encode by chance
        library.no_truncation()
        library.no_padding()
        self._library = library
        added = library.get_added_tokens_decoder()
        self._special_ids = frozenset(id for id, token in added.items() if token.special)

    @property
    def vocab_size(self) -> int:
        """Number of ids that stand for a token; the network's vocabulary may be larger."""
        return self._library.get_vocab_size(with_added_tokens=True)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        return frozenset(derive_stop_ids(self))

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of one text; nothing is added at its start or end."""
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


def _is_byte_level(decoder: object) -> bool:
    """Returns whether a decoder is `ByteLevel`, or a sequence of that alone."""
    if not isinstance(decoder, Sequence):
        return isinstance(decoder, ByteLevel)
    parts = json.loads(decoder.__getstate__()).get("decoders", [])
    return [part.get("type") for part in parts] == ["ByteLevel"]


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
