"""A dozen words become a small tokenizer in Phi-2's files; knows no network.

Byte-level BPE as Phi-2's, with `###` and ` ###` as single tokens, Phi-2's 38 runs of white space
and `<|endoftext|>`, in 512 tokens or fewer.
"""

import json
from itertools import pairwise
from pathlib import Path

from tokenizers import pre_tokenizers

from weights.sources import (
    ADDED_TOKENS_FILE,
    END_OF_TEXT,
    TOKENIZER_FILE,
    TOKENIZER_PARTS,
    make_tokenizer_json,
)

_SPACE = "Ġ"  # a space in the byte-level alphabet
_WORDS = ("###", "Human", "Assistant", "Image", "Img", "Ġthe", "Ġimage", "Ġis", "Ġof", "Ġwhat")


def write_tokenizer(folder: Path) -> int:
    """Writes tokenizer.json and the older files it was built from.

    Returns:
        The number of tokens.
    """
    merges = _make_merges()
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges), END_OF_TEXT]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    added = {run: len(tokens) + i for i, run in enumerate(_make_space_runs())}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    config = {"add_prefix_space": False, **special, "tokenizer_class": "CodeGenTokenizer"}
    vocab_file, merges_file = TOKENIZER_PARTS
    _write_json(folder / vocab_file, vocabulary)
    (folder / merges_file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_json(folder / ADDED_TOKENS_FILE, added)
    _write_json(folder / "tokenizer_config.json", config)
    _write_json(folder / "special_tokens_map.json", special)
    text = make_tokenizer_json(vocabulary, merges, added)
    (folder / TOKENIZER_FILE).write_text(text, encoding="utf-8")
    return len(vocabulary) + len(added)


def _make_merges() -> list[tuple[str, str]]:
    """Each word from its left, letter by letter; then `###` after a space."""
    merges: dict[tuple[str, str], None] = {}
    for word in _WORDS:
        starts = [word[:i] for i in range(1, len(word) + 1)]
        merges |= dict.fromkeys((start, longer[-1]) for start, longer in pairwise(starts))
    return [*merges, (_SPACE, "###")]


def _make_space_runs() -> list[str]:
    """Phi-2's added tokens: 31 to 2 spaces, then 9 to 2 tabs."""
    return [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
