"""A word is looked up among the files there are, whatever the word is; opens nothing."""

from pathlib import Path


def exists(word: str | Path) -> bool:
    """Whether there is such a file or folder.

    False also of words that can be no path: empty, too long, with a zero byte; and of places that
    may not be looked at.
    """
    try:
        return str(word) != "" and Path(word).exists()
    except (OSError, ValueError):
        return False


def is_file(word: str | Path) -> bool:
    """Whether there is such a file, as `exists` asks."""
    return exists(word) and Path(word).is_file()


def is_folder(word: str | Path) -> bool:
    """Whether there is such a folder, as `exists` asks."""
    return exists(word) and Path(word).is_dir()
