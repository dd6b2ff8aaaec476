"""A file is replaced as a whole or not at all, and nothing else of the user's is touched."""

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.light.disk.killed import run_killed
from tinyv_cli.disk.whole_file import open_whole, write_whole

BYSTANDERS = ("cat.txt.tmp", ".cat.txt.tmp", "cat.tmp", "cat.txt~", "cat.txt.part", ".cat.txt")


@pytest.fixture
def cat(tmp_path):
    """A file among others whose names are like those of temporary files."""
    for name in BYSTANDERS:
        (tmp_path / name).write_text(f"the user's {name}", "utf-8")
    path = tmp_path / "cat.txt"
    path.write_bytes(b"old")
    return path


def expect_content(cat: Path, content: bytes) -> None:
    """The place holds this, and all around it is as it was."""
    assert cat.read_bytes() == content
    assert sorted(each.name for each in cat.parent.iterdir()) == sorted((*BYSTANDERS, cat.name))
    for name in BYSTANDERS:
        assert (cat.parent / name).read_text("utf-8") == f"the user's {name}"


@pytest.mark.parametrize("is_durable", [True, False])
@pytest.mark.parametrize(("content", "expected"), [(b"\0new", b"\0new"), ("Käse", b"K\xc3\xa4se")])
def test_bytes_and_text_replace_what_was_there_and_nothing_else(content, expected, is_durable, cat):
    write_whole(cat, content, is_durable=is_durable)
    expect_content(cat, expected)


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_place_as_it_was_and_no_temporary_file(failure, is_new, cat):
    path = cat.with_name("new.txt") if is_new else cat

    def write_half() -> None:
        with open_whole(path) as file:
            file.write(b"half")
            raise failure

    with pytest.raises(type(failure)):
        write_half()
    expect_content(cat, b"old")


def test_a_place_that_cannot_be_replaced_leaves_no_temporary_file(cat):
    folder = cat.with_name("folder")
    folder.mkdir()
    with pytest.raises(OSError, match="folder"):
        write_whole(folder, b"new")
    folder.rmdir()
    expect_content(cat, b"old")


@pytest.mark.parametrize(
    "moment",
    [
        "tinyv_cli.disk.whole_file.os.fsync = die",
        "pathlib.Path.chmod = die",
        "pathlib.Path.replace = die",
    ],
)
def test_a_kill_before_the_end_leaves_the_place_as_it_was(moment, cat):
    code = (
        "import pathlib, sys, tinyv_cli.disk.whole_file\n"
        f"{moment}\n"
        "tinyv_cli.disk.whole_file.write_whole(pathlib.Path(sys.argv[1]), b'new')\n"
    )
    run_killed(code, cat)
    [left] = cat.parent.glob(".tinyv-*.tmp")
    assert left.read_bytes() == b"new"
    left.unlink()
    expect_content(cat, b"old")


def test_the_old_content_is_there_until_the_block_ends(cat):
    with open_whole(cat) as file:
        file.write(b"new")
        file.flush()
        assert cat.read_bytes() == b"old"
    expect_content(cat, b"new")


@pytest.mark.parametrize("is_dangling", [False, True])
def test_the_file_that_a_link_leads_to_is_replaced_and_the_link_stays(is_dangling, tmp_path):
    folder, link = tmp_path / "elsewhere", tmp_path / "link.txt"
    folder.mkdir()
    if not is_dangling:
        (folder / "real.txt").write_bytes(b"old")
    link.symlink_to("elsewhere/real.txt")
    write_whole(link, b"new")
    assert link.readlink() == Path("elsewhere/real.txt")
    assert (folder / "real.txt").read_bytes() == b"new"
    assert not (folder / "real.txt").is_symlink()
    assert sorted(each.name for each in tmp_path.rglob("*")) == [
        "elsewhere",
        "link.txt",
        "real.txt",
    ]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o444])
def test_permissions_stay_those_of_the_file_that_was_there(mode, cat):
    cat.chmod(mode)
    write_whole(cat, b"new")
    assert stat.S_IMODE(cat.stat().st_mode) == mode
    expect_content(cat, b"new")


def test_a_new_file_has_the_permissions_that_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "new.txt", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new.txt").stat().st_mode) == 0o640


def test_the_longest_name_that_the_system_takes_can_be_written(tmp_path):
    path = tmp_path / ("x" * 255)
    write_whole(path, b"new")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_pipe_is_written_as_it_comes_and_stays_a_pipe(through_a_link, tmp_path):
    pipe = path = tmp_path / "pipe"
    os.mkfifo(pipe)
    if through_a_link:
        path = tmp_path / "link"
        path.symlink_to(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # open before anything is written
    try:
        write_whole(path, b"new")
        assert os.read(reader, 9) == b"new"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_two_writers_at_once_leave_what_one_of_them_wrote(cat):
    with open_whole(cat) as first, open_whole(cat) as second:
        first.write(b"first" * 1000)
        second.write(b"second" * 1000)
    expect_content(cat, b"first" * 1000)
