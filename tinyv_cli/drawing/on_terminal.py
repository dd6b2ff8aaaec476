"""A picture becomes escape sequences by which a terminal shows it; sends the terminal no question.

There are three protocols: kitty's, iTerm2's and sixel. Environment variables decide. The answer to
a question would have to be waited for, and a late one would be typed into the user's shell. xterm,
Windows Terminal and VS Code do not say by variables whether they show sixel; `TINYV_PICTURES` does.

Inside tmux, screen and zellij the variables are those of the terminal around them, which sees only
what they pass on. That is not supported unless `TINYV_PICTURES` says so: tmux from 3.4, built with
sixel, understands `TINYV_PICTURES=sixel`.
"""

import base64
import io
import math
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
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
_KITTY_CHUNK = 4096  # base64 characters in one command
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
        cell_px: (width, height) of a character in pixels.
    """

    stream: TextIO
    protocol: Protocol
    columns: int
    rows: int
    cell_px: tuple[int, int]


def resolve_screen(
    environment: Mapping[str, str] | None = None, streams: tuple[TextIO | None, ...] | None = None
) -> Screen:
    """Finds the terminal that a picture can be shown on, before a model is asked.

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
    if sys.platform == "win32":
        (columns, rows), width_px, height_px = os.get_terminal_size(stream.fileno()), 0, 0
    else:
        import fcntl
        import struct
        import termios

        window = bytes(8)  # zeros stand for what the terminal does not say
        with suppress(OSError):
            window = fcntl.ioctl(stream.fileno(), termios.TIOCGWINSZ, window)
        rows, columns, width_px, height_px = struct.unpack("HHHH", window)
    columns, rows = columns or 80, rows or 24
    cell_px = _USUAL_CELL_PX
    if width_px and height_px:
        cell_px = (max(1, width_px // columns), max(1, height_px // rows))
    return Screen(stream, protocol, columns, rows, cell_px)


def find_screen() -> Screen | None:
    """Returns the terminal where it shows pictures; None where it does not, or is not known to.

    Raises:
        UsageError: `TINYV_PICTURES` is none of `PROTOCOLS`.
    """
    try:
        return resolve_screen()
    except UsageError:
        if os.environ.get(VARIABLE):
            raise
        return None


def resolve_protocol(environment: Mapping[str, str]) -> Protocol:
    """Derives from a terminal's variables how it shows pictures; `TINYV_PICTURES` goes first.

    Raises:
        UsageError: it is not known to, it runs inside tmux, screen or zellij, or `TINYV_PICTURES`
            is none of `PROTOCOLS`.
    """
    wanted = environment.get(VARIABLE)
    if wanted:
        for protocol in PROTOCOLS:
            if wanted.lower() == protocol:
                return protocol
        raise UsageError(
            f"{VARIABLE} is {wanted!r}, which is no way to show a picture",
            f"choose one of {', '.join(PROTOCOLS)}, or `unset {VARIABLE}`",
        )
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
    """Encodes a picture for a terminal, ended by a newline so that text goes on below.

    The picture keeps its size up to the screen's width and its height less two lines, for the
    answer and the prompt after it.

    Source: kitty's documentation, "Terminal graphics protocol"; iTerm2's, "Inline Images Protocol".
    """
    width_px = screen.columns * screen.cell_px[0]
    height_px = max(1, screen.rows - 2) * screen.cell_px[1]
    scale = min(width_px / picture.width, height_px / picture.height)
    if scale < 1:
        size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    if screen.protocol == "sixel":
        return to_sixel(picture) + "\n"
    columns = min(screen.columns, math.ceil(picture.width / screen.cell_px[0]))
    file = io.BytesIO()
    picture.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    if screen.protocol == "iterm2":
        size_bytes = len(file.getvalue())
        keys = f"inline=1;size={size_bytes};width={columns};preserveAspectRatio=1"
        return f"\x1b]1337;File={keys}:{data}\x07\n"
    commands = []
    keys = f"a=T,f=100,q=2,c={columns},"  # q=2 keeps the terminal from answering
    for start in range(0, len(data), _KITTY_CHUNK):
        more = int(start + _KITTY_CHUNK < len(data))
        commands.append(f"\x1b_G{keys}m={more};{data[start : start + _KITTY_CHUNK]}\x1b\\")
        keys = "q=2,"
    return "".join(commands) + "\n"


def to_sixel(picture: Image.Image) -> str:
    """Encodes a picture as sixel, in 256 colours.

    A sixel is a column of six pixels of one colour; bands of six rows are written colour by colour.

    Source: DEC, "VT330/VT340 Programmer Reference Manual" (1988), volume 2, chapter 14.
    """
    reduced = picture.convert("RGB").quantize(_SIXEL_COLOURS)
    palette = np.array(reduced.getpalette("RGB") or [], np.float64).reshape(-1, 3)
    percent = np.rint(palette * (100 / 255)).astype(int)
    colours = "".join(f"#{i};2;{r};{g};{b}" for i, (r, g, b) in enumerate(percent.tolist()))
    indices = np.asarray(reduced)  # (H, W)
    bands = []
    for top in range(0, picture.height, _SIXEL_ROWS):
        band = indices[top : top + _SIXEL_ROWS]  # (up to 6, W)
        weights = 1 << np.arange(len(band))[:, None]
        layers = []
        for colour in np.unique(band).tolist():
            columns = ((band == colour) * weights).sum(0)  # (W,), a bit a row
            text = (columns + ord("?")).astype(np.uint8).tobytes().decode("ascii").rstrip("?")
            runs = re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", text)
            layers.append(f"#{colour}{runs}")
        bands.append("$".join(layers))
    size = f'"1;1;{picture.width};{picture.height}'  # square pixels
    return f"\x1bP0;1;0q{size}{colours}{'-'.join(bands)}\x1b\\"
