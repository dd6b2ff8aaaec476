"""Lines of a batch become a page to look through, in one file: thumbnails, answers, boxes, errors.

The page holds no program and fetches nothing, and says so to the browser. File names, answers and
errors are untrusted text: all of it is escaped. Frames lie over the thumbnails as vectors, so that
they are sharp at any size.
"""

import base64
import io
import os
import shlex
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from tinyv_cli.addresses import is_data_url
from tinyv_cli.batch.finding import identify, is_url
from tinyv_cli.batch.pipeline import open_listed
from tinyv_cli.batch.settings import Settings
from tinyv_cli.disk.json_lines import JsonLines
from tinyv_cli.disk.paths import exists, is_folder
from tinyv_cli.disk.reading import is_pipe
from tinyv_cli.disk.whole_file import open_whole
from tinyv_cli.disk.writing import check_place, writing
from tinyv_cli.drawing.on_picture import COLOURS
from tinyv_cli.errors import TinyvError, UsageError
from tinyv_cli.pictures.image import say_nothing
from tinyv_cli.progress import Progress
from tinyv_cli.prompts.boxes import FULL_SCALE, Box, split_boxes
from tinyv_cli.prompts.tasks import DEFAULT_WORDS
from tinyv_cli.variants.miniature import IN_SHORT

_STYLE = Path(__file__).with_name("sheet.css")
_MARK = b'<!doctype html>\n<meta name="generator" content="tinyv batch">\n'
_ANOTHER = "name another: `--sheet FILE.html`"
_SIDE_PX = 384  # of a thumbnail: 190 points on a telephone or a screen of twice the density
# 300 pictures stay below 10 MB, whatever is on them: base64 makes four bytes of three.
_MOST_BYTES = 22_000
_QUALITIES = (80, 65, 50, 35, 20)
# No script, no request, whatever a name or an answer may hold.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_FILTERS = (("all", "All"), ("boxed", "With boxes"), ("failed", "Failed"))


def check_sheet(sheet: Path, lines: Path | None) -> None:
    """Checks, before the model is asked, that a page can and may be written to a file.

    Args:
        sheet: the page; one of an earlier batch is replaced.
        lines: the batch's output; None is stdout, which cannot be read again.

    Raises:
        UsageError: there are no lines to read, the folder is missing, or something else is there.
        DeviceError: the place may not be looked at.
    """
    if lines is None:
        raise UsageError("--sheet is made of a file of lines", "write one: `-o FILE.jsonl`")
    check_place(sheet, _ANOTHER)
    if identify(sheet) == identify(lines):
        raise UsageError("--sheet and -o name the same file", _ANOTHER)
    if not is_folder(sheet.parent):
        made = shlex.quote(str(sheet.parent))
        raise UsageError(f"there is no folder {sheet.parent}", f"make it: `mkdir -p {made}`")
    if not exists(sheet):
        return
    is_ours = False
    if sheet.is_file():
        with sheet.open("rb") as file:
            is_ours = file.read(len(_MARK)) == _MARK
    if not is_ours:
        raise UsageError(f"{sheet} is there already, and no page of a batch", _ANOTHER)


def write_sheet(
    sheet: Path,
    lines: Path,
    settings: Settings,
    words: Mapping[Path, str],
    progress: Progress,
) -> None:
    """Writes a page of all pictures that have their line, as a whole or not at all.

    Args:
        sheet: the page.
        lines: the batch's output.
        settings: of the batch, for the page's head.
        words: that open the pictures, by the names of their lines; these come first on the page, in
            this order, then those of earlier runs.
        progress: is told of the pictures.

    Raises:
        DeviceError: it cannot be written.
    """
    places = {identify(path): number for number, path in enumerate(words)}
    entries = JsonLines(lines, lambda line: (identify(Path(line["path"])), line)).entries
    found = [entries[each] for each in sorted(entries, key=lambda it: places.get(it, len(places)))]
    with (
        progress("drawing the page", len(found)) as bar,
        writing(sheet, _ANOTHER),
        open_whole(sheet) as file,
    ):
        file.write(_MARK)
        for part in _make_head(settings, found):
            file.write(part.encode("utf-8", "replace"))
        for line in found:
            path = Path(line["path"])
            tile = _make_tile(line, words.get(path, str(path)), sheet.parent)
            file.write(tile.encode("utf-8", "replace"))
            bar.advance()
        file.write(b"</main>\n")


