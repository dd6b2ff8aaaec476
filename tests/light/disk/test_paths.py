"""Any word can be looked up as a path, whatever it holds."""

import os

import pytest

from tinyv_cli.disk.paths import exists, is_file, is_folder

NO_PATHS = [
    "",
    "\0",
    "a\0b",
    "x" * 5000,
    "a/" * 3000,
    "\ud800",
    "https://example.org/a?b",
    "what is this?",
]


@pytest.mark.parametrize("word", NO_PATHS)
def test_a_word_that_is_no_path_is_neither_file_nor_folder(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (exists(word), is_file(word), is_folder(word)) == (False, False, False)


def test_files_and_folders_are_told_apart(tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    found = {
        name: (exists(path), is_file(path), is_folder(str(path)))
        for name in ("file", "link", "dangling", "pipe", ".", "file/below")
        for path in [tmp_path / name]
    }
    assert found == {
        "file": (True, True, False),
        "link": (True, True, False),
        "dangling": (False, False, False),
        "pipe": (True, False, False),
        ".": (True, False, True),
        "file/below": (False, False, False),
    }


def test_a_place_that_may_not_be_looked_into_holds_nothing(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.os.stat", refuse)
    assert not exists(tmp_path / "file")
