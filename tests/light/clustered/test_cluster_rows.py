"""Words become rows, lines become parts; needs pyarrow, and no Ray that runs."""

import io
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pa = pytest.importorskip("pyarrow", reason="the extra [ray] is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="the extra [ray] is not installed")

from tests.light.toy_variant import write_picture, write_variant  # noqa: E402
from tinyv_cli.batch.cluster import storage  # noqa: E402
from tinyv_cli.batch.cluster.lines import to_lines, to_table  # noqa: E402
from tinyv_cli.batch.cluster.parts import open_parts  # noqa: E402
from tinyv_cli.batch.cluster.sources import Columns, RowGroup, find_rows  # noqa: E402
from tinyv_cli.batch.cluster.storage import Place, is_remote, to_identity  # noqa: E402
from tinyv_cli.batch.cluster.weights_copy import copy_variant  # noqa: E402
from tinyv_cli.batch.settings import Settings  # noqa: E402
from tinyv_cli.errors import InputError, UsageError, WeightsError  # noqa: E402

TIMES = {"read": 0.1, "encode": 0.2, "prefill": 0.3, "decode": 0.4, "total": 1.0}
SETTINGS = Settings(
    prompt="what?",
    model="mine",
    variant="a" * 64,
    template="human",
    max_tokens=5,
    temp=0.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    repeat_penalty=1.0,
    seed=None,
    ctx_size=None,
    device="cpu",
    folder="",
)
BOX = {"label": "cat", "box": [0.1, 0.2, 0.5, 0.9], "pixels": [1, 2, 5, 9]}
ANSWERED = {"path": "a", "answer": "", "boxes": [BOX], "finish_reason": "stop", "timings": TIMES}
FAILED = {"path": "b", "error": {"problem": "b is empty", "hint": "look"}}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def find(*words, name=None):
    return find_rows(words, lambda: b"", Columns(name=name), recurses=False)


def test_lines_come_back_as_they_were():
    assert to_lines(to_table([ANSWERED, FAILED])) == [ANSWERED, FAILED]
    assert to_table([FAILED]).schema == to_table([ANSWERED]).schema


def test_files_have_the_names_that_a_local_batch_gives_them(place):
    (place / "one").mkdir()
    write_picture(place / "one" / "cat.png")
    write_picture(place / "cat.png")
    source = find("one", "cat.png", "./cat.png")
    assert source.names == ["one/cat.png", "cat.png"]
    assert source.are_files


def test_a_list_names_pictures_from_its_own_folder_and_elsewhere(place):
    (place / "lists").mkdir()
    rows = [{"path": "a.png"}, {"path": "s3://bucket/b.png"}, {"path": "https://host/c.png"}]
    (place / "lists" / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = find("lists/all.jsonl").words
    assert words == {
        "a.png": str(place / "lists" / "a.png"),
        "s3://bucket/b.png": "s3://bucket/b.png",
        "https://host/c.png": "https://host/c.png",
    }


def test_parquet_gives_names_at_once_and_bytes_of_what_is_wanted_later(place):
    table = pa.table({"id": [f"r{i}" for i in range(7)], "bytes": [bytes([i]) for i in range(7)]})
    parquet.write_table(table, "all.parquet", row_group_size=4)
    source = find("all.parquet")
    assert source.names == [f"r{i}" for i in range(7)]
    wanted = frozenset({"r1", "r3", "r6"})
    found = [
        row for group in source.groups for each in group.read(wanted, 2) for row in to_rows(each)
    ]
    assert found == [("r1", b"\1"), ("r3", b"\3"), ("r6", b"\6")]


def to_rows(table):
    return list(zip(table["path"].to_pylist(), table["bytes"].to_pylist(), strict=True))


def test_bytes_inside_a_column_are_found_as_the_hub_stores_them(place):
    images = [{"bytes": b"x", "path": "a.png"}, {"bytes": b"y", "path": "b.png"}]
    parquet.write_table(pa.table({"image": images}), "hub.parquet")
    source = find("hub.parquet")
    assert source.names == ["a.png", "b.png"]
    assert to_rows(next(source.groups[0].read(frozenset({"b.png"}), 8))) == [("b.png", b"y")]


def test_rows_of_one_name_are_refused_and_another_column_is_taken(place):
    parquet.write_table(
        pa.table({"path": ["a", "a"], "n": [1, 2], "bytes": [b"x", b"y"]}), "t.parquet"
    )
    with pytest.raises(UsageError, match="two rows are called a"):
        find("t.parquet")
    assert find("t.parquet", name="n").names == ["1", "2"]


def test_a_table_without_pictures_says_what_it_has(place):
    parquet.write_table(pa.table({"id": ["a"], "n": [1]}), "t.parquet")
    with pytest.raises(InputError, match="has no column bytes, image, path or url; it has id, n"):
        find("t.parquet")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("s3://key:secret@bucket/a/b.png?region=x&scheme=http", "s3://bucket/a/b.png"),
        ("s3://bucket/what?.png", "s3://bucket/what?.png"),
        ("hf://datasets/a/b/c.png", "hf://datasets/a/b/c.png"),
    ],
)
def test_a_name_that_is_kept_holds_no_secret(address, name):
    assert is_remote(address)
    assert to_identity(address) == name


