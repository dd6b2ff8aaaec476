"""A word becomes whether there is such a file, or a name for one; nothing is opened."""

import os
from pathlib import Path

from tinyv_cli.errors import WeightsError

_LONGEST_NAME_BYTES = 255  # of all usual file systems


def exists(word: str | Path) -> bool:
    """Returns whether there is such a file or folder.

    There is none of a word that can be no path (empty, too long, with a zero byte), nor in a place
    that may not be looked into.
    """
    try:
        return str(word) != "" and Path(word).exists()
    except (OSError, ValueError):
        return False


def is_file(word: str | Path) -> bool:
    """Returns whether there is such a file, as `exists` does."""
    return exists(word) and Path(word).is_file()


def is_folder(word: str | Path) -> bool:
    """Returns whether there is such a folder, as `exists` does."""
    return exists(word) and Path(word).is_dir()


def fit_name(stem: str, ending: str) -> str:
    """Returns a name that a file system takes: a stem, cut where it must be, and an ending.

    Args:
        stem: the name as it would be best, between characters of which it is cut.
        ending: of the name, kept whole.
    """
    room = _LONGEST_NAME_BYTES - len(os.fsencode(ending))
    while len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return stem + ending


def expand(word: str) -> Path:
    """Returns the path that a word names, `~` and `~user` replaced where there is such a user."""
    return Path(os.path.expanduser(word))  # noqa: PTH111 - that of a path raises where there is none


def check_utf8(folder: Path) -> None:
    """Checks that a folder's name is one that torch and onnxruntime, which want UTF-8, can open.

    Raises:
        WeightsError: it is not, or that of a folder above it is not.
    """
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        raise WeightsError(
            f"the name of {folder} is not UTF-8, and the libraries that compute cannot open it",
            "rename the folder, or the one above it whose name it is: `mv OLD NEW`",
        ) from error
