"""Merges become a tokenizer in Phi-2's files.

Byte-level BPE as Phi-2's, with its 38 runs of white space and `<|endoftext|>`.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from tokenizers import pre_tokenizers

from tinyv_cli.answers.tokenizer import END_OF_TEXT
from tinyv_cli.disk.whole_file import write_whole
from weights.reading.sources import (
    ADDED_TOKENS_FILE,
    TOKENIZER_FILE,
    TOKENIZER_PARTS,
    write_json,
)
from weights.reading.tokenizer_json import make_tokenizer_json

Merge = tuple[str, str]
SPACE = "Ġ"  # a space in the byte-level alphabet
_SMALL_WORDS = (
    "###",
    "Human",
    "Assistant",
    "Image",
    "Img",
    "Ġthe",
    "Ġimage",
    "Ġis",
    "Ġof",
    "Ġwhat",
)


def write_tokenizer(folder: Path, merges: Sequence[Merge]) -> int:
    """Writes tokenizer.json and the older files it was built from.

    Args:
        folder: phi-2/ of the sources.
        merges: pairs of tokens in the byte-level alphabet, the first to be merged first.

    Returns:
        The number of tokens.
    """
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges), END_OF_TEXT]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    # Phi-2's added tokens: 31 to 2 spaces, then 9 to 2 tabs.
    runs = [*(" " * n for n in range(31, 1, -1)), *("\t" * n for n in range(9, 1, -1))]
    added = {run: len(tokens) + i for i, run in enumerate(runs)}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    config = {"add_prefix_space": False, **special, "tokenizer_class": "CodeGenTokenizer"}
    vocab_file, merges_file = TOKENIZER_PARTS
    write_json(folder / vocab_file, vocabulary)
    (folder / merges_file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(folder / ADDED_TOKENS_FILE, added)
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", special)
    text = make_tokenizer_json(vocabulary, list(merges), added)
    write_whole(folder / TOKENIZER_FILE, text)  # last: a kill leaves it out, or all is there
    return len(vocabulary) + len(added)


def make_small_merges() -> list[Merge]:
    """Makes merges of a dozen words, `###` and ` ###`: with bytes and spaces under 512 tokens."""
    return [*spell_words(_SMALL_WORDS), (SPACE, "###")]


def spell_words(words: Sequence[str]) -> list[Merge]:
    """Makes merges that turn each word into one token, from its left, letter by letter."""
    merges: dict[Merge, None] = {}
    for word in words:
        starts = [word[:i] for i in range(1, len(word) + 1)]
        merges |= dict.fromkeys((start, longer[-1]) for start, longer in pairwise(starts))
    return list(merges)
