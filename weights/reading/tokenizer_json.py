"""Phi-2's tokenizer files become the text of one tokenizer.json that fits the network.

Ids are checked before the library sees them: it makes room for every id up to the largest.
"""

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from tinyv_cli.answers.tokenizer import END_OF_TEXT, Tokenizer
from tinyv_cli.disk.typed_json import read_object
from tinyv_cli.errors import WeightsError
from weights.reading.sources import (
    ADDED_TOKENS_FILE,
    TOKENIZER_FILE,
    TOKENIZER_PARTS,
    SourceFiles,
    read_json_object,
    read_text,
)

_FETCH_HINT = "fetch it again: it belongs to the weights beside it"
# Without a network to compare with: more than any vocabulary has, little enough to make room for.
_MOST_IDS = 1_000_000


def read_tokenizer_json(files: SourceFiles, n_rows: int = _MOST_IDS) -> str:
    """Reads the tokenizer in the one-file form, or builds that from its older files.

    Args:
        files: the sources.
        n_rows: of the network's embedding; every token's id is below it.

    Returns:
        The text of a tokenizer.json that answering takes.

    Raises:
        WeightsError: a file is damaged, they do not fit one another, or a token has no row.
    """
    first, *others = files.tokenizer_files
    names = " and ".join(files.label(path) for path in files.tokenizer_files)
    try:
        if first.name == TOKENIZER_FILE:
            text = read_text(first)
            _check_ids(names, _list_ids(read_object(text)), n_rows)
        else:
            vocabulary = read_json_object(first)
            added = read_json_object(others[1]) if others[1:] else {}
            for path, ids in zip((first, *others[1:]), (vocabulary, added), strict=False):
                _check_ids(files.label(path), list(ids.items()), n_rows)
            lines = [each for each in read_text(others[0]).split("\n") if each[:9] != "#version:"]
            merges = [(words[0], words[-1]) for words in map(str.split, lines) if len(words) == 2]
            if len(merges) != len(lines) - lines.count(""):
                raise WeightsError(
                    f"{others[0]} holds a line that is not two tokens", "fetch it again"
                )
            text = make_tokenizer_json(vocabulary, merges, added)
        # As answering opens it, so that nothing is found out after gigabytes were written.
        Tokenizer(Path(files.label(first)), n_rows, text=text, hint=_FETCH_HINT)
    except (WeightsError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the library raises plain `Exception`; its panics are none
        said = "is not a tokenizer" if first.name == TOKENIZER_FILE else "make no tokenizer"
        raise WeightsError(f"{names} {said}: {str(error)[:200]}", _FETCH_HINT) from error
    return text


def _list_ids(values: dict[str, Any]) -> list[tuple[object, object]]:
    """Lists token and id of all that a tokenizer.json holds."""
    model, added = values.get("model"), values.get("added_tokens") or []
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or not isinstance(added, list):
        raise ValueError("it holds no vocabulary")
    if not all(isinstance(each, dict) for each in added):
        raise ValueError("its added tokens are not objects")
    return [*vocabulary.items(), *((each.get("content"), each.get("id")) for each in added)]


def _check_ids(label: str, ids: list[tuple[Any, Any]], n_rows: int) -> None:
    """Refuses a token whose id is no row of the embedding, or another token's."""
    tokens: dict[int, object] = {}
    for token, token_id in ids:
        if type(token_id) is not int or not 0 <= token_id < n_rows:
            raise WeightsError(
                f"{label} gives token {str(token)[:40]!r} the id {token_id!r:.40}, but the "
                f"embedding has {n_rows} rows",
                _FETCH_HINT,
            )
        if tokens.setdefault(token_id, token) != token:
            raise WeightsError(
                f"{label} gives two tokens the id {token_id}: {str(tokens[token_id])[:40]!r} and "
                f"{str(token)[:40]!r}",
                _FETCH_HINT,
            )


def make_tokenizer_json(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], added: dict[str, int]
) -> str:
    """Builds Phi-2's tokenizer: byte-level BPE, no prefix space, nothing added to a text.

    Args:
        vocabulary: token → id, written in the byte-level alphabet.
        merges: pairs of tokens, the first to be merged first.
        added: token → id of whole texts beside the vocabulary (Phi-2 has 38 runs of white space).

    Returns:
        The text of a tokenizer.json.

    Raises:
        WeightsError: an added token's id is not the next free one.

    Source: the CodeGen tokenizer that Phi-2's tokenizer_config.json names.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    by_id = sorted((token for token in added if token != END_OF_TEXT), key=lambda t: added[t])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in by_id])
    wrong = [token for token in added if tokenizer.token_to_id(token) != added[token]]
    if wrong:
        raise WeightsError(
            f"{ADDED_TOKENS_FILE} gives {wrong[0]!r} the id {added[wrong[0]]!r}, "
            f"not {tokenizer.token_to_id(wrong[0])}",
            f"fetch it again together with {' and '.join(TOKENIZER_PARTS)}",
        )
    return str(tokenizer.to_str())
