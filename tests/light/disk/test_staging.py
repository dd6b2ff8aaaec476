"""A folder is built beside its place, and a kill at any moment leaves nothing half done."""

import os
from pathlib import Path

import pytest

from tests.light.disk.killed import run_killed
from tinyv_cli.disk.staging import build_beside, move_in
from tinyv_cli.errors import ExitCode, WeightsError

BUILDER = """
import sys
from pathlib import Path
from tinyv_cli.disk import staging
target = Path(sys.argv[1])
with staging.build_beside(target) as building:
    (building / "content").write_text("new")
    {moment}
    staging.move_in(building, target, replace=True)
    die()
"""
DIE_AT_RENAME = (
    "rename, calls = Path.rename, iter(range(9))\n"
    "    Path.rename = lambda *them: die() if next(calls) == {n} else rename(*them)"
)
NAMES = ["v", "v[0-9]", "[", "v*", "v?", "ä b"]


def build(target: Path, content: str = "new", *, replace: bool = True) -> None:
    with build_beside(target) as building:
        (building / "content").write_text(content, "utf-8")
        move_in(building, target, replace=replace)


def make_old(target: Path) -> None:
    target.mkdir(parents=True)
    (target / "content").write_text("old", "utf-8")
    (target / "only in the old one").write_text("", "utf-8")


def read_tree(folder: Path) -> dict[str, str]:
    """Path → content of every file in a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in files}


def test_a_finished_folder_takes_the_place_of_the_old_one_as_a_whole(tmp_path):
    make_old(tmp_path / "v")
    build(tmp_path / "v")
    assert read_tree(tmp_path) == {"v/content": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


def test_parents_are_made_and_an_empty_start_is_given(tmp_path):
    with build_beside(tmp_path / "a" / "b" / "v") as building:
        assert list(building.iterdir()) == []
        move_in(building, tmp_path / "a" / "b" / "v", replace=False)
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["v"]


def test_what_may_not_be_replaced_stays_as_it_is(tmp_path):
    make_old(tmp_path / "v")
    before = read_tree(tmp_path)
    with pytest.raises(WeightsError, match="exists already"):
        build(tmp_path / "v", replace=False)
    assert read_tree(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


@pytest.mark.parametrize("failure", [OSError("full"), KeyboardInterrupt()])
def test_a_failure_while_building_leaves_what_was_there(failure, tmp_path):
    make_old(tmp_path / "v")
    before = read_tree(tmp_path)

    def build_half() -> None:
        with build_beside(tmp_path / "v") as building:
            (building / "content").write_text("half", "utf-8")
            raise failure

    with pytest.raises(type(failure)):
        build_half()
    assert read_tree(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


@pytest.mark.parametrize("failure", [OSError("busy"), KeyboardInterrupt()])
def test_a_failure_between_the_two_renames_puts_the_old_folder_back(failure, tmp_path, monkeypatch):
    make_old(tmp_path / "v")
    before, rename = read_tree(tmp_path), Path.rename

    def fail(self, to):
        if "building" in self.name:
            assert not (tmp_path / "v").exists()
            raise failure
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(type(failure)):
        build(tmp_path / "v")
    assert read_tree(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_killed_builder_left_is_cleaned_up_whatever_the_target_is_called(name, tmp_path):
    make_old(tmp_path / name)
    run_killed(BUILDER.format(moment="die()"), tmp_path / name)
    assert read_tree(tmp_path / name)["content"] == "old"
    assert len(list(tmp_path.iterdir())) == 2
    build(tmp_path / name)
    assert read_tree(tmp_path) == {f"{name}/content": "new"}
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_set_aside_by_a_killed_builder_is_put_back(name, tmp_path, monkeypatch):
    """Whatever processes there are: no process's number is asked for."""
    monkeypatch.setattr("psutil.pid_exists", lambda _: True)
    make_old(tmp_path / name)
    run_killed(BUILDER.format(moment=DIE_AT_RENAME.format(n=1)), tmp_path / name)
    assert not (tmp_path / name).exists()
    with build_beside(tmp_path / name):
        assert read_tree(tmp_path / name) == {"content": "old", "only in the old one": ""}
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("moment", "content"),
    [(DIE_AT_RENAME.format(n=0), "old"), ("staging.shutil.rmtree = die", "new")],
)
def test_a_kill_before_or_after_the_renames_leaves_one_of_the_two(moment, content, tmp_path):
    make_old(tmp_path / "v")
    run_killed(BUILDER.format(moment=moment), tmp_path / "v")
    assert read_tree(tmp_path / "v")["content"] == content
    with build_beside(tmp_path / "v"):
        assert read_tree(tmp_path / "v")["content"] == content
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


def test_folders_and_files_of_the_user_with_names_like_ours_are_never_touched(tmp_path):
    number = os.getpid()
    folders = ["v.building", ".v.building", f".v.building-{number}", f".v.replaced-{number}"]
    folders += [".v.replaced-99999999", ".v.pulling", ".tinyv-building", ".w.tinyv-building", "v2"]
    for name in folders:
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text(name, "utf-8")
    for name in (".v.tmp", ".v.lock", "v.txt"):
        (tmp_path / name).write_text(name, "utf-8")
    before = read_tree(tmp_path)
    make_old(tmp_path / "v")
    run_killed(BUILDER.format(moment="die()"), tmp_path / "v")
    build(tmp_path / "v")
    assert read_tree(tmp_path) == before | {"v/content": "new"}


def test_a_second_builder_of_one_target_is_refused_at_once(tmp_path):
    with build_beside(tmp_path / "v") as building:
        (building / "content").write_text("first", "utf-8")
        with pytest.raises(WeightsError, match="another tinyv is making") as caught:
            build(tmp_path / "v")
        assert caught.value.exit_code == ExitCode.WEIGHTS == 4
        build(tmp_path / "w")
        move_in(building, tmp_path / "v", replace=False)
    assert read_tree(tmp_path) == {"v/content": "first", "w/content": "new"}


@pytest.mark.parametrize("kind", ["whole", "dangling"])
def test_the_folder_that_a_link_leads_to_is_replaced_and_the_link_stays(kind, tmp_path):
    link, place = tmp_path / "link", tmp_path / "elsewhere" / "v"
    if kind == "whole":
        make_old(place)
    link.symlink_to(place)
    build(link)
    assert link.is_symlink()
    assert read_tree(place) == {"content": "new"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "content",
        "elsewhere",
        "link",
        "v",
    ]
