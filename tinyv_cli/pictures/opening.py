"""A word that was typed becomes a picture: a file, stdin, a URL, a PDF's page or a film's moment.

Libraries for URLs, PDF and film are loaded when a word asks for them. Names win over meanings: a
file that is called `a.pdf#2` is that file.
"""

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from tinyv_cli.errors import InputError, TinyvError, UsageError
from tinyv_cli.pictures.fetch import FetchLimits, fetch
from tinyv_cli.pictures.image import MAX_PIXELS, read_picture

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

STDIN = "-"
FILM_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
PAGE_PX = 1600  # the longer side of a page: more than the model sees, enough to draw boxes on

_SEEK_UNITS = 1_000_000  # a second; FFmpeg's AV_TIME_BASE


def read_stdin() -> bytes:
    """Everything on stdin; nothing where stdin is closed."""
    return sys.stdin.buffer.read() if sys.stdin is not None else b""


@dataclass(frozen=True)
class Access:
    """Where pictures may come from.

    Attributes:
        allow_private: URLs of this computer and its own network too.
        offline: no URLs at all.
        stdin: gives the bytes of `-`; asked once at most.
    """

    allow_private: bool = False
    offline: bool = False
    stdin: Callable[[], bytes] = read_stdin


EVERYWHERE = Access()


def check_words(words: Sequence[str], access: Access = EVERYWHERE) -> None:
    """Refuses, before anything is read, what cannot come to pictures.

    Raises:
        UsageError: stdin is named twice.
        InputError: a URL is of another kind than http(s), or there may be none.
    """
    if list(words).count(STDIN) > 1:
        raise UsageError("stdin can be one picture, - was given twice", "name the other one's file")
    for word in words:
        if _is_url(word):
            _check_url(word, access)


def open_picture(word: str, access: Access = EVERYWHERE) -> Image.Image:
    """Reads the picture that a word names.

    Args:
        word: a path, `-`, an http(s) URL, `file.pdf#3` (the third page; `file.pdf` is the first)
            or `film.mp4@12.5` (what is seen after 12.5 seconds; `film.mp4` is its beginning).
        access: where it may come from.

    Returns:
        A picture of mode RGB, upright.

    Raises:
        InputError: there is none, it cannot be read, it is no picture, or what reads it is not
            installed.
        DeviceError: memory does not suffice to decode it.
    """
    if word == STDIN:
        return read_picture(access.stdin())
    if _is_url(word):
        _check_url(word, access)
        return _read_fetched(word, fetch(word, FetchLimits(allow_private=access.allow_private)))
    path, page = _split(word, "#", r"\d{1,9}")
    if path.suffix.lower() == ".pdf":
        return _read_page(path, int(page or 1))
    path, moment = _split(word, "@", r"\d{1,9}(?:\.\d*)?")
    if path.suffix.lower() in FILM_SUFFIXES:
        return _read_frame(path, float(moment or 0))
    return read_picture(Path(word))


def _is_url(word: str) -> bool:
    """Whether a word names a scheme."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", word) is not None


def _check_url(word: str, access: Access) -> None:
    """Refuses a URL that may not be fetched.

    Raises:
        InputError: it may not.
    """
    scheme = word.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        raise InputError(
            f"{scheme}:// is no place that pictures are fetched from",
            "use http:// or https://, or name a file by its path",
        )
    if access.offline:
        raise InputError(
            f"{_shorten(word)} is not fetched, since --offline was asked for",
            "leave out `--offline` (or unset TINYV_OFFLINE), or name a file",
        )


def _read_fetched(word: str, content: bytes) -> Image.Image:
    """Decodes what a URL gave, whatever the server calls it."""
    try:
        if content:
            return read_picture(content)
    except TinyvError as error:
        raise type(error)(f"{_shorten(word)}: {error.problem}", _to_inspect(word)) from error
    raise InputError(f"{_shorten(word)} is empty", _to_inspect(word))


def _shorten(url: str) -> str:
    """A URL for messages, without what may be secret in it."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def _to_inspect(word: str) -> str:
    """The way out where a URL brings something else."""
    return f"look at what it is: `curl -L {shlex.quote(_shorten(word))} | file -`"


