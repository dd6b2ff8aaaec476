"""A typed word becomes a picture: from a file, stdin, a URL, a page of a PDF, a frame of a video.

Libraries for URLs, PDF and video are loaded when a word needs them. A file that is really called
`a.pdf#2` is that file.
"""

import os
import re
import shlex
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tinyv_cli.addresses import is_address, is_data_url, is_malformed, quote_whole, to_shown
from tinyv_cli.disk import paths
from tinyv_cli.errors import InputError, TinyvError, UsageError
from tinyv_cli.pictures.data_url import read_data_url
from tinyv_cli.pictures.decoding.formats import HEAD_BYTES, is_pdf
from tinyv_cli.pictures.fetch import FetchLimits, fetch
from tinyv_cli.pictures.image import MAX_PIXELS, Reading, read_picture, say_nothing
from tinyv_cli.pictures.names import VIDEO_SUFFIXES, hint_at_name

STDIN = "-"
PAGE_PX = 1600  # the longer side of a page: more than the model sees, enough to draw boxes on

_SEEK_UNITS = 1_000_000  # a second; FFmpeg's AV_TIME_BASE


def read_stdin() -> bytes:
    """Reads stdin to its end; returns nothing where stdin is closed."""
    return sys.stdin.buffer.read() if sys.stdin is not None else b""


def is_piped() -> bool:
    """Returns whether stdin is a pipe or a file, which may hold something to be read."""
    with suppress(OSError, ValueError, AttributeError):
        mode = os.fstat(sys.stdin.fileno()).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)
    return False


@dataclass(frozen=True)
class Access:
    """Sources that pictures may come from.

    Attributes:
        allow_private: whether URLs of this computer and its own network may be fetched too.
        offline: whether no URL may be.
        stdin: returns the bytes of `-`; called once at most.
        note: takes what the user is to know of a picture, in one line.
    """

    allow_private: bool = False
    offline: bool = False
    stdin: Callable[[], bytes] = read_stdin
    note: Callable[[str], None] = say_nothing


EVERYWHERE = Access()


def check_words(words: Sequence[str], access: Access = EVERYWHERE) -> None:
    """Checks, before anything is read, that the words can name pictures.

    Raises:
        UsageError: stdin is named twice.
        InputError: a URL is of another scheme than http(s), or none may be fetched.
    """
    if list(words).count(STDIN) > 1:
        raise UsageError("stdin can be one picture, - was given twice", "name the other one's file")
    for word in words:
        if is_address(word) and not is_data_url(word):
            _check_url(word, access)


def open_picture(word: str, access: Access = EVERYWHERE) -> Image.Image:
    """Reads the picture that a word names.

    Args:
        word: a path, `-`, an http(s) or `data:` URL, `file.pdf#3` (the third page; `file.pdf` is
            the first) or `video.mp4@12.5` (the frame shown at 12.5 seconds; `video.mp4` is the
            first).
        access: sources that it may come from.

    Returns:
        A picture of mode RGB, upright.

    Raises:
        InputError: there is none, it cannot be read, it is not a picture, or the library that
            reads it is not installed.
        DeviceError: memory does not suffice to decode it.
    """
    if word == STDIN:
        return read_content(access.stdin(), access.note)
    if is_address(word):
        name = to_shown(word)
        if is_data_url(word):
            content = read_data_url(word)
            way_out = "look at what it is: `base64 -d picture.txt | file -`"
        else:
            _check_url(word, access)
            content = fetch(word, FetchLimits(allow_private=access.allow_private))
            way_out = f"look at what it is: `curl -L {quote_whole(word)} | file -`"
        return read_named(content, name, way_out, access.note)
    if is_malformed(word) and not paths.exists(word):
        problem = f"{to_shown(word)} is not a URL"
        raise InputError(problem, "give one as https://host/picture.png")
    path, page = _split(word, "#", r"\d{1,9}")
    is_called_pdf = path.suffix.lower() == ".pdf"
    if (is_called_pdf and (page or not paths.exists(path))) or (page and _holds_pdf(path)):
        return read_page(path, int(page or 1))
    path, moment = _split(word, "@", r"\d{1,9}(?:\.\d*)?")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return read_frame(path, float(moment or 0))
    return read_content(Path(word), access.note)


def read_named(
    content: bytes, name: str, way_out: str, note: Callable[[str], None] = say_nothing
) -> Image.Image:
    """Reads a picture from a content that came from elsewhere, under a name for messages.

    Args:
        content: of a file.
        name: where it came from.
        way_out: the hint where it is no picture.
        note: takes what the user is to know of it, in one line.

    Raises:
        InputError: it is empty, or as `read_content`.
        DeviceError: memory does not suffice to decode it.
    """
    if not content:
        raise InputError(f"{name} is empty", way_out)
    try:
        return read_content(content, lambda text: note(f"{name}: {text}"))
    except TinyvError as error:
        raise type(error)(f"{name}: {error.problem}", way_out) from error


def read_content(source: Path | bytes, note: Callable[[str], None] = say_nothing) -> Image.Image:
    """Reads a picture, or the first page of a PDF, whatever its name says that it is.

    Args:
        source: a file, or a file's content.
        note: takes what the user is to know of it, in one line.

    Raises:
        InputError: as `read_picture` and `read_page`.
        DeviceError: memory does not suffice to decode it.
    """
    holds_pdf = is_pdf(source) if isinstance(source, bytes) else _holds_pdf(source)
    return read_page(source, 1) if holds_pdf else read_picture(source, Reading(note=note))


