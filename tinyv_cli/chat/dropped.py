"""An entry with pictures dropped into the terminal becomes their names and the rest; opens none.

Terminals write a dropped file as a shell would need it: in quotes, with backslashes, as `file:///…`,
or as it is. A path begins with a slash, as commands do; but a command's name is letters alone. Text
between three quotes, or behind a blank, is always a question.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from tinyv_cli.addresses import is_address, is_data_url
from tinyv_cli.disk import paths
from tinyv_cli.pictures.names import drop_page, has_picture_suffix, is_path, names_picture

_COMMAND = re.compile(r"/[A-Za-z]+(\s|$)")
_QUOTED = re.compile(r"""(?:'[^']*'(?:\\''[^']*')*|"[^"]*")(?=[\s,;:?!.]|$)""")
_PLAIN = re.compile(r"(?:\\.|[^\s\\])+\\?", re.DOTALL)
_FILE_URL = re.compile(r"file:(?://(?:localhost)?(?=/)|(?=/))(/(?=[A-Za-z]:))?", re.IGNORECASE)
_POWERSHELL = re.compile(r"&\s+(?=['\"])")  # how an editor's terminal calls what is dropped
_DRIVE = re.compile(r"[A-Za-z]:\\|\\\\")
_MARKS = ",;:?!"
_MOST_BLANKS = 12  # in a path without quotes


@dataclass(frozen=True)
class Dropped:
    """An entry taken apart.

    Attributes:
        pictures: words that open them, in their order; at least one.
        question: the rest of the entry; may be empty.
    """

    pictures: tuple[str, ...]
    question: str


def find_dropped(entry: str) -> Dropped | None:
    """Finds the pictures that an entry names; None of one that is a question or command alone.

    At the beginning counts whatever is called as a picture is, and any file whose path is written
    out; behind a question only a picture that is there, quoted or with its path from the root.
    """
    if entry[:1].isspace() or entry.startswith('"""') or _COMMAND.match(entry):
        return None
    pictures: list[str] = []
    pieces: list[str] = []
    skipped = _POWERSHELL.match(entry)
    begin = at = skipped.end() if skipped else 0
    while at < len(entry):
        if entry[at].isspace():
            at += 1
            continue
        is_first = not any(pieces) and not entry[begin:at].strip()
        word = _read_word(entry, at)
        end = at + len(word)
        picture = _read_plain_path(entry, at) if is_first else None
        if picture is not None:
            end = at + len(picture)
        else:
            is_alone = is_first and not entry[end:].strip()
            accepts = (each for each in _list_readings(word) if _counts(each, word, is_first))
            picture = next(accepts, word if is_alone and names_picture(word) else None)
        if picture is not None:
            pieces.append(entry[begin:at].strip())
            pictures.append(str(paths.expand(picture)) if picture[0] == "~" else picture)
            begin = end
        at = end
    if not pictures:
        return None
    pieces.append(entry[begin:].strip().lstrip(",;: "))
    return Dropped(tuple(pictures), " ".join(each for each in pieces if each))


def read_file_url(word: str) -> str:
    """Returns the path that a URL of a file names; any other word as it is."""
    found = _FILE_URL.match(word)
    return unquote(word[found.end() :]) if found else word


def _read_word(entry: str, at: int) -> str:
    """Returns the word that begins there: what is in quotes, or reaches to the next blank."""
    found = _QUOTED.match(entry, at) or _PLAIN.match(entry, at)
    assert found is not None  # no blank stands there
    if entry[at] not in "'\"" and len(found[0].rstrip(_MARKS)) > 0:
        return found[0].rstrip(_MARKS)
    return found[0]


def _read_plain_path(entry: str, at: int) -> str | None:
    """Returns the longest path of a file with blanks that begins there, as it is written."""
    blanks = [found.start() for found in re.finditer(r"\s+|$", entry[at : at + 4096])]
    for end in reversed(blanks[1 : _MOST_BLANKS + 1]):
        path = entry[at : at + end]
        if paths.is_file(paths.expand(path)) and has_picture_suffix(path):
            return path
    return None


def _list_readings(word: str) -> Iterator[str]:
    """Yields what a word may mean: as it is, without its quotes, backslashes or percent signs."""
    if word[0] == "'" and len(word) > 1:
        yield read_file_url(word[1:-1].replace("'\\''", "'"))
    elif word[0] == '"' and len(word) > 1:
        yield read_file_url(word[1:-1])
        yield re.sub(r'\\(["\\$`])', r"\1", word[1:-1])
    elif _FILE_URL.match(word):
        yield read_file_url(word)
    else:
        # Backslashes are a path's own on Windows, and a shell's elsewhere.
        plain = re.sub(r"\\(.)", r"\1", word, flags=re.DOTALL)
        yield from (word, plain) if _DRIVE.match(word) or paths.is_file(word) else (plain, word)


def _counts(name: str, word: str, is_first: bool) -> bool:
    """Returns whether a reading of a word is a picture that was dropped.

    Args:
        name: the reading.
        word: as typed.
        is_first: whether nothing but pictures stands before it.
    """
    if is_address(name):
        return is_data_url(name) or has_picture_suffix(re.split(r"[?#]", name)[0])
    file = drop_page(name)
    is_there = any(paths.is_file(paths.expand(each)) for each in (name, file) if each)
    is_called = has_picture_suffix(file)
    if is_first:
        return (is_path(name) and (is_there or is_called)) or (is_there and is_called)
    is_placed = is_path(name) or name != word
    return is_there and is_called and is_placed
