import json
import time

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import CASES, GOLDEN, needs_golden
from tests.light.toy_tokenizer import make_tokenizer, write_tokenizer
from tinyv_cli.answers.tokenizer import Tokenizer, derive_stop_ids
from tinyv_cli.errors import WeightsError


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = write_tokenizer(tmp_path_factory.mktemp("library") / "tokenizer.json")
    return tokenizers.Tokenizer.from_file(str(path))


@needs_golden
@pytest.mark.parametrize("case", CASES)
def test_both_turns_have_the_published_ids(case):
    tokenizer = Tokenizer(GOLDEN / case / "phi-2" / "tokenizer.json")
    for turn in json.loads((GOLDEN / case / "expected.json").read_text())["turns"]:
        pieces = turn["prompt"].split("<ImageHere>")
        assert [tokenizer.encode(piece) for piece in pieces] == turn["segment_ids"]
        assert tokenizer.decode(turn["greedy_ids"]) == turn["text"]


@needs_golden
@pytest.mark.parametrize("case", CASES)
def test_a_miniatures_stop_ids_are_its_own(case):
    tokenizer = Tokenizer(GOLDEN / case / "phi-2" / "tokenizer.json")
    end = json.loads((GOLDEN / case / "expected.json").read_text())["end_token_id"]
    assert derive_stop_ids(tokenizer) == [0, end, tokenizer.encode(" ###")[0]]


def test_stop_ids_are_the_marks_that_are_one_token(tmp_path, toy):
    assert derive_stop_ids(toy) == [257, 258, 262]
    assert toy.stop_ids == {257, 258, 262}
    no_space = [("#", "#"), ("##", "#")]
    assert derive_stop_ids(Tokenizer(write_tokenizer(tmp_path / "a", no_space))) == [257, 258]
    assert derive_stop_ids(Tokenizer(write_tokenizer(tmp_path / "b", []))) == [256]


def test_nothing_is_added_at_the_start_of_a_piece(tmp_path):
    bos = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [],
        "special_tokens": {
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [262], "tokens": ["<|endoftext|>"]}
        },
    }
    path = write_tokenizer(tmp_path / "tokenizer.json", post_processor=bos)
    assert tokenizers.Tokenizer.from_file(str(path)).encode("cat").ids == [262, 260]
    assert Tokenizer(path).encode("cat") == [260]
    assert Tokenizer(path).encode("") == []


def test_a_files_truncation_and_padding_are_ignored(tmp_path):
    cut = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    path = write_tokenizer(tmp_path / "tokenizer.json", truncation=cut)
    assert len(tokenizers.Tokenizer.from_file(str(path)).encode("a" * 9).ids) == 4
    assert len(Tokenizer(path).encode("a" * 9)) == 9


def test_the_vocabulary_counts_added_tokens(toy):
    assert toy.vocab_size == 256 + 6 + 4


ids_of_any_kind = st.lists(st.integers(0, 300), max_size=40)


@settings(max_examples=300, deadline=None)
@given(ids=ids_of_any_kind)
def test_a_stream_gives_the_text_of_the_whole_sequence(toy, library, ids):
    stream = toy.make_stream()
    pushed = [stream.push(token) for token in ids]
    assert "".join(pushed) + stream.flush() == toy.decode(ids)
    assert toy.decode(ids) == library.decode(ids)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=30))
def test_text_survives_and_no_push_splits_a_character(toy, text):
    stream = toy.make_stream()
    pushed = [stream.push(token) for token in toy.encode(text)]
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pushed)
    assert "".join(pushed) + stream.flush() == text.replace("<|endoftext|>", "")


def test_an_unfinished_character_is_told_at_the_end(toy):
    first, *_ = "日".encode()
    stream = toy.make_stream()
    assert stream.push(first) == ""
    assert stream.flush() == "\ufffd"


def test_ids_beyond_the_vocabulary_are_harmless(toy):
    ids = [*toy.encode("ca"), 300, 51199, *toy.encode("t")]
    assert toy.decode(ids) == "cat"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]", b'{"version": "1.0"}', b"\xff\xfe\x00", b"a cat"]
)
def test_a_damaged_file_is_a_weights_error(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"tokenizer\.json is not a tokenizer") as caught:
        Tokenizer(path)
    assert "tinyv quantize" in caught.value.hint


def test_a_cut_off_file_is_a_weights_error(tmp_path):
    path = write_tokenizer(tmp_path / "tokenizer.json")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(WeightsError):
        Tokenizer(path)


def test_a_missing_file_or_a_folder_is_a_weights_error(tmp_path):
    with pytest.raises(WeightsError, match="there is no tokenizer"):
        Tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(WeightsError, match="cannot be read"):
        Tokenizer(tmp_path)


def test_a_tokenizer_of_another_kind_is_refused(tmp_path):
    path = write_tokenizer(tmp_path / "tokenizer.json", decoder=None)
    with pytest.raises(WeightsError, match="not a byte-level tokenizer"):
        Tokenizer(path)


def test_a_vocabulary_of_phi_2s_size_loads_in_no_time(tmp_path):
    letters = "abcdefghijklmnopqrstuvwxyz"
    pairs = [(a, b) for a in letters for b in letters]
    triples = [(a + b, c) for a, b in pairs for c in letters]
    fours = [(a + b, c) for a, b in triples for c in letters]
    path = write_tokenizer(tmp_path / "tokenizer.json", [*pairs, *triples, *fours][:50000])
    started = time.perf_counter()
    tokenizer = Tokenizer(path)
    elapsed_s = time.perf_counter() - started
    assert tokenizer.vocab_size > 50000
    assert elapsed_s < 2  # 0.1 s on a laptop; the rest is for a busy machine