def read_page(source: Path | bytes, page: int) -> Image.Image:
    """Draws a page of a PDF.

    Args:
        source: the PDF's file, or its content.
        page: its number, 1 the first.

    Returns:
        A picture of mode RGB whose longer side is `PAGE_PX`.

    Raises:
        InputError: there is no such file or page, it is not a PDF, or pypdfium2 is not installed.
    """
    if isinstance(source, Path):
        _check_file(source)
        name, sample, path = str(source), f"{source.name}#1", shlex.quote(str(source))
    else:
        name, sample, path = "the given picture", "file.pdf#1", "file.pdf"
    try:
        import pypdfium2  # type: ignore[import-untyped]
    except ImportError as error:
        raise InputError(
            f"{name} is a PDF, and pypdfium2, which reads it, is not installed",
            "install it: `pip install 'tinyv[documents]'`",
        ) from error
    try:
        with closing(pypdfium2.PdfDocument(source)) as document:
            if not 1 <= page <= len(document):
                raise InputError(
                    f"{name} has {len(document)} pages, there is no page {page}",
                    f"take one there is: `{sample}`",
                )
            drawn = document[page - 1]
            scale = PAGE_PX / max(1.0, *drawn.get_size())
            picture: Image.Image = drawn.render(scale=scale).to_pil()
            return picture.convert("RGB")
    except pypdfium2.PdfiumError as error:
        reason = str(error).rstrip(".")
        raise InputError(
            f"{name} is not a PDF that can be read: {reason}",
            f"make a picture of the page: `pdftoppm -png {path} page`",
        ) from error


def read_frame(path: Path, moment_s: float) -> Image.Image:
    """Decodes the frame that a video shows at a moment: the last one that began by then.

    Args:
        path: the video.
        moment_s: seconds from its beginning.

    Returns:
        A picture of mode RGB, upright as the telephone noted it.

    Raises:
        InputError: there is no such file, it is not a video or has only sound, it ends earlier, a
            frame has more than `MAX_PIXELS` pixels, or PyAV is not installed.
    """
    _check_file(path)
    try:
        import av
    except ImportError as error:
        raise InputError(
            f"{path} is a video, and PyAV, which reads it, is not installed",
            "install it: `pip install 'tinyv[video]'`",
        ) from error
    way_out = f"take a frame yourself: `ffmpeg -i {shlex.quote(str(path))} -frames:v 1 frame.png`"
    try:
        # FFmpeg's own guard keeps a play list that calls itself a video from fetching anything.
        with path.open("rb") as file, av.open(file, "r") as video:
            if not video.streams.video:
                raise InputError(f"{path} has sound but no pictures", way_out)
            stream = video.streams.video[0]
            start_s = float((stream.start_time or 0) * (stream.time_base or 0))
            # AVI seeks to the nearest frame rather than the one before: a frame earlier is sought,
            # and played on from there.
            sought_s = max(0.0, moment_s - float(1 / (stream.average_rate or 1)))
            with suppress(OSError):  # a video without seeking is played from its beginning
                video.seek(int((start_s + sought_s) * _SEEK_UNITS))
            shown, shown_until_s = None, 0.0
            for frame in video.decode(stream):
                begins_s = 0.0 if frame.time is None else frame.time - start_s
                if shown is not None and begins_s > moment_s:
                    break
                shown = frame
                shown_until_s = begins_s + float((frame.duration or 0) * (frame.time_base or 0))
            else:
                shown = shown if moment_s <= shown_until_s else None
            if shown is None:
                raise InputError(
                    f"{path} ends before {moment_s:g} s", f"take an earlier moment: `{path}@0`"
                )
            n_pixels = shown.width * shown.height
            if n_pixels > MAX_PIXELS:
                raise InputError(
                    f"{path} has {n_pixels} pixels, the limit is {MAX_PIXELS}", way_out
                )
            picture: Image.Image = shown.to_image()  # type: ignore[no-untyped-call]
            return picture.convert("RGB").rotate(shown.rotation, expand=True)
    except (av.FFmpegError, OSError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise InputError(f"{path} is not a video that can be read: {reason}", way_out) from error


def _check_url(word: str, access: Access) -> None:
    """Raises an `InputError` for a URL that may not be fetched."""
    scheme = word.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        raise InputError(
            f"pictures are not fetched from {scheme}://",
            "use http:// or https://, or name a file by its path",
        )
    if access.offline:
        raise InputError(
            f"{to_shown(word)} is not fetched, since --offline was asked for",
            "leave out `--offline` (or unset TINYV_OFFLINE), or name a file",
        )


def _split(word: str, mark: str, number: str) -> tuple[Path, str | None]:
    """Splits a number off a name, unless there is a file of that whole name."""
    found = re.fullmatch(f"(.+){mark}({number})", word, re.DOTALL)
    if found is None or paths.exists(word):
        return Path(word), None
    return Path(found[1]), found[2]


def _holds_pdf(path: Path) -> bool:
    """Returns whether a file's content is a PDF; False for what is no file or may not be read."""
    if not paths.is_file(path):
        return False
    with suppress(OSError), path.open("rb") as file:
        return is_pdf(file.read(HEAD_BYTES))
    return False


def _check_file(path: Path) -> None:
    """Raises an `InputError` unless there is such a file."""
    if not paths.is_file(path):
        raise InputError(f"there is no file {path}", hint_at_name(path))
