"""Image tokens that are kept: found again to the bit, never half, never too many."""

import hashlib
import os

import numpy as np
import pytest

from tests.light.toy_decoder import ScriptedDecoder, ToySlots
from tests.light.toy_variant import make_script
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.backends.backend import Backend
from tinyv_cli.backends.image_cache import CachedEncoder, ImageCache
from tinyv_cli.disk import places
from tinyv_cli.spec import make_tiny_spec

SHAPE = (4, 2)
NAMES = ["a" * 64, "b" * 64, "c" * 64]


class CountingEncoder:
    """Tokens that tell their pixels, and how many pictures were computed."""

    def __init__(self, shape=SHAPE):
        self.n_encoded = 0
        self._shape = shape

    def encode(self, pixels):
        self.n_encoded += len(pixels)
        return np.stack([np.full(self._shape, each.mean(), np.float32) for each in pixels])


def make_pixels(*values):
    return np.stack([np.full((3, 6, 6), value, np.float32) for value in values])


@pytest.fixture
def cache(tmp_path):
    return ImageCache(tmp_path / "images")


def test_what_was_kept_is_found_again_to_the_bit(cache):
    tokens = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    assert cache.read(NAMES[0], SHAPE) is None
    cache.write(NAMES[0], tokens)
    found = cache.read(NAMES[0], SHAPE)
    assert found is not None
    assert found.dtype == np.float32
    assert found.tobytes() == tokens.tobytes()
    assert cache.read(NAMES[1], SHAPE) is None
    assert cache.read(NAMES[0], (5, 2)) is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "a folder"])
def test_damaged_files_are_as_good_as_none(damage, cache, tmp_path):
    cache.write(NAMES[0], np.ones(SHAPE, np.float32))
    (path,) = (tmp_path / "images").iterdir()
    content = path.read_bytes()
    if damage == "a folder":
        path.unlink()
        path.mkdir()
    else:
        wrong = {"cut": content[:-5], "flipped": content[:-1] + b"\x01", "emptied": b""}
        path.write_bytes(wrong[damage])
    assert cache.read(NAMES[0], SHAPE) is None
    cache.write(NAMES[0], np.zeros(SHAPE, np.float32))
    assert (cache.read(NAMES[0], SHAPE) is None) == (damage == "a folder")
    assert not list((tmp_path / "images").glob("*.tmp"))


def test_what_was_used_last_stays(tmp_path):
    folder = tmp_path / "images"
    one = ImageCache(folder)
    one.write(NAMES[0], np.zeros(SHAPE, np.float32))
    n_bytes = next(folder.iterdir()).stat().st_size
    cache = ImageCache(folder, max_bytes=2 * n_bytes)
    cache.write(NAMES[1], np.zeros(SHAPE, np.float32))
    for age, name in enumerate(NAMES[:2], 1):  # the first was used an hour after the second
        os.utime(folder / f"{name}.tokens", (10_000 // age, 10_000 // age))
    assert cache.read(NAMES[1], SHAPE) is not None  # now it is the other way round
    cache.write(NAMES[2], np.zeros(SHAPE, np.float32))
    left = [name for name in NAMES if cache.read(name, SHAPE) is not None]
    assert left == NAMES[1:]


def test_what_killed_processes_left_counts_and_goes(tmp_path):
    left = tmp_path / f".tinyv-{'0' * 16}.tmp"
    left.write_bytes(bytes(500_000))
    os.utime(left, (0, 0))
    (tmp_path / "somebody's").write_bytes(bytes(500_000))
    cache = ImageCache(tmp_path, max_bytes=400_000)
    cache.write(NAMES[0], np.zeros(SHAPE, np.float32))
    assert cache.read(NAMES[0], SHAPE) is not None
    assert sorted(each.name for each in tmp_path.iterdir()) == [f"{NAMES[0]}.tokens", "somebody's"]


def test_a_folder_that_cannot_be_made_is_no_reason_to_fail(tmp_path):
    (tmp_path / "file").write_text("x")
    cache = ImageCache(tmp_path / "file" / "images")
    cache.write(NAMES[0], np.zeros(SHAPE, np.float32))
    assert cache.read(NAMES[0], SHAPE) is None


def test_a_picture_is_encoded_once_and_a_batch_only_where_it_is_new(cache):
    encoder = CountingEncoder()
    cached = CachedEncoder(encoder, cache, "variant", SHAPE)
    first = cached.encode(make_pixels(1))
    assert np.array_equal(cached.encode(make_pixels(1)), first)
    assert encoder.n_encoded == 1
    both = cached.encode(make_pixels(2, 1))
    assert encoder.n_encoded == 2
    assert [float(each.mean()) for each in both] == [2, 1]


def test_another_variant_has_tokens_of_its_own(cache):
    encoder = CountingEncoder()
    for origin in ("8 bits", "4 bits", "8 bits"):
        CachedEncoder(encoder, cache, origin, SHAPE).encode(make_pixels(1))
    assert encoder.n_encoded == 2


def test_ask_encodes_a_picture_once_unless_told_otherwise(place, monkeypatch, capsys):
    spec = make_tiny_spec(4)
    encoder = CountingEncoder((spec.qformer.n_queries, spec.language.width))

    def open_backend(variant, options, on_encoder):
        on_encoder(encoder, "toy")
        return Backend(encoder, ToySlots(ScriptedDecoder(make_script("a cat"))), "toy", 0.1)

    monkeypatch.setattr(backends, "open_backend", open_backend)
    counts = []
    for words in (["cat.png"], ["cat.png"], ["cat.png", "--no-cache"], ["dog.png"]):
        assert main(["ask", *words[:1], "what?", "-m", "bits4", *words[1:]]) == 0
        counts.append(encoder.n_encoded)
    assert counts == [1, 1, 2, 3]
    assert len(list(places.image_cache_dir().iterdir())) == 2
    assert capsys.readouterr().out == "a cat\n" * 4


@pytest.mark.parametrize(
    "body", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00\x04\x00((((", b"\x80\x04."]
)
def test_what_has_a_right_checksum_and_is_no_array_is_as_good_as_none(body, cache, tmp_path):
    # numpy answered with a BadZipFile, a TokenError or an archive.
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / f"{NAMES[0]}.tokens"
    path.write_bytes(hashlib.sha256(body).digest() + body)
    assert cache.read(NAMES[0], SHAPE) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_or_a_device_in_its_place_is_as_good_as_none(cache, tmp_path):
    (tmp_path / "images").mkdir()
    os.mkfifo(tmp_path / "images" / f"{NAMES[0]}.tokens")
    (tmp_path / "images" / f"{NAMES[1]}.tokens").symlink_to("/dev/zero")
    assert cache.read(NAMES[0], SHAPE) is None
    assert cache.read(NAMES[1], SHAPE) is None
