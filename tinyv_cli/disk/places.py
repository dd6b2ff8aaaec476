"""Where tinyv keeps its own files on this computer; opens and makes none of them."""

import os
from pathlib import Path

import platformdirs

from tinyv_cli.disk.paths import expand


def home_dir() -> Path:
    """Where tinyv keeps its files: `TINYV_HOME`, else the user's data folder; it may not exist."""
    chosen = os.environ.get("TINYV_HOME")
    if chosen:
        return expand(chosen).absolute()
    return Path(platformdirs.user_data_dir("tinyv", appauthor=False))


def variants_dir() -> Path:
    """Where variants without a folder of their own lie."""
    return home_dir() / "variants"


def sources_dir() -> Path:
    """Where sources are looked for when no folder of them is named."""
    return home_dir() / "sources"


def chats_dir() -> Path:
    """Where saved conversations without a folder of their own lie."""
    return home_dir() / "chats"


def stamps_dir() -> Path:
    """Where it is kept which files were hashed already."""
    return home_dir() / "stamps"


def kernels_path() -> Path:
    """Where it is kept how a GPU's kernels did when they were tried."""
    return home_dir() / "gpu-kernels.json"


def told_path() -> Path:
    """The file that is there once the miniature's note has been said in full."""
    return home_dir() / "told" / "miniature"


def locks_dir() -> Path:
    """Where the files lie by which processes take turns."""
    return home_dir() / "locks"


def image_cache_dir() -> Path:
    """Where image tokens are kept, which can be computed again: under `TINYV_HOME` if it is set."""
    if os.environ.get("TINYV_HOME"):
        return home_dir() / "cache" / "images"
    return Path(platformdirs.user_cache_dir("tinyv", appauthor=False)) / "images"


def rounding_cache_dir() -> Path:
    """Where layers that are rounded already are kept while a variant is made."""
    if os.environ.get("TINYV_HOME"):
        return home_dir() / "cache" / "rounding"
    return Path(platformdirs.user_cache_dir("tinyv", appauthor=False)) / "rounding"