def make_thumbnail(picture: Image.Image) -> bytes:
    """Makes a small JPEG of at most 22 kB, whatever the picture.

    Args:
        picture: mode RGB.
    """
    scale = min(1.0, _SIDE_PX / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    small = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    while True:
        for quality in _QUALITIES:
            file = io.BytesIO()
            small.save(file, "JPEG", quality=quality, optimize=True, progressive=True)
            if file.tell() <= _MOST_BYTES:
                return file.getvalue()
        small = small.reduce(2)


def _make_head(settings: Settings, lines: list[dict[str, Any]]) -> Iterator[str]:
    """Yields the page up to its first picture: its look, the question, counts and filters."""
    asked = settings.prompt or DEFAULT_WORDS.get(settings.task or "", "What is in the box?")
    n_failed = sum("error" in line for line in lines)
    n_boxed = sum(bool(line.get("boxes")) for line in lines)
    is_toy = any(line.get("toy") for line in lines)
    about = [("answered by", f"{settings.model}, {IN_SHORT}" if is_toy else settings.model)]
    about += [("task", settings.task)] if settings.task else []
    about += [("box", settings.at)] if settings.at else []
    about += [("one of", settings.choices)] if settings.choices else []
    about += [("form", "JSON schema")] if settings.schema else []
    colours = "".join(f".c{i}{{--colour:{colour}}}" for i, colour in enumerate(COLOURS))
    yield (
        f'<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="referrer" content="no-referrer">\n'
        f'<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(asked[:80])}</title>\n"
        f"<style>\n{_STYLE.read_text('utf-8')}{colours}</style>\n"
    )
    counts = dict(zip([name for name, _ in _FILTERS], [len(lines), n_boxed, n_failed], strict=True))
    for name, _ in _FILTERS:
        checked = " checked" if name == "all" else ""
        yield f'<input type="radio" name="shown" id="{name}"{checked}>\n'
    facts = "".join(f"<dt>{name}</dt><dd>{escape(str(fact))}</dd>" for name, fact in about)
    labels = "".join(
        f'<label for="{name}">{label} <b>{counts[name]}</b></label>'
        for name, label in _FILTERS
        if counts[name]
    )
    yield (
        f'<header>\n<h1 dir="auto">{escape(asked)}</h1>\n<dl>{facts}</dl>\n'
        f"<nav>{labels}</nav>\n</header>\n<main>\n"
    )


def _make_tile(line: Mapping[str, Any], word: str, folder: Path) -> str:
    """Makes a picture's part of the page.

    Args:
        line: of the batch.
        word: that opens the picture.
        folder: of the page, which a link to the picture starts from.
    """
    name = str(line["path"])
    answer = line.get("answer")
    parts = split_boxes(answer) if isinstance(answer, str) else []
    boxes = [each for each in parts if isinstance(each, Box)]
    kind = "failed" if answer is None else "boxed" if boxes else "plain"
    picture = _make_picture(Path(name), word, boxes)
    if not is_data_url(word) and picture:
        # From the page's folder, so that both can be moved together; a name is never a scheme.
        target = quote(os.fsencode(os.path.relpath(name, folder)))
        picture = f'<a href="./{target}">{picture}</a>'
    if answer is None:
        error = line.get("error") or {}
        said = (
            f'<p class="error" dir="auto">{escape(str(error.get("problem", "")))}</p>'
            f'<p class="hint" dir="auto">{escape(str(error.get("hint", "")))}</p>'
        )
    else:
        said = f'<p dir="auto">{_make_answer(parts)}'
        said += "…</p>" if line.get("finish_reason") == "length" else "</p>"
    text = escape(name)
    frame = picture or '<span class="gone">no picture</span>'
    return (
        f'<figure class="{kind}"><div class="frame">{frame}</div>'
        f'<figcaption>{said}<footer dir="auto" title="{text}">{text}</footer>'
        "</figcaption></figure>\n"
    )


def _make_answer(parts: list[str | Box]) -> str:
    """Makes the text of an answer, with a number in a frame's colour for each box."""
    texts = []
    n_boxes = 0
    for each in parts:
        if isinstance(each, Box):
            texts.append(f"<b {_to_class(n_boxes)}>{n_boxes + 1}</b>")
            n_boxes += 1
        else:
            texts.append(escape(each))
    return "".join(texts)


def _make_picture(path: Path, word: str, boxes: list[Box]) -> str:
    """Makes a thumbnail with frames over it; empty where the picture cannot be read any more."""
    if is_pipe(path) or (is_url(word) and not is_data_url(word)):
        return ""
    try:
        picture = open_listed(word, path, say_nothing)
    except TinyvError:
        return ""
    data = base64.b64encode(make_thumbnail(picture)).decode("ascii")
    rectangles, numbers = [], []
    for i, box in enumerate(boxes):
        x, y, width, height = (
            f"{FULL_SCALE * each:.4g}"
            for each in (box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1)
        )
        shape = f'<rect x="{x}" y="{y}" width="{width}" height="{height}"'
        rectangles.append(f'{shape} class="rim"/>{shape} {_to_class(i)}/>')
        numbers.append(f'<b {_to_class(i)} style="--x:{x}%;--y:{y}%">{i + 1}</b>')
    overlay = ""
    if boxes:
        overlay = (
            f'<svg viewBox="0 0 {FULL_SCALE} {FULL_SCALE}" preserveAspectRatio="none" '
            f'aria-hidden="true">{"".join(rectangles)}</svg>{"".join(numbers)}'
        )
    ratio = picture.width / picture.height
    return (
        f'<span class="picture" style="--ratio:{ratio:.4f}">'
        f'<img alt="{escape(str(path))}" loading="lazy" decoding="async" '
        f'src="data:image/jpeg;base64,{data}">'
        f"{overlay}</span>"
    )


def _to_class(number: int) -> str:
    """Returns the class attribute of a box's colour."""
    return f'class="c{number % len(COLOURS)}"'
