"""Words of a command line become the pictures they name, each once; opens none of them."""

import codecs
import glob
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from tinyv_cli.addresses import (
    is_address,
    is_data_url,
    is_malformed,
    to_lasting_name,
    to_shown,
)
from tinyv_cli.disk.paths import exists, is_folder
from tinyv_cli.errors import InputError, describe_os_error
from tinyv_cli.pictures.decoding.formats import list_suffixes
from tinyv_cli.pictures.names import find_meant, names_picture

STDIN = "-"


def find_pictures(
    words: Sequence[str], read_stdin: Callable[[], bytes], *, recurses: bool
) -> dict[Path, str]:
    """Lists the pictures that words name, in their order; what a folder holds is sorted.

    A file that is named is taken whatever its name; of a folder those that are called as the
    pictures that are read, without hidden ones. A word that is no file but a pattern (`*`, `?`,
    `[…]`, `**`) stands for what it matches. The same file under the same name is listed once. Of
    URLs only those of `data:` are taken, which hold their pictures; a line names them by type and
    hash.

    Args:
        words: paths and patterns; `-` is replaced by the list on stdin.
        read_stdin: returns the content of stdin: a path a line, or each ended by a zero byte, as
            `find -print0` writes them. A path of it that does not exist is kept, and fails later.
        recurses: whether sub-folders are looked through; links to folders never are.

    Returns:
        By the name that a picture's line has: the word that opens it.

    Raises:
        InputError: a word names nothing, or no picture at all was found.
    """
    found: dict[Path, tuple[Path, str]] = {}
    for word in words:
        if word == STDIN:
            content = read_stdin().removeprefix(codecs.BOM_UTF8)
            lines = content.split(b"\0") if b"\0" in content else content.splitlines()
            named = [os.fsdecode(line) for line in lines if line.strip()]
        elif exists(word) or is_data_url(word):
            named = [word]
        elif matches := glob.has_magic(word) and sorted(glob.glob(word, recursive=True)):  # noqa: PTH207
            named = matches
        else:
            # Refused before the model is opened: it is mostly a prompt without quotes.
            kind = "nothing matches" if glob.has_magic(word) else "there is no file or folder"
            hint = "check it; the prompt is one word, in quotes, and the last"
            if meant := find_meant(Path(word)):
                hint = f"did you mean {shlex.quote(meant)}?"
            if is_url(word):
                raise make_url_error(word)
            raise InputError(f"{kind} {word}", hint)
        for name in named:
            if is_url(name):
                path = Path(to_lasting_name(name))
                found.setdefault(identify(path), (path, name))
                continue
            for path in _look_into(Path(name), recurses):
                found.setdefault(identify(path), (path, str(path)))
    if found:
        return dict(found.values())
    names = shlex.join(words[:3]) + (" …" if len(words) > 3 else "")
    way_out = "name files or another folder" if recurses else "`-r` looks through sub-folders too"
    raise InputError(f"there is no picture in {names}", way_out)


def names_pictures(word: str) -> bool:
    """Returns whether a word stands for pictures: a file, folder, URL, or a pattern that fits."""
    is_pattern = glob.has_magic(word) and bool(glob.glob(word, recursive=True))  # noqa: PTH207
    return exists(word) or is_pattern or names_picture(word)


def is_url(word: str) -> bool:
    """Returns whether a word is a URL, or was meant as one, and no file."""
    return (is_address(word) or is_malformed(word)) and not exists(word)


def make_url_error(word: str) -> InputError:
    """Makes the error of a URL among the pictures of a batch."""
    return InputError(
        f"{to_shown(word)} is a URL, and a batch fetches none",
        "fetch it before: `curl -LO URL`, then name the file",
    )


def identify(path: Path) -> Path:
    """Returns one name for a file, however its folder is written; links to files stay apart."""
    return _resolve(path.parent.absolute()) / path.name


@lru_cache(maxsize=4096)
def _resolve(folder: Path) -> Path:
    """Returns the own name of a folder given from the root; most pictures share theirs."""
    return Path(os.path.realpath(folder))


def _look_into(path: Path, recurses: bool) -> Iterator[Path]:
    """Yields the file itself, or the pictures of a folder and the sub-folders that are refused.

    Raises:
        InputError: the folder itself may not be read.
    """
    if not is_folder(path):
        yield path
        return
    refused: list[OSError] = []
    for folder, folders, names in os.walk(path, onerror=refused.append):
        folders[:] = sorted(name for name in folders if recurses and not name.startswith("."))
        for name in sorted(names):
            each = Path(folder, name)
            if not name.startswith(".") and each.suffix.lower() in list_suffixes():
                yield each  # whatever it is: what is no file gets a line that says so
    for error in refused:
        refuser = Path(os.fsdecode(error.filename or path))
        if refuser == path:
            problem = f"{path} cannot be read: {describe_os_error(error)}"
            raise InputError(problem, f"allow it: `chmod u+rx {shlex.quote(str(path))}`")
        yield refuser
