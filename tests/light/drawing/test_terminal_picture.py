import base64
import io
import os
import re
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from tinyv_cli.drawing.on_terminal import (
    Screen,
    resolve_protocol,
    resolve_screen,
    show_picture,
    to_escapes,
    to_sixel,
)
from tinyv_cli.errors import UsageError

needs_terminals = pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")


def make_screen(protocol, columns=80, rows=24):
    return Screen(io.StringIO(), protocol, columns, rows, (8, 16))


def make_picture(width=200, height=100):
    """Four patches of plain colours, which no reduction to 256 colours changes."""
    picture = Image.new("RGB", (width, height), "white")
    picture.paste((255, 0, 0), (0, 0, width // 2, height // 2))
    picture.paste((0, 0, 255), (width // 2, height // 3, width, height))
    picture.putpixel((width - 1, 0), (0, 255, 0))
    return picture


def read_sixel(text):
    """Reads sixel as a terminal does; returns (H, W, 3) in percent, -1 where nothing was drawn."""
    match = re.fullmatch(r'\x1bP0;1;0q"1;1;(\d+);(\d+)(.*)\x1b\\', text, re.DOTALL)
    width, height = int(match[1]), int(match[2])
    shown = np.full((height + 6, width, 3), -1)
    palette, colour, x, y = {}, None, 0, 0
    marks = r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)([?-~])|([?-~])|([$])|(-)"
    end = 0
    for mark in re.finditer(marks, match[3]):
        assert mark.start() == end, "a sign that is none of sixel's"
        end = mark.end()
        if mark[1]:
            palette[int(mark[1])] = [int(mark[i]) for i in (2, 3, 4)]
        elif mark[5]:
            colour = palette[int(mark[5])]
        elif mark[9]:
            x = 0
        elif mark[10]:
            x, y = 0, y + 6
        else:
            bits, n = ord(mark[7] or mark[8]) - 63, int(mark[6] or 1)
            assert x + n <= width
            for row in range(6):
                if bits >> row & 1:
                    shown[y + row, x : x + n] = colour
            x += n
    assert end == len(match[3])
    assert (shown[height:] == -1).all()
    return shown[:height]


@pytest.mark.parametrize("size", [(200, 100), (1, 1), (7, 6), (5, 13), (300, 2)])
def test_sixel_shows_every_pixel_in_its_colour(size):
    picture = make_picture(*size)
    shown = read_sixel(to_sixel(picture))
    assert np.abs(shown * 2.55 - np.asarray(picture)).max() < 1


def test_sixel_of_many_colours_is_near_the_picture():
    ramp = np.linspace(0, 255, 120)
    channels = np.broadcast_arrays(ramp, ramp[::-1, None], 90)
    picture = Image.fromarray(np.stack(channels, -1).astype(np.uint8))
    shown = read_sixel(to_sixel(picture)) * 2.55
    assert shown.min() >= 0
    assert np.abs(shown - np.asarray(picture)).mean() < 8


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "foot-extra"}, "sixel"),
        ({"TERM": "xterm-256color", "KONSOLE_VERSION": "230804"}, "sixel"),
        ({"TERM": "xterm", "TINYV_PICTURES": "Sixel"}, "sixel"),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/x", "TINYV_PICTURES": "sixel"}, "sixel"),
    ],
)
def test_a_terminal_is_known_by_its_variables(environment, protocol):
    assert resolve_protocol(environment) == protocol


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"TERM": "dumb"},
        {"TERM": "xterm-256color"},
        {"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"},
        {"TERM": "xterm-256color", "KONSOLE_VERSION": "210400"},
        {"TERM": "xterm-256color", "KONSOLE_VERSION": "new"},
    ],
)
def test_a_terminal_that_is_not_known_to_show_pictures_is_told_with_two_ways_out(environment):
    with pytest.raises(UsageError) as caught:
        resolve_protocol(environment)
    assert "is not known to show pictures" in caught.value.problem
    assert "--draw drawn.png" in caught.value.hint
    assert "TINYV_PICTURES=sixel" in caught.value.hint


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"TERM": "screen-256color", "TMUX": "/tmp/x,1,0", "KITTY_WINDOW_ID": "1"}, "tmux"),
        ({"TERM": "tmux-256color", "TERM_PROGRAM": "tmux"}, "tmux"),
        ({"TERM": "screen.xterm-256color", "STY": "1.tty"}, "screen"),
        ({"TERM": "screen"}, "screen"),
        ({"TERM": "xterm-kitty", "ZELLIJ": "0"}, "zellij"),
    ],
)
def test_what_stands_between_program_and_terminal_is_told(environment, name):
    with pytest.raises(UsageError) as caught:
        resolve_protocol(environment)
    assert caught.value.problem == f"--show does not reach through {name}"
    assert "--draw drawn.png" in caught.value.hint


