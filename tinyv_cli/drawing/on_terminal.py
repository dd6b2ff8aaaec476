"""A picture becomes signs that a terminal shows as a picture; asks the terminal nothing.

Three protocols are spoken: kitty's, iTerm2's and sixel. Which one, the environment tells. A
question to the terminal itself would have to be waited for, and a late answer would be typed into
the user's shell. Terminals that keep quiet about sixel, as xterm does, are told by a variable.

Inside tmux, screen and zellij the variables are those of the terminal around them, which sees only
what they pass on. That is not supported unless the variable says so: tmux from 3.4, built with
sixel, understands `TINYV_PICTURES=sixel`.
"""

import base64
import io
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TextIO

import numpy as np
from PIL import Image

from tinyv_cli.errors import UsageError

Protocol = Literal["kitty", "iterm2", "sixel"]
PROTOCOLS: tuple[Protocol, ...] = ("kitty", "iterm2", "sixel")
VARIABLE = "TINYV_PICTURES"

# Source: each terminal's own documentation.
_PROGRAMS: dict[str, Protocol] = {  # by TERM_PROGRAM
    "ghostty": "kitty",
    "WarpTerminal": "kitty",
    "iTerm.app": "iterm2",
    "WezTerm": "iterm2",
    "mintty": "iterm2",
    "rio": "iterm2",
}
_TERMS: tuple[tuple[str, Protocol], ...] = (  # by what TERM begins with
    ("xterm-kitty", "kitty"),
    ("xterm-ghostty", "kitty"),
    ("foot", "sixel"),
    ("contour", "sixel"),
    ("mlterm", "sixel"),
    ("yaft", "sixel"),
    ("vt340", "sixel"),
    ("xterm-sixel", "sixel"),
)
_KONSOLE_WITH_SIXEL = 220400  # KONSOLE_VERSION of 22.04
_MULTIPLEXERS = {"TMUX": "tmux", "STY": "screen", "ZELLIJ": "zellij"}

_USUAL_CELL_PX = (8, 16)  # where the terminal does not say
_KITTY_CHUNK = 4096  # base64 signs in one command
_SIXEL_COLOURS = 256
_SIXEL_ROWS = 6
_WAY_OUT = "write a file instead: `--draw drawn.png`"


@dataclass(frozen=True)
class Screen:
    """A terminal that shows pictures.

    Attributes:
        stream: writes to it.
        protocol: that it understands.
        columns: its width in characters.
        rows: its height in characters.
        cell_px: width and height of a character in pixels.
    """

    stream: TextIO
    protocol: Protocol
    columns: int
    rows: int
    cell_px: tuple[int, int]


def resolve_screen(
    environment: Mapping[str, str] | None = None, streams: tuple[TextIO | None, ...] | None = None
) -> Screen:
    """Finds out where a picture can be shown, before one is asked about.

    Args:
        environment: variables; None for the process's own.
        streams: the first that is a terminal is written to; None for stderr, then stdout.

    Raises:
        UsageError: no stream is a terminal, or it is not known to show pictures.
    """
    environment = os.environ if environment is None else environment
    streams = (sys.stderr, sys.stdout) if streams is None else streams
    stream = next((each for each in streams if each and not each.closed and each.isatty()), None)
    if stream is None:
        raise UsageError("--show needs a terminal, and the output goes elsewhere", _WAY_OUT)
    protocol = resolve_protocol(environment)
    columns, rows, cell_px = _read_size(stream)
    return Screen(stream, protocol, columns, rows, cell_px)


def resolve_protocol(environment: Mapping[str, str]) -> Protocol:
    """Tells from a terminal's variables how it shows pictures; `TINYV_PICTURES` goes first.

    Raises:
        UsageError: it is not known to, or it runs inside tmux, screen or zellij.
    """
    wanted = environment.get(VARIABLE)
    if wanted:
        return _check_protocol(wanted)
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    for variable, multiplexer in _MULTIPLEXERS.items():
        if environment.get(variable) or re.split("[-.]", term)[0] == multiplexer:
            raise UsageError(f"--show does not reach through {multiplexer}", _WAY_OUT)
    if environment.get("KITTY_WINDOW_ID"):
        return "kitty"
    if program in _PROGRAMS:
        return _PROGRAMS[program]
    if environment.get("LC_TERMINAL") == "iTerm2":  # ssh carries this one along
        return "iterm2"
    for start, protocol in _TERMS:
        if term.startswith(start):
            return protocol
    konsole = environment.get("KONSOLE_VERSION", "")
    if konsole.isdecimal() and int(konsole) >= _KONSOLE_WITH_SIXEL:
        return "sixel"
    raise UsageError(
        f"this terminal ({program or term or 'no TERM'}) is not known to show pictures",
        f"{_WAY_OUT}; where it does, say how: `export {VARIABLE}=sixel`, kitty or iterm2",
    )


def show_picture(picture: Image.Image, screen: Screen) -> None:
    """Writes a picture to a terminal, and to nothing else.

    Args:
        picture: mode RGB; made smaller where it is wider or higher than the screen.
        screen: as `resolve_screen` found it.
    """
    screen.stream.write(to_escapes(picture, screen))
    screen.stream.flush()


