"""A short round of each campaign against files, and an example of each fault that was found.

Run by `tests/campaign/test_rounds.py` in a process of one thread, since its workers are forked:
beside other threads, as those of a test that is one of several at once, a fork may wait for ever.
"""

import ctypes
import struct
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

from tests.campaign.damage.attempts import Attack, FaultError, run
from tests.campaign.damage.picture_files import (
    HEIGHT,
    WIDTH,
    list_read_only,
    list_seeds,
    make_packed_bmp,
    make_packed_fits,
)
from tests.campaign.pictures import Pictures
from tests.campaign.variants import Variants
from tests.golden import needs_golden
from tests.light.pictures.drawn_pictures import to_file_bytes
from tinyv_cli.errors import InputError
from tinyv_cli.pictures.decoding.formats import list_formats
from tinyv_cli.pictures.image import AS_SHOWN, PLAINLY, read_picture


def find_nothing(attack, numbers, keep, *outcomes):
    """Makes a round that is to find no fault, and to come to each of these outcomes."""
    found = run(attack, numbers, keep)
    assert found.faults == {}
    assert found.counts.total() == len(numbers)
    for outcome in outcomes:
        assert any(name.startswith(outcome) for name in found.counts), found.counts


def test_a_short_round_against_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", "")
    find_nothing(Pictures(77, tmp_path), range(1, 700), tmp_path / "found", "read", "refused")


def test_a_short_round_against_a_variant(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", "")
    outcomes = ("manifest: refused", "tokens: the right answer", "file")
    find_nothing(Variants(77, tmp_path), range(12), tmp_path / "found", *outcomes)


@needs_golden
def test_a_short_round_against_sources(tmp_path):
    pytest.importorskip("torch")
    from tests.campaign.containers import Containers

    find_nothing(Containers(77, tmp_path), range(0, 175, 12), tmp_path / "found", "refused")


# The watch itself


class Misbehaving(Attack):
    """Does what may not happen, another thing in each attempt."""

    def attempt(self, number):
        if number == 1:
            (self.folder.parent / "elsewhere").write_bytes(b"")
        elif number == 2:
            subprocess.run(["true"], check=False)
        elif number == 3:
            np.ones(1400 << 17)  # 1.4 GB
        elif number == 4:
            raise KeyError
        elif number == 5:
            ctypes.string_at(0)
        elif number == 6:
            raise FaultError("wrong")
        return "nothing"

    def keep(self, number, folder):
        (folder / "number").write_text(str(number))


def test_whatever_may_not_happen_is_told_by_its_number_and_the_round_goes_on(tmp_path):
    (tmp_path / "scratch").mkdir()
    found = run(Misbehaving(0, tmp_path / "scratch"), range(8), tmp_path / "found")
    assert found.counts == {"nothing": 2, "fault": 6}
    kinds = {numbers[0]: kind for kind, numbers in found.faults.items()}
    words = (
        "writes outside",
        "subprocess.Popen",
        "takes 1.",
        "KeyError",
        "dies of SIGSEGV",
        "wrong",
    )
    for number, word in enumerate(words, 1):
        assert kinds[number].startswith(word)
        assert (tmp_path / "found" / f"0-{number}" / "number").read_text() == str(number)


# Sound files


def test_there_are_sound_files_of_every_format_that_is_read_here():
    assert set(list_seeds()) == set(list_formats())


@pytest.mark.parametrize(
    ("format_", "content"),
    [(name, each) for name, contents in list_read_only() for each in contents],
)
def test_what_pillow_reads_and_does_not_write_is_read(format_, content):
    assert min(read_picture(content).size) > 2


# Found: small files that kept the computer busy


def make_many_scans(side, n_scans):
    """A progressive JPEG whose last scan, of nothing, stands there many times."""
    flat = Image.new("RGB", (64, 64), (200, 30, 60))
    content = to_file_bytes(flat, "JPEG", progressive=True, quality=30)
    size, last = content.index(b"\xff\xc2") + 5, content.rindex(b"\xff\xda")
    content = content[:size] + struct.pack(">HH", side, side) + content[size + 4 :]
    return content[:-2] + content[last:-2] * n_scans + content[-2:]


def make_large_fits():
    content = make_packed_fits()
    for axis, side in ((b"ZNAXIS1 =", WIDTH), (b"ZNAXIS2 =", HEIGHT)):
        content = content.replace(axis + b"%21d" % side, axis + b"%21d" % 11_000)
    return content


@pytest.mark.parametrize(
    "content",
    [make_packed_bmp(8, 2**25, 4), make_packed_bmp(4, 2, 2**25), make_large_fits(),
     make_many_scans(11_000, 2000)],
    ids=["runs in a wide BMP", "runs in a high BMP", "FITS", "JPEG of many scans"],
)  # fmt: skip
def test_a_small_file_of_many_slow_pixels_is_refused_at_once(content):
    for reading in (AS_SHOWN, PLAINLY):
        start_s = time.process_time()
        with pytest.raises(InputError, match=r"pixels, packed in a way|goes over its") as caught:
            read_picture(content, reading)
        assert time.process_time() - start_s < 2
        assert "convert it" in caught.value.hint


def test_what_is_packed_the_same_way_and_small_is_read():
    assert read_picture(make_many_scans(100, 40)).size == (100, 100)
    assert read_picture(make_packed_bmp(8, 900, 90)).size == (900, 90)