def test_a_protocol_nobody_speaks_is_refused():
    with pytest.raises(UsageError) as caught:
        resolve_protocol({"TINYV_PICTURES": "regis"})
    assert "'regis'" in caught.value.problem
    assert "kitty, iterm2, sixel" in caught.value.hint


def test_nothing_is_shown_where_nobody_looks(tmp_path):
    closed = io.StringIO()
    closed.close()
    with (tmp_path / "out").open("w") as file:
        for streams in ((), (None,), (file, None), (closed, file)):
            with pytest.raises(UsageError) as caught:
                resolve_screen({"TERM": "xterm-kitty"}, streams)
            assert caught.value.problem == "--show needs a terminal, and the output goes elsewhere"
            assert "--draw drawn.png" in caught.value.hint


def read_kitty(text):
    """The PNG of kitty's commands, and the keys of the first."""
    commands = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    keys = [dict(pair.split("=") for pair in command[0].split(",")) for command in commands]
    assert "".join(f"\x1b_G{k};{d}\x1b\\" for k, d in commands) + "\n" == text
    assert all(len(data) <= 4096 for _, data in commands)
    assert all(len(data) % 4 == 0 for _, data in commands)
    assert [key["m"] for key in keys] == ["1"] * (len(keys) - 1) + ["0"]
    assert all(key["q"] == "2" for key in keys), "the terminal would answer into the shell"
    png = base64.b64decode("".join(data for _, data in commands))
    return keys[0], Image.open(io.BytesIO(png))


def test_kitty_gets_the_picture_as_it_is():
    picture = make_picture()
    keys, shown = read_kitty(to_escapes(picture, make_screen("kitty")))
    assert keys["a"] == "T"
    assert keys["f"] == "100"
    assert keys["c"] == "25"
    assert shown.tobytes() == picture.tobytes()


def test_kitty_gets_a_large_picture_in_pieces_no_wider_and_higher_than_the_screen():
    noise = np.random.default_rng(0).integers(0, 256, (900, 3000, 3), np.uint8)
    text = to_escapes(Image.fromarray(noise), make_screen("kitty"))
    keys, shown = read_kitty(text)
    assert shown.size == (640, 192)
    assert keys["c"] == "80"
    assert text.count("\x1b_G") > 10
    _, high = read_kitty(to_escapes(make_picture(300, 3000), make_screen("kitty")))
    assert high.size == (35, 352)


def test_iterm2_gets_the_picture_as_it_is():
    picture = make_picture()
    text = to_escapes(picture, make_screen("iterm2"))
    match = re.fullmatch(r"\x1b\]1337;File=([^:]*):([^\x07]*)\x07\n", text)
    keys = dict(pair.split("=") for pair in match[1].split(";"))
    png = base64.b64decode(match[2])
    assert keys == {
        "inline": "1",
        "size": str(len(png)),
        "width": "25",
        "preserveAspectRatio": "1",
    }
    assert Image.open(io.BytesIO(png)).tobytes() == picture.tobytes()


def test_sixel_is_made_to_fit_the_screen():
    text = to_escapes(make_picture(4000, 1000), make_screen("sixel"))
    assert read_sixel(text.removesuffix("\n")).shape == (160, 640, 3)


@needs_terminals
@pytest.mark.parametrize(
    ("pixels", "cell"), [((1000, 800), (10, 20)), ((0, 0), (8, 16))], ids=["told", "not told"]
)
def test_a_picture_reaches_a_real_terminal_in_its_size(pixels, cell):
    import fcntl
    import pty
    import struct
    import termios

    outside, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, *pixels))
    received = bytearray()

    def read_all():
        while b"\x1b\\\r\n" not in received:
            received.extend(os.read(outside, 65536))

    reader = threading.Thread(target=read_all, daemon=True)
    reader.start()
    with os.fdopen(inside, "w") as terminal, io.StringIO() as pipe:
        screen = resolve_screen({"TERM": "foot"}, (pipe, terminal))
        assert (screen.columns, screen.rows, screen.cell_px) == (100, 40, cell)
        show_picture(make_picture(), screen)
        reader.join(10)
        assert not reader.is_alive()
        assert pipe.getvalue() == ""
    os.close(outside)
    assert read_sixel(received.decode().removesuffix("\r\n")).shape == (100, 200, 3)