def to_escapes(picture: Image.Image, screen: Screen) -> str:
    """The signs that show a picture, ended by a newline so that text goes on below.

    The picture keeps its size up to the screen's width and its height less two lines, for the
    answer and the prompt after it.
    """
    fitting = _fit(picture, screen)
    columns = min(screen.columns, math.ceil(fitting.width / screen.cell_px[0]))
    if screen.protocol == "kitty":
        return "".join(_walk_kitty(fitting, columns)) + "\n"
    if screen.protocol == "iterm2":
        return _to_iterm2(fitting, columns) + "\n"
    return to_sixel(fitting) + "\n"


def to_sixel(picture: Image.Image) -> str:
    """Encodes a picture as sixel, in 256 colours.

    A sixel is a column of six pixels of one colour; bands of six rows are written colour by colour.

    Source: DEC, "VT330/VT340 Programmer Reference Manual" (1988), volume 2, chapter 14.
    """
    reduced = picture.convert("RGB").quantize(_SIXEL_COLOURS)
    palette = np.array(reduced.getpalette("RGB") or [], np.float64).reshape(-1, 3)
    percent = np.rint(palette * (100 / 255)).astype(int)
    indices = np.asarray(reduced)  # (H, W)
    colours = "".join(f"#{i};2;{r};{g};{b}" for i, (r, g, b) in enumerate(percent.tolist()))
    bands = [
        _to_band(indices[top : top + _SIXEL_ROWS]) for top in range(0, picture.height, _SIXEL_ROWS)
    ]
    size = f'"1;1;{picture.width};{picture.height}'  # square pixels
    return f"\x1bP0;1;0q{size}{colours}{'-'.join(bands)}\x1b\\"


def _to_band(indices: np.ndarray) -> str:
    """Up to six rows (6, W) of colour numbers: for each colour its columns, runs shortened."""
    weights = 1 << np.arange(len(indices))[:, None]
    layers = []
    for colour in np.unique(indices).tolist():
        columns = ((indices == colour) * weights).sum(0)  # (W,), a bit a row
        signs = (columns + ord("?")).astype(np.uint8).tobytes().decode("ascii").rstrip("?")
        short = re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", signs)
        layers.append(f"#{colour}{short}")
    return "$".join(layers)


def _walk_kitty(picture: Image.Image, columns: int) -> Iterator[str]:
    """Commands of kitty's protocol: a PNG in pieces, shown where the cursor is.

    Source: kitty's documentation, "Terminal graphics protocol". `q=2` keeps the terminal from
    answering.
    """
    data = base64.b64encode(_to_png(picture)).decode("ascii")
    keys = f"a=T,f=100,q=2,c={columns},"
    for start in range(0, len(data), _KITTY_CHUNK):
        more = int(start + _KITTY_CHUNK < len(data))
        yield f"\x1b_G{keys}m={more};{data[start : start + _KITTY_CHUNK]}\x1b\\"
        keys = "q=2,"


def _to_iterm2(picture: Image.Image, columns: int) -> str:
    """iTerm2's command for a picture within the text.

    Source: iTerm2's documentation, "Inline Images Protocol".
    """
    png = _to_png(picture)
    keys = f"inline=1;size={len(png)};width={columns};preserveAspectRatio=1"
    return f"\x1b]1337;File={keys}:{base64.b64encode(png).decode('ascii')}\x07"


def _to_png(picture: Image.Image) -> bytes:
    """The picture as the content of a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _fit(picture: Image.Image, screen: Screen) -> Image.Image:
    """Makes a picture smaller that is larger than the screen, in its proportions."""
    width = screen.columns * screen.cell_px[0]
    height = max(1, screen.rows - 2) * screen.cell_px[1]
    scale = min(width / picture.width, height / picture.height)
    if scale >= 1:
        return picture
    size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _read_size(stream: TextIO) -> tuple[int, int, tuple[int, int]]:
    """Columns, rows and a cell's pixels of a terminal; usual ones where it does not say."""
    columns, rows, width, height = _read_window(stream.fileno())
    columns, rows = columns or 80, rows or 24
    if not width or not height:
        return columns, rows, _USUAL_CELL_PX
    return columns, rows, (max(1, width // columns), max(1, height // rows))


def _read_window(descriptor: int) -> tuple[int, int, int, int]:
    """Columns, rows, width and height in pixels, as the system keeps them; 0 for not known."""
    if sys.platform == "win32":
        size = os.get_terminal_size(descriptor)
        return size.columns, size.lines, 0, 0
    import fcntl
    import struct
    import termios

    try:
        packed = fcntl.ioctl(descriptor, termios.TIOCGWINSZ, bytes(8))
    except OSError:
        return 0, 0, 0, 0
    rows, columns, width, height = struct.unpack("HHHH", packed)
    return columns, rows, width, height


def _check_protocol(name: str) -> Protocol:
    """The protocol of a name."""
    for protocol in PROTOCOLS:
        if name.lower() == protocol:
            return protocol
    raise UsageError(
        f"{VARIABLE} is {name!r}, no way to show a picture",
        f"choose of {', '.join(PROTOCOLS)}, or `unset {VARIABLE}`",
    )
