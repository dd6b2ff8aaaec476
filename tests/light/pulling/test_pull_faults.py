"""Every single write of a pull is refused by the system, one after the other.

Seen in: a fuzzing round, where 35 of 43 such pulls ended with a traceback.
"""

import errno
import io
import os
import shutil
from pathlib import Path

import pytest

from tests.light.pulling.toy_hub import FAST, VISION, check_complete, run
from tests.light.toy_variant import write_variant
from tinyv_cli.commands.fetching.pull import pull_weights
from tinyv_cli.disk import places
from tinyv_cli.errors import DeviceError
from tinyv_cli.options.pull import PullArguments
from tinyv_cli.variants.manifest import read_variant

CHANGES = ("mkdir", "replace", "rename", "link", "unlink", "rmdir", "open")


class FailingDisk:
    """Refuses what changes a folder, or a file in it, from one such call on.

    Attributes:
        n_calls: of the kind, so far.
        first: the one that is refused first; None for none.
        is_lasting: whether those behind it are refused, too.
    """

    def __init__(self, folder, monkeypatch):
        self.folder, self.number, self.is_lasting = folder, errno.EIO, False
        self.n_calls, self.first = 0, None
        for name in CHANGES:
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))
        monkeypatch.setattr(os, "fsync", self._wrap_without_name(os.fsync))
        self._open = io.open
        monkeypatch.setattr(io, "open", self._open_file)

    def _count(self, name=None):
        self.n_calls += 1
        if self.first is None or self.n_calls < self.first:
            return
        if self.n_calls == self.first or self.is_lasting:
            words = [] if name is None else [str(name)]
            raise OSError(self.number, os.strerror(self.number), *words)

    def _is_here(self, path):
        is_name = isinstance(path, str | os.PathLike)
        return is_name and Path(os.fspath(path)).is_relative_to(self.folder)

    def _wrap(self, call):
        def change(path, *rest, **named):
            reads = call.__name__ == "open" and not rest[0] & (os.O_WRONLY | os.O_RDWR)
            if not reads and (self._is_here(path) or self._is_here(rest[0] if rest else None)):
                self._count(path)
            return call(path, *rest, **named)

        change.__name__ = call.__name__
        return change

    def _wrap_without_name(self, call):
        def change(*words):
            self._count()
            return call(*words)

        return change

    def _open_file(self, path, mode="r", *rest, **named):
        if not set(mode) & set("wax+"):
            return self._open(path, mode, *rest, **named)
        if self._is_here(path):
            self._count(path)
        file = self._open(path, mode, *rest, **named)
        return FailingFile(file, self._count) if self._is_here(path) or type(path) is int else file


class FailingFile:
    """A file of such a disk: whatever is written is counted, and may be refused without a name."""

    def __init__(self, file, count):
        self._file, self._count = file, count

    def write(self, content):
        self._count()
        return self._file.write(content)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


@pytest.fixture
def disk(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    with monkeypatch.context() as patch:
        yield FailingDisk(tmp_path / "home", patch)


def refuse_each(disk, pull, check, reset):
    """Refuses the first write, then the second, and so on; after each, the pull is run again."""
    errors = []
    for first in range(1, 1000):
        disk.n_calls, disk.first = 0, first
        try:
            pull()
        except DeviceError as error:
            errors.append(error)
        n_calls, disk.first = disk.n_calls, None
        pull()
        check()
        if n_calls < first:
            break
        reset()
    assert len(errors) > 10
    for error in errors:
        assert str(disk.folder) in error.problem
        assert os.strerror(disk.number).lower() in error.problem
        assert error.hint


@pytest.mark.parametrize("is_lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOSPC])
def test_a_refused_write_of_a_variant_ends_with_5_and_its_name(disk, tmp_path, number, is_lasting):
    folder = write_variant(tmp_path / "shared" / "toy")
    disk.number, disk.is_lasting = number, is_lasting

    def pull():
        pull_weights(PullArguments(variant=str(folder)), retry_policy=FAST)

    def check():
        there = read_variant(places.variants_dir() / "toy")
        assert there.manifest == read_variant(folder).manifest
        assert [path.name for path in places.variants_dir().iterdir()] == ["toy"]

    refuse_each(disk, pull, check, lambda: shutil.rmtree(disk.folder))


@pytest.mark.parametrize("way", ["hub", "folder", "copy"])
def test_a_refused_write_of_sources_ends_with_5_and_its_name(hub, disk, tmp_path, way, monkeypatch):
    run(hub)
    attic = shutil.copytree(places.sources_dir(), tmp_path / "attic")
    if way == "copy":
        monkeypatch.setattr(os, "link", lambda *_: (tmp_path / "no such file").stat())

    def pull():
        run(hub, **({} if way == "hub" else {"from_": str(attic)}))

    def reset():
        for name in (VISION, "phi-2/config.json"):
            (places.sources_dir() / name).unlink()

    reset()
    refuse_each(disk, pull, lambda: check_complete(hub), reset)