def _split(word: str, mark: str, number: str) -> tuple[Path, str | None]:
    """Takes a number off a name, unless there is a file called so."""
    found = re.fullmatch(f"(.+){mark}({number})", word, re.DOTALL)
    if found is None or _exists(Path(word)):
        return Path(word), None
    return Path(found[1]), found[2]


def _exists(path: Path) -> bool:
    """Whether there is such a file; there is none of a name that no system would take."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _check_file(path: Path) -> None:
    """Refuses what is no file.

    Raises:
        InputError: it is none.
    """
    if not path.is_file():
        folder = shlex.quote(str(path.parent))
        raise InputError(f"there is no file {path}", f"check its name: `ls {folder}`")


def _read_page(path: Path, page: int) -> Image.Image:
    """Draws a page of a PDF, 1 the first, with its longer side `PAGE_PX` long."""
    _check_file(path)
    try:
        import pypdfium2  # type: ignore[import-untyped]
    except ImportError as error:
        raise InputError(
            f"{path} is a PDF, and what reads it is not installed",
            "install it: `pip install 'tinyv[documents]'`",
        ) from error
    try:
        with closing(pypdfium2.PdfDocument(path)) as document:
            if not 1 <= page <= len(document):
                raise InputError(
                    f"{path} has {len(document)} pages, there is no page {page}",
                    f"take one there is: `{path.name}#1`",
                )
            drawn = document[page - 1]
            scale = PAGE_PX / max(1.0, *drawn.get_size())
            picture: Image.Image = drawn.render(scale=scale).to_pil()
            return picture.convert("RGB")
    except pypdfium2.PdfiumError as error:
        reason = str(error).rstrip(".")
        raise InputError(
            f"{path} is not a PDF that can be read: {reason}",
            f"make a picture of the page: `pdftoppm -png {shlex.quote(str(path))} page`",
        ) from error


def _read_frame(path: Path, moment_s: float) -> Image.Image:
    """Decodes what a film shows at a moment, upright."""
    _check_file(path)
    try:
        import av
    except ImportError as error:
        raise InputError(
            f"{path} is a film, and what reads it is not installed",
            "install it: `pip install 'tinyv[video]'`",
        ) from error
    way_out = f"take a frame yourself: `ffmpeg -i {shlex.quote(str(path))} -frames:v 1 frame.png`"
    try:
        with path.open("rb") as stream, av.open(stream, "r") as film:
            if not film.streams.video:
                raise InputError(f"{path} has sound but no pictures", way_out)
            frame = _find_frame(film, moment_s)
            if frame is None:
                raise InputError(
                    f"{path} ends before {moment_s:g} s", f"take an earlier moment: `{path}@0`"
                )
            n_pixels = frame.width * frame.height
            if n_pixels > MAX_PIXELS:
                raise InputError(
                    f"{path} has {n_pixels} pixels, the limit is {MAX_PIXELS}", way_out
                )
            picture: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
            return picture.convert("RGB").rotate(frame.rotation, expand=True)
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path} is not a film that can be read: {reason}", way_out) from error


def _find_frame(film: "InputContainer", moment_s: float) -> "VideoFrame | None":
    """The last frame that begins at a moment or before it; None where the film is over by then."""
    stream = film.streams.video[0]
    start_s = float((stream.start_time or 0) * (stream.time_base or 0))
    # AVI goes to the nearest frame rather than the one before: a frame too early is played on.
    sought_s = max(0.0, moment_s - float(1 / (stream.average_rate or 1)))
    with suppress(OSError):  # what cannot be searched is played from its beginning
        film.seek(int((start_s + sought_s) * _SEEK_UNITS))
    shown, shown_until_s = None, 0.0
    for frame in film.decode(stream):
        begins_s = 0.0 if frame.time is None else frame.time - start_s
        if shown is not None and begins_s > moment_s:
            return shown
        shown = frame
        length_s = float((frame.duration or 0) * (frame.time_base or 0))
        shown_until_s = begins_s + length_s
    return shown if moment_s <= shown_until_s else None