def test_addresses_below_one_keep_its_keys_and_options():
    class At(Place):
        def __init__(self, address):
            self.address = address

    at = At("s3://k:s@bucket/*.png?region=x")
    assert at.address_of("bucket/a.png") == "s3://k:s@bucket/a.png?region=x"


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_parts_go_on_and_are_begun_again(place, suffix):
    target = f"out{suffix}"

    def open_again(settings=SETTINGS, fresh=False, retries=False):
        return open_parts(target, settings, Path, fresh=fresh, retries=retries)

    with open_again() as parts:
        parts.write(ANSWERED)
        parts.write(FAILED)
    with open_again() as parts:
        assert parts.answers == {Path("a"): "", Path("b"): None}
    with open_again(retries=True) as parts:
        assert parts.answers == {Path("a"): ""}
        parts.write(FAILED)
    other = Settings(**{**vars(SETTINGS), "prompt": "why?"})
    with (
        pytest.raises(UsageError, match="begun with other settings: prompt 'what\\?'"),
        open_again(other),
    ):
        pass
    with open_again(other, fresh=True) as parts:
        assert parts.answers == {}
    assert not list((place / target).glob("part-*"))


def test_a_variant_is_copied_once_and_a_damaged_one_never(place):
    origin = write_variant(place / "share" / "mine")
    copied = copy_variant(str(origin), None)
    assert copied == place / "home" / "variants" / "mine"
    before = (copied / "manifest.json").stat().st_mtime_ns
    assert copy_variant(str(origin), "mine") == copied
    assert (copied / "manifest.json").stat().st_mtime_ns == before
    (origin / "decoder.data").write_bytes(b"other codes here")
    with pytest.raises(WeightsError, match="is damaged"):
        copy_variant(str(origin), "another")
    assert not (place / "home" / "variants" / "another").exists()


def test_a_store_that_fsspec_opens_is_listed_read_and_written(place):
    fsspec = pytest.importorskip("fsspec", reason="the extra [ray] is not installed")
    files = fsspec.filesystem("memory")
    write_picture(place / "cat.png")
    for name in ("/shelf/b/cat.png", "/shelf/a.png", "/shelf/notes.txt"):
        files.pipe(name, (place / "cat.png").read_bytes())
    source = find_rows(["memory:///shelf"], lambda: b"", Columns(), recurses=True)
    assert source.names == ["memory:///shelf/a.png", "memory:///shelf/b/cat.png"]
    with pytest.raises(InputError, match="memory:///none cannot be read: there is no such file"):
        find_rows(["memory:///none"], lambda: b"", Columns(), recurses=True)
    word = source.words["memory:///shelf/a.png"]
    assert Place(word).read() == (place / "cat.png").read_bytes()
    target = "memory:///shelf/out.jsonl"
    for n_before in (0, 1):
        with open_parts(target, SETTINGS, Path, fresh=False, retries=False) as parts:
            assert len(parts.answers) == n_before
            if not n_before:
                parts.write(ANSWERED)


class Torn(io.BytesIO):
    """A stream of a store whose library has kinds of failures of its own."""

    def __init__(self, _):
        super().__init__(b"PAR1" * 100)

    def read(self, *_):
        raise RuntimeError("the line is down")


def test_a_store_that_fails_in_mid_read_is_told_wherever_it_is_read(monkeypatch, tmp_path):
    files = SimpleNamespace(open_input_stream=Torn, open_input_file=Torn)
    monkeypatch.setattr(storage, "_open_files", lambda *_: files)
    place = Place("far://store/a.parquet")
    rows = RowGroup(place.address, 0, "bytes", ("a",)).read(frozenset("a"), 1)
    for read in (place.read, lambda: place.copy_to(tmp_path / "a"), lambda: next(rows)):
        with pytest.raises(InputError, match=r"a\.parquet cannot be read: the line"):
            read()


def test_a_store_without_its_library_says_which_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "adlfs", None)
    with pytest.raises(InputError, match="az://c/x needs adlfs") as failure:
        Place("az://c/x")
    assert failure.value.hint == "install it: `pip install adlfs`"


@pytest.mark.parametrize("scheme", ["gs", "hf"])
def test_a_store_that_does_not_answer_is_told_soon_and_what_it_asks_for(monkeypatch, scheme):
    monkeypatch.setattr(storage, "_GS_RETRIES_S", 1)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    address, variable = {
        "gs": ("gs://anonymous@b/x?scheme=http&endpoint_override=127.0.0.1:9", "GOOGLE_"),
        "hf": ("hf://datasets/owner/name/folder", "HF_TOKEN"),
    }[scheme]
    begun_s = time.monotonic()
    with pytest.raises(InputError, match="cannot be read: ") as failure:
        Place(address).list_files(recurses=True)
    assert variable in failure.value.hint
    assert "::" not in failure.value.problem
    assert time.monotonic() - begun_s < 30
