"""Phi-2's tokenizer is read from its one file, or built from its older ones."""

import json

import pytest
from tokenizers import Tokenizer

from tests.light.weights.test_sources import FILES
from tinyv_cli.errors import WeightsError
from weights.reading.sources import read_tokenizer_json, resolve_sources
from weights.synthetic.tokenizer_files import make_small_merges, write_tokenizer

TEXT = "Give ###Human: <Img></Img> é 図\n\t\t  what is   the image?###Assistant: <|endoftext|>"


@pytest.fixture
def phi(tmp_path):
    (tmp_path / "phi-2").mkdir()
    for name in FILES:
        (tmp_path / name).touch()
    write_tokenizer(tmp_path / "phi-2", make_small_merges())
    return tmp_path / "phi-2"


def read(phi) -> Tokenizer:
    return Tokenizer.from_str(read_tokenizer_json(resolve_sources(phi.parent)))


def test_the_older_files_make_the_same_tokenizer(phi):
    whole = read(phi)
    (phi / "tokenizer.json").unlink()
    built = read(phi)

    assert built.get_vocab() == whole.get_vocab()
    assert built.encode(TEXT).ids == whole.encode(TEXT).ids
    assert built.decode(built.encode(TEXT).ids, skip_special_tokens=False) == TEXT


def test_the_older_files_are_listed_only_where_they_are_read(phi):
    names = {path.name for path in resolve_sources(phi.parent).all_files}
    assert "tokenizer.json" in names
    assert "vocab.json" not in names

    (phi / "tokenizer.json").unlink()
    names = {path.name for path in resolve_sources(phi.parent).all_files}
    assert {"vocab.json", "merges.txt", "added_tokens.json"} <= names


def test_a_folder_without_a_tokenizer_lacks_it(phi):
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (phi / name).unlink()
    with pytest.raises(WeightsError, match=r"lacks phi-2/tokenizer\.json"):
        resolve_sources(phi.parent)


def test_white_space_the_stop_mark_and_the_end_are_single_tokens(phi):
    tokenizer = read(phi)
    for text in ("###", " ###", "<|endoftext|>", "  ", " " * 31, "\t" * 9):
        assert len(tokenizer.encode(text).ids) == 1, text
    assert len(tokenizer.encode(" " * 32).ids) == 2


def test_a_damaged_tokenizer_is_refused(phi):
    (phi / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(WeightsError, match=r"phi-2/tokenizer\.json is not a tokenizer"):
        read(phi)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("merges.txt", "a b c\n"),
        ("merges.txt", "# zz\n"),
        ("vocab.json", "{"),
        ("vocab.json", '{"a": "b"}'),
        ("added_tokens.json", '{"  ": "x", "   ": 4}'),
    ],
)
def test_older_files_that_do_not_fit_are_refused(phi, name, text):
    (phi / "tokenizer.json").unlink()
    (phi / name).write_text(text)
    with pytest.raises(WeightsError) as caught:
        read(phi)
    assert name in caught.value.problem


def test_an_added_token_with_another_id_than_the_next_is_refused(phi):
    (phi / "tokenizer.json").unlink()
    added = json.loads((phi / "added_tokens.json").read_text())
    added[" " * 31] += 100
    (phi / "added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(WeightsError, match="the id"):
        read(phi)
