"""A word becomes whether there is such a file, whatever the word is; nothing is opened."""

from pathlib import Path


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
