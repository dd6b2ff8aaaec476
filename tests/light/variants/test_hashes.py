import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from tests.light.toy_variant import write_variant
from tinyv_cli.disk import places
from tinyv_cli.errors import ExitCode, WeightsError
from tinyv_cli.progress import SilentBar
from tinyv_cli.variants import hashes
from tinyv_cli.variants.hashes import check_hashes, remember_hashes
from tinyv_cli.variants.manifest import read_variant


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))


@pytest.fixture
def variant(tmp_path):
    return read_variant(write_variant(tmp_path / "toy"))


@pytest.fixture
def read_names(monkeypatch):
    """Names of the files that are hashed."""
    names = []
    really = hashes.hash_file

    def hash_file(path, bar=None):
        names.append(path.name)
        return really(path, bar)

    monkeypatch.setattr(hashes, "hash_file", hash_file)
    return names


def check(variant):
    check_hashes(variant.folder, variant.manifest.files)


def flip_a_byte(path, keep_time=False):
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    else:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))


def test_every_file_is_read_the_first_time_and_none_the_second(variant, read_names):
    check(variant)
    assert sorted(read_names) == ["decoder.data", "decoder.onnx", "tokenizer.json"]
    read_names.clear()
    check(variant)
    assert read_names == []


def test_only_the_file_whose_time_changed_is_read_again(variant, read_names):
    check(variant)
    read_names.clear()
    os.utime(variant.path("decoder"), ns=(0, 1))
    check(variant)
    assert read_names == ["decoder.onnx"]


def test_a_flipped_byte_is_found_and_named_and_found_again(variant):
    check(variant)
    path = variant.path("decoder-data")
    flip_a_byte(path)
    for _ in range(2):
        with pytest.raises(WeightsError) as caught:
            check(variant)
        assert caught.value.problem.startswith(f"{path} is damaged")
        assert "tinyv quantize" in caught.value.hint
        assert caught.value.exit_code == ExitCode.WEIGHTS


def test_a_byte_flipped_before_the_first_use_is_found_whatever_the_time_says(variant):
    flip_a_byte(variant.path("decoder-data"), keep_time=True)
    with pytest.raises(WeightsError, match="is damaged"):
        check(variant)


def test_a_manifest_that_expects_another_hash_is_not_answered_by_an_old_stamp(variant, tmp_path):
    check(variant)
    entry = variant.manifest.files[0]
    other = type(entry)(entry.path, entry.size_bytes, "0" * 64, entry.role)
    with pytest.raises(WeightsError, match="is damaged"):
        check_hashes(variant.folder, [other])


def test_files_found_sound_before_a_damaged_one_are_not_read_again(variant, read_names):
    flip_a_byte(variant.path("decoder-data"))
    for _ in range(2):
        with pytest.raises(WeightsError):
            check(variant)
    assert read_names == ["decoder.onnx", "decoder.data", "decoder.data"]


def test_who_has_just_written_the_files_need_not_read_them(variant, read_names):
    remember_hashes(variant.folder, variant.manifest.files)
    check(variant)
    assert read_names == []


def test_a_copy_of_the_same_name_does_not_share_stamps(variant, tmp_path, read_names):
    check(variant)
    copy = shutil.copytree(variant.folder, tmp_path / "elsewhere" / "toy")  # keeps times
    read_names.clear()
    check(read_variant(copy))
    assert len(read_names) == 3


def test_another_way_to_the_same_folder_shares_its_stamps(variant, tmp_path, read_names):
    check(variant)
    (tmp_path / "best").symlink_to(variant.folder)
    read_names.clear()
    check(read_variant(tmp_path / "best"))
    assert read_names == []


def test_where_stamps_cannot_be_written_files_are_read_each_time(variant, read_names, monkeypatch):
    (variant.folder.parent / "home").write_text("a file where the folder should be")
    check(variant)
    check(variant)
    assert len(read_names) == 6


@pytest.mark.parametrize("content", ["", "{", "[]", '{"decoder.onnx": 7}', "\x00"])
def test_a_stamp_file_that_says_nothing_sensible_is_replaced(variant, read_names, content):
    check(variant)
    [stamps] = places.stamps_dir().iterdir()
    stamps.write_text(content)
    check(variant)
    assert len(read_names) == 6
    check(variant)
    assert len(read_names) == 6


def test_no_file_but_the_stamps_stays_behind(variant):
    check(variant)
    assert [path.suffix for path in places.stamps_dir().iterdir()] == [".json"]
    assert sorted(path.name for path in variant.folder.iterdir()) == [
        "decoder.data",
        "decoder.onnx",
        "manifest.json",
        "tokenizer.json",
    ]


def test_stamps_that_cannot_be_exchanged_leave_nothing_behind(variant, monkeypatch):
    def refuse(path, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    check(variant)
    assert list(places.stamps_dir().iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows does not exchange an open file")
def test_who_is_reading_stamps_never_sees_half_of_new_ones(variant):
    check(variant)
    [stamps] = places.stamps_dir().iterdir()
    with stamps.open("rb") as reader:
        os.utime(variant.path("decoder"), ns=(0, 1))
        check(variant)
        before = json.loads(reader.read())
    after = json.loads(stamps.read_bytes())
    assert before.keys() == after.keys()
    assert before != after


def test_many_at_once_do_no_harm(variant):
    failures = []

    def check_often():
        try:
            for _ in range(20):
                for stamps in places.stamps_dir().glob("*.json"):
                    stamps.unlink(missing_ok=True)
                check(variant)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test fails with it
            failures.append(error)

    threads = [threading.Thread(target=check_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    check(variant)
    assert all(path.suffix == ".json" for path in places.stamps_dir().iterdir())


def test_a_file_that_changes_while_it_is_read_gets_no_stamp_that_fits_it(variant, monkeypatch):
    really = hashes.hash_file

    def hash_and_change(path, bar=None):
        digest = really(path, bar)
        flip_a_byte(path)
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(hashes, "hash_file", hash_and_change)
        check(variant)
    with pytest.raises(WeightsError, match="is damaged"):
        check(variant)


def test_hashing_tells_how_many_bytes_it_has_done(variant, monkeypatch):
    monkeypatch.setattr(hashes, "CHUNK_BYTES", 7)
    steps, advances = [], []

    class Bar(SilentBar):
        def advance(self, amount=1):
            advances.append(amount)

    def progress(label, total=None, unit="steps"):
        steps.append((label, total, unit))
        return Bar()

    check_hashes(variant.folder, variant.manifest.files, progress)
    assert steps == [("checking files", variant.manifest.size_bytes, "bytes")]
    assert sum(advances) == variant.manifest.size_bytes
    assert max(advances) <= 7


def test_a_file_that_vanished_is_an_error_of_the_weights(variant):
    variant.path("decoder").unlink()
    with pytest.raises(WeightsError, match=str(Path("toy") / "decoder.onnx")):
        check(variant)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_in_the_place_of_stamps_is_as_good_as_none(variant, read_names):
    check(variant)
    (stamps,) = places.stamps_dir().iterdir()
    stamps.unlink()
    os.mkfifo(stamps)
    read_names.clear()
    check(variant)
    assert len(read_names) == 3
