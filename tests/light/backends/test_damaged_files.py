"""Files of a variant that are damaged and hashed so: an error that names them, never a traceback.

Found by flipping bits of files whose hashes were then made to fit.
"""

import random

import numpy as np
import pytest

from tests.light.real_variant import PICTURE, copy_variant, replace_file
from tinyv_cli.app import main
from tinyv_cli.backends.cpu import onnx_sessions
from tinyv_cli.backends.cpu.onnx_decoder import make_cache
from tinyv_cli.errors import DeviceError, ExitCode, WeightsError
from tinyv_cli.spec import LanguageSpec
from tinyv_cli.variants.manifest import read_variant

N_FLIPS = 40  # of each file


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))


@pytest.fixture
def folder(tmp_path):
    return copy_variant(tmp_path / "v")


def ask(folder, capfd, *flags):
    words = ["ask", str(PICTURE), "what is this?", "-m", str(folder), "-n", "2", "-q", *flags]
    code = main(words)
    return code, *capfd.readouterr()


@pytest.mark.parametrize(
    "name",
    ["decoder.onnx", "vision.onnx", "embeddings.npy", "embeddings.scales.npy", "tokenizer.json"],
)
def test_a_flipped_bit_ends_with_an_answer_or_with_the_variant(folder, capfd, name):
    sound = (folder / name).read_bytes()
    generator = random.Random(name)
    n_bytes = 128 if name.endswith(".npy") else len(sound)
    codes = set()
    for _ in range(N_FLIPS):
        content = bytearray(sound)
        content[generator.randrange(n_bytes)] ^= 1 << generator.randrange(8)
        replace_file(folder, name, bytes(content))
        code, out, err = ask(folder, capfd, "--no-cache")
        assert code in (ExitCode.OK, ExitCode.WEIGHTS)
        assert len(err.splitlines()) == (2 if code else 0), err
        assert bool(out) != bool(code)
        codes.add(code)
    assert ExitCode.WEIGHTS in codes


def write_array(folder, name, array):
    path = folder / "new.npy"
    np.save(path, array)
    replace_file(folder, name, path.read_bytes())
    path.unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda codes, scales: (codes.astype(np.int8), scales),
        lambda codes, scales: (codes.astype(np.float32), scales),
        lambda codes, scales: (codes[:-1], scales[:-1]),
        lambda codes, scales: (codes[:, :-2], scales),
        lambda codes, scales: (codes, scales[:-1]),
        lambda codes, scales: (codes, scales[..., :1]),
        lambda codes, scales: (codes, scales.astype(np.float64)),
        lambda codes, scales: (codes[0], scales),
        lambda codes, scales: (np.asfortranarray(codes), scales),
    ],
)
def test_embeddings_of_another_type_or_shape_are_refused(folder, spoil):
    arrays = np.load(folder / "embeddings.npy"), np.load(folder / "embeddings.scales.npy")
    read_variant(folder)
    for name, array in zip(
        ("embeddings.npy", "embeddings.scales.npy"), spoil(*arrays), strict=True
    ):
        write_array(folder, name, array)
    with pytest.raises(WeightsError, match="does not fit its files: embeddings") as caught:
        read_variant(folder)
    assert "tinyv quantize" in caught.value.hint


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a cat",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff{",
        b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4'}\n",
        b"\x93NUMPY\x01\x00\x04\x00((((",
        b"\x93NUMPY\x01\x00\x36\x00{'descr':'<f4','fortran_order':False,'shape':(-1,-9)}  ",
        b"PK\x03\x04",
    ],
)
def test_what_is_no_array_is_told(folder, capfd, content):
    # numpy answered with a TokenError, a SyntaxError or an archive.
    replace_file(folder, "embeddings.npy", content)
    code, out, err = ask(folder, capfd)
    assert (code, out) == (ExitCode.WEIGHTS, "")
    assert "embeddings.npy is damaged" in err
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize("content", [b"", b"a cat", b"\xff" * 64, b"\x3a\x03\x0a\x01\x00"])
@pytest.mark.parametrize("name", ["decoder.onnx", "vision.onnx"])
def test_what_is_no_graph_is_told(folder, capfd, name, content):
    replace_file(folder, name, content)
    code, out, err = ask(folder, capfd, "--no-cache")
    assert (code, out) == (ExitCode.WEIGHTS, "")
    assert name in err
    assert len(err.splitlines()) == 2


def test_graphs_that_were_exchanged_are_told(folder, capfd):
    decoder = (folder / "decoder.onnx").read_bytes()
    replace_file(folder, "decoder.onnx", (folder / "vision.onnx").read_bytes())
    replace_file(folder, "vision.onnx", decoder)
    code, out, err = ask(folder, capfd)
    assert (code, out) == (ExitCode.WEIGHTS, "")
    assert "vision.onnx does not hold what a variant has" in err


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"past_key.3", b"past_key.9"), (b"logits", b"LOGITS"), (b"total_length", b"total_LENGTH")],
)
def test_a_decoder_with_other_inputs_or_outputs_is_told(folder, capfd, old, new):
    graph = (folder / "decoder.onnx").read_bytes()
    replace_file(folder, "decoder.onnx", graph.replace(old, new))
    code, out, err = ask(folder, capfd)
    assert (code, out) == (ExitCode.WEIGHTS, "")
    assert "is not the decoder that its manifest describes" in err


def test_a_message_of_the_runtime_that_is_no_utf_8_is_shown_all_the_same():
    broken = UnicodeDecodeError("utf-8", b"no tensor \xce here", 10, 11, "invalid")
    with (
        pytest.raises(WeightsError, match="cannot open x: no tensor \ufffd here"),
        onnx_sessions.translate_failures("cannot open x"),
    ):
        raise broken


def test_a_sandbox_without_proc_is_no_damage():
    said = "Secure opened-file canonicalization requires procfs at /proc/self/fd/6"
    with (
        pytest.raises(DeviceError, match="without /proc") as caught,
        onnx_sessions.translate_failures("cannot open x"),
    ):
        raise RuntimeError(said)
    assert "mount" in caught.value.hint


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("std::bad_alloc"), Exception("Failed to allocate memory")]
)
def test_too_little_memory_for_the_runtime_is_no_damage(error):
    with (
        pytest.raises(DeviceError, match="memory does not suffice"),
        onnx_sessions.translate_failures("cannot run the decoder"),
    ):
        raise error


def test_a_context_that_finds_no_room_is_no_damage():
    with pytest.raises(DeviceError, match="a context of 100000000000 positions"):
        make_cache(LanguageSpec(), 10**11)


@pytest.mark.parametrize("scale", [3e38, np.inf, np.nan])
def test_scales_that_leave_float32_end_without_a_warning(folder, capfd, scale):
    # numpy warned on stderr, beside the error.
    scales = np.load(folder / "embeddings.scales.npy")
    scales[:] = scale
    write_array(folder, "embeddings.scales.npy", scales)
    code, out, err = ask(folder, capfd, "--no-cache")
    assert (code, out) == (ExitCode.DEVICE, "")
    assert "instead of a number" in err
    assert len(err.splitlines()) == 2
