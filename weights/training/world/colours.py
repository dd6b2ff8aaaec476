"""Maps colour names to red, green and blue; data only.

A name is an answer, so names stand far apart: `tests/light/training/test_scenes.py` holds the
distances. Ten backgrounds at least 31 apart in L*a*b* (purple and blue), six tints at least 39.
"""

Rgb = tuple[int, int, int]

# Backgrounds: muted, since objects are vivid.
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

# Tints of objects, at the middle of their shades.
OBJECT_COLOURS: dict[str, Rgb] = {
    "red": (226, 40, 36),
    "yellow": (252, 204, 30),
    "green": (52, 172, 64),
    "blue": (38, 108, 232),
    "purple": (142, 48, 190),
    "pink": (255, 126, 184),
}
