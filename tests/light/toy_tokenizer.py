"""A small byte-level tokenizer file: every byte, some merges, and added tokens as Phi-2's."""

import json

from tinyv_cli.answers.tokenizer import _BYTE_OF, Tokenizer

MERGES = [("#", "#"), ("##", "#"), ("Ġ", "###"), ("c", "a"), ("ca", "t"), ("Ġ", "cat")]
ADDED = ["   ", "\t\t", "é日"]  # Phi-2's whitespace tokens, and one that no byte characters spell


def write_tokenizer(path, merges=MERGES, **changes):
    """Ids: 0 to 255 the bytes, then the merges, then `<|endoftext|>` and the added tokens."""
    vocab = dict(_BYTE_OF)
    for pair in merges:
        vocab["".join(pair)] = len(vocab)
    added = [
        {
            "id": len(vocab) + i,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": i == 0,
        }
        for i, content in enumerate(["<|endoftext|>", *ADDED])
    ]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": [list(pair) for pair in merges],
        },
    }
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


def make_tokenizer(folder):
    return Tokenizer(write_tokenizer(folder / "tokenizer.json"))
