"""Colour names become red, green and blue; knows nothing of what is drawn in them.

A name is an answer, so names stand far apart: `tests/light/test_scenes.py` holds the distances.
"""

Rgb = tuple[int, int, int]

# What a background can be: muted, since objects are vivid.
BACKGROUND_COLOURS: dict[str, Rgb] = {
    "white": (240, 240, 238),
    "gray": (142, 143, 145),
    "black": (38, 38, 42),
    "red": (196, 52, 48),
    "yellow": (240, 212, 84),
    "green": (78, 158, 82),
    "blue": (66, 116, 206),
    "purple": (132, 76, 180),
    "pink": (246, 172, 204),
    "brown": (124, 80, 48),
}

# What a tinted object can be, at the middle of its shades.
OBJECT_COLOURS: dict[str, Rgb] = {
    "red": (226, 40, 36),
    "yellow": (252, 204, 30),
    "green": (52, 172, 64),
    "blue": (38, 108, 232),
    "purple": (142, 48, 190),
    "pink": (255, 126, 184),
}
