"""Objects of a bucket become rows and lines go back there, from a server on loopback; no Ray."""

import pytest

pytest.importorskip("pyarrow", reason="the extra [ray] is not installed")
pytest.importorskip("moto", reason="moto, the bucket's server, is not installed")
pytest.importorskip("flask", reason="flask, which moto's server needs, is not installed")

from tests.light.clustered.bucket import REFUSED, serve_bucket
from tests.light.clustered.test_cluster_rows import ANSWERED, FAILED, SETTINGS, find
from tests.light.toy_variant import write_picture, write_variant
from tinyv_cli.batch.cluster import storage
from tinyv_cli.batch.cluster.captioner import open_word
from tinyv_cli.batch.cluster.parts import open_parts
from tinyv_cli.batch.cluster.weights_copy import copy_variant
from tinyv_cli.errors import InputError

N_PICTURES = 120


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """Two folders of pictures with equal names, and a variant; pages of listings hold 50."""
    folder, pages = tmp_path_factory.mktemp("bucket"), []
    for index in range(N_PICTURES):
        path = folder / "album" / "ab"[index % 2] / f"{index // 2:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(path)
    write_variant(folder / "album" / "mine")
    with serve_bucket(folder, pages) as keys:
        yield keys
    assert int(pages[0]) > N_PICTURES // 50


@pytest.fixture(autouse=True)
def keys(bucket, monkeypatch, tmp_path):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    storage._open_files.cache_clear()


def test_a_bucket_is_listed_whole_and_its_pictures_are_opened():
    names = [f"s3://photos/album/{each}/{n:03}.png" for each in "ab" for n in range(60)]
    source = find("s3://photos/album/a", "s3://photos/album/b")
    assert source.names == names
    assert find("s3://photos/album/*/00[0-3].png").names == [*names[:4], *names[60:64]]
    with open_word(source.words[names[0]], names[0]) as picture:
        assert picture.size[0] > 0


def test_a_refused_object_is_its_own_error():
    word = f"s3://photos/album/{REFUSED}"
    with pytest.raises(InputError, match="cannot be read: it is refused \\(ACCESS_DENIED\\)"):
        open_word(word, word)


def test_wrong_keys_are_told_when_the_source_is_listed(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "bad")
    with pytest.raises(InputError, match="cannot be read: it is refused") as caught:
        find("s3://photos/album/a")
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_lines_lie_in_a_bucket_and_go_on_there(suffix):
    target = f"s3://photos/out{suffix}"
    with open_parts(target, SETTINGS, str, fresh=False, retries=False) as parts:
        parts.write(ANSWERED)
        parts.write(FAILED)
    with open_parts(target, SETTINGS, str, fresh=False, retries=True) as parts:
        assert parts.answers == {"a": ""}


def test_a_variant_in_a_bucket_is_copied_and_checked(tmp_path):
    assert copy_variant("s3://photos/album/mine", None) == tmp_path / "home" / "variants" / "mine"
