"""A typed word becomes whether it names a picture; opens none.

A file that is there is taken for one, and so is a URL. Of what is not there, the name decides, also
a mistyped one: `b.jgp` asked as a question gets a confident answer about something else.
"""

import re
import shlex
from contextlib import suppress
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from tinyv_cli.addresses import is_address, is_malformed
from tinyv_cli.disk import paths
from tinyv_cli.pictures.decoding.formats import list_suffixes

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})

_PAGES = frozenset({".pdf", ".svg"})
_USUAL = ("jpg", "jpeg", "png", "gif", "webp", "bmp", "tif", "tiff", "heic", "avif", "pdf")
_LEAST_CLOSENESS = 0.65  # `jgp`, `pgn`, `jpgg`, `jepg` are as near as that; `com`, `net`, `js` not
_MOST_NAMES = 10_000  # of a folder: comparing more would be noticed
_LEAST_LIKENESS = 0.75
_HOST = re.compile(r"(?:[a-z0-9-]+\.)+[a-z]{2,}(?::\d+)?/\S|www\.\S", re.IGNORECASE)
_PAGE_OR_MOMENT = re.compile(r"(?:#\d{1,9}|@\d{1,9}(?:\.\d*)?)$")
_PATH_START = re.compile(r"(?:[/\\]|~[/\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\])")


def names_picture(word: str) -> bool:
    """Returns whether a word can only be meant as a picture, not as a question.

    Args:
        word: as typed; text with blanks is none unless it is a file, or a path to a picture.
    """
    if is_address(word) or (is_malformed(word) and not paths.exists(word)):
        return not any(each.isspace() for each in word)
    file = drop_page(word)
    for each in (word, file):
        if paths.exists(each):
            return not paths.is_folder(each)
    is_one_word = not any(each.isspace() for each in file)
    return (is_one_word or is_path(file)) and has_picture_suffix(file)


def find_meant(path: Path) -> str | None:
    """Finds what was meant by the name of a file that is not there.

    That is a file beside it of nearly this name, a picture of this name without its ending, or a
    URL without its beginning; None where there is none of them.
    """
    names: list[str] = []
    with suppress(OSError, ValueError):
        names = [each.name for each in islice(path.parent.iterdir(), _MOST_NAMES)]
    by_key = {Path(name).stem.lower(): name for name in names if has_picture_suffix(name)}
    by_key |= {name.lower(): name for name in names}
    close = get_close_matches(path.name.lower(), by_key, 1, _LEAST_LIKENESS)
    if close and by_key[close[0]] != path.name:  # it is there itself where a link leads nowhere
        return str(path.with_name(by_key[close[0]]))
    return f"https://{path}" if _HOST.match(str(path)) else None


def hint_at_name(path: Path) -> str:
    """Returns a hint for a picture that is not there: what was meant, or where to look."""
    meant = find_meant(path)
    if meant is None:
        folder = next(
            filter(paths.is_folder, path.parents), path.parent
        )  # the nearest that is there
        return f"check its name: `ls {shlex.quote(str(folder))}`"
    return f"did you mean {shlex.quote(meant)}?"


def is_path(word: str) -> bool:
    """Returns whether a word begins as a path does: `/`, `~/`, `./` or a drive."""
    return _PATH_START.match(word) is not None


def drop_page(word: str) -> str:
    """Returns a word without the page or the moment at its end."""
    return _PAGE_OR_MOMENT.sub("", word)


def has_picture_suffix(name: str) -> bool:
    """Returns whether a name ends as a picture's, a page's or a video's, or nearly so."""
    from PIL import Image  # the command line is read without it

    suffix = re.search(r"[^/\\.\s](\.[A-Za-z0-9]{2,5})$", name)
    if suffix is None:
        return False
    ending = suffix[1].lower()
    known = Image.registered_extensions().keys()  # read or not, it is meant as a picture
    if ending in list_suffixes() | known | _PAGES | VIDEO_SUFFIXES:
        return True
    alike = [each for each in _USUAL if each[0] == ending[1]]
    return len(ending) > 3 and bool(get_close_matches(ending[1:], alike, 1, _LEAST_CLOSENESS))
