"""Tokenizers that the library reads and no answer could be made with, or that make it panic."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.light.real_variant import PICTURE, copy_variant, replace_file
from tests.light.toy_tokenizer import write_tokenizer
from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.app import main
from tinyv_cli.errors import ExitCode, WeightsError

QUESTIONS = "questions.jsonl"
ROOT = Path(__file__).resolve().parents[3]
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
# Each of them made the library panic, on reading the file or on the first text.
PANICS = {
    "a normalizer's empty table": {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}
    },
    "an empty pattern": {
        "normalizer": {"type": "Replace", "pattern": {"Regex": ""}, "content": "x"}
    },
    "pieces of no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
}


def write_model(path, **changes):
    """Writes the toy tokenizer with other values of its model."""
    content = json.loads(write_tokenizer(path).read_text("utf-8"))
    content["model"] |= changes
    path.write_text(json.dumps(content), "utf-8")
    return path


def add_token(content, token, token_id):
    """Adds a token that is no special one, as `[PAD]` in a tokenizer that was trained further."""
    content["model"]["vocab"][token] = token_id
    return content


@pytest.mark.parametrize("kind", PANICS)
def test_a_panic_of_the_library_is_a_weights_error(tmp_path, kind):
    # Source: huggingface/tokenizers 909, a PanicException, which is no Exception.
    path = write_tokenizer(tmp_path / "tokenizer.json", **PANICS[kind])
    with pytest.raises(WeightsError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer(path)


def test_a_panic_writes_nothing_of_its_own_to_stderr(tmp_path):
    path = write_tokenizer(tmp_path / "tokenizer.json", **PANICS["pieces of no length"])
    code = f"""
from pathlib import Path
from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.errors import WeightsError
try:
    Tokenizer(Path({str(path)!r}))
except WeightsError as error:
    import sys
    print("told", file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr == "told\n"


def test_a_library_that_panics_on_a_later_text_is_told_too(tmp_path, monkeypatch):
    tokenizer = Tokenizer(write_tokenizer(tmp_path / "tokenizer.json"))
    panic = type("PanicException", (BaseException,), {})

    class Panicking:
        def encode(self, text, add_special_tokens):
            raise panic("index out of bounds")

    monkeypatch.setattr(tokenizer, "_library", Panicking())
    with pytest.raises(WeightsError, match="cannot encode a text: index out of bounds"):
        tokenizer.encode("cat")


def test_ctrl_c_is_no_panic(tmp_path, monkeypatch):
    tokenizer = Tokenizer(write_tokenizer(tmp_path / "tokenizer.json"))

    class Interrupted:
        def encode(self, text, add_special_tokens):
            raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer, "_library", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode("cat")


def test_dropout_is_off_while_answering(tmp_path):
    tokenizer = Tokenizer(write_model(tmp_path / "tokenizer.json", dropout=0.9))
    assert {tuple(tokenizer.encode("a cat and ###")) for _ in range(20)} == {
        tuple(Tokenizer(write_tokenizer(tmp_path / "plain.json")).encode("a cat and ###"))
    }


def test_a_sequence_of_one_byte_level_decoder_is_one(tmp_path):
    for nested in (BYTE_LEVEL, {"type": "Sequence", "decoders": [BYTE_LEVEL]}):
        alone = {"type": "Sequence", "decoders": [nested]}
        tokenizer = Tokenizer(write_tokenizer(tmp_path / "tokenizer.json", decoder=alone))
        assert tokenizer.decode(tokenizer.encode("a cat")) == "a cat"


@pytest.mark.parametrize(
    "decoders", [[], [BYTE_LEVEL, BYTE_LEVEL], [{"type": "Fuse"}], [{"type": "Fuse"}, BYTE_LEVEL]]
)
def test_a_sequence_of_others_is_none(tmp_path, decoders):
    sequence = {"type": "Sequence", "decoders": decoders}
    path = write_tokenizer(tmp_path / "tokenizer.json", decoder=sequence)
    with pytest.raises(WeightsError, match="not a byte-level tokenizer"):
        Tokenizer(path)


def test_a_byte_without_a_token_is_named(tmp_path):
    # The library drops it from the text without a word.
    path = write_tokenizer(tmp_path / "tokenizer.json", merges=[])
    content = json.loads(path.read_text("utf-8"))
    del content["model"]["vocab"]["é"]  # stands for the byte 0xE9
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(WeightsError, match="has no token for the byte 233"):
        Tokenizer(path)


def test_another_model_with_a_byte_level_decoder_is_refused(tmp_path):
    model = {"type": "WordLevel", "vocab": {"cat": 0}, "unk_token": "cat"}
    path = write_tokenizer(tmp_path / "tokenizer.json", model=model, added_tokens=[])
    with pytest.raises(WeightsError, match="not a byte-level tokenizer"):
        Tokenizer(path)


def test_a_byte_order_mark_is_passed_over(tmp_path):
    path = write_tokenizer(tmp_path / "tokenizer.json")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Tokenizer(path).encode("cat") == [260]


def test_a_gap_among_the_ids_counts_as_ids(tmp_path):
    path = write_tokenizer(tmp_path / "tokenizer.json")
    content = add_token(json.loads(path.read_text("utf-8")), "zz", 400)
    path.write_text(json.dumps(content), "utf-8")
    tokenizer = Tokenizer(path)
    assert tokenizer.vocab_size == 401
    assert tokenizer.decode([300, 400]) == "zz"


@pytest.mark.parametrize("token_id", [1344, 1400, 2**31, 2**32 - 1])
@pytest.mark.parametrize(
    "verb",
    [
        ["ask", str(PICTURE), "[PAD] what is this?"],
        ["ask", str(PICTURE), "what?", "--choices", "yes,no"],
        ["ask", str(PICTURE), "what?", "--schema", '{"type": "object", "properties": {}}'],
        ["eval", QUESTIONS],
        ["bench", "--repeats", "1"],
        ["batch", str(PICTURE), "[PAD] what is this?", "-o", "-"],
    ],
    ids=["ask", "choices", "schema", "eval", "bench", "batch"],
)
def test_an_id_beyond_the_embeddings_is_named_when_the_variant_is_opened(
    tmp_path, monkeypatch, capsys, verb, token_id
):
    # Source: OpenRLHF 87; `ask "[PAD] …"` ended with a traceback, and a batch died. One id of 2³¹
    # took 8.2 GB.
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    folder = copy_variant(tmp_path / "v")
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    replace_file(
        folder, "tokenizer.json", json.dumps(add_token(content, "[PAD]", token_id)).encode()
    )
    line = {"picture": str(PICTURE), "task": "what", "question": "[vqa] what?", "answer": "cat"}
    (tmp_path / QUESTIONS).write_text(json.dumps(line) + "\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert main([*verb, "-m", str(folder), "-q"]) == ExitCode.WEIGHTS
    out, err = capsys.readouterr()
    assert out == ""
    path = folder / "tokenizer.json"
    assert f"error: {path} gives the token '[PAD]' the id {token_id}, the embeddings have" in err
    assert len(err.splitlines()) == 2
