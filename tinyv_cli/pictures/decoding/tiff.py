"""A TIFF opened by Pillow is set right before its pixels are read: which page, which words, white.

Source: TIFF 6.0 (Adobe, 1992), sections 3, 5, 8 and 19; libtiff's `tif_getimage.c` for palettes.
"""

import ctypes
import logging
from contextlib import suppress
from itertools import count

from PIL import ImagePalette, TiffImagePlugin, _imaging

from tinyv_cli.pictures.decoding.depth import Meaning

_COLOUR_MAP, _PHOTOMETRIC, _BITS, _SAMPLE_FORMAT, _PLANAR = 320, 262, 258, 339, 284
_SUBFILE, _OLD_SUBFILE, _NO_DATA = 254, 255, 42113
_MOST_PAGES = 64  # looked through for the full picture

# What libtiff gives in this computer's order, whatever the file's; Pillow asks for the file's.
_NATIVE = {
    "I;16BS": "I;16NS",
    "I;32B": "I;32N",
    "I;32BS": "I;32NS",
    "F;32BF": "F;32NF",
}

# Words that Pillow can read and does not list: order, meaning of 0, kind of number, bits.
_MORE_WORDS = {
    (b"MM", 0, (1,), 1, (16,), ()): ("I;16B", "I;16B"),
    (b"II", 0, (1,), 1, (32,), ()): ("I", "I;32"),
    (b"MM", 0, (1,), 1, (32,), ()): ("I", "I;32B"),
    (b"MM", 1, (1,), 1, (32,), ()): ("I", "I;32B"),
    (b"II", 0, (2,), 1, (16,), ()): ("I", "I;16S"),
    (b"MM", 0, (2,), 1, (16,), ()): ("I", "I;16BS"),
    (b"II", 0, (2,), 1, (32,), ()): ("I", "I;32S"),
    (b"MM", 0, (2,), 1, (32,), ()): ("I", "I;32BS"),
}


def prepare_tiffs() -> None:
    """Makes more kinds of words known to Pillow, and keeps it and libtiff off stderr."""
    # What Pillow logs, it raises too; without a handler, Python prints it.
    logging.getLogger(TiffImagePlugin.__name__).handlers = [logging.NullHandler()]
    for words, modes in _MORE_WORDS.items():
        TiffImagePlugin.OPEN_INFO.setdefault(words, modes)
    # libtiff prints to the process's own stderr, where no `-q` reaches. Its functions are found
    # through the module of Pillow that is linked with it; where they are hidden, it prints on.
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(_imaging.__file__)
        for silence in (library.TIFFSetWarningHandler, library.TIFFSetErrorHandler):
            silence.argtypes, silence.restype = [ctypes.c_void_p], ctypes.c_void_p
            silence(None)


def choose_page(picture: TiffImagePlugin.TiffImageFile) -> None:
    """Turns to the first page that is no thumbnail or mask, if the first is one."""
    for page in count():
        tags = picture.tag_v2
        if not (int(tags.get(_SUBFILE, 0)) & 5 or tags.get(_OLD_SUBFILE) == 2):
            return
        try:
            if page + 1 == _MOST_PAGES:
                break
            picture.seek(page + 1)
        except (EOFError, SyntaxError):
            break
    picture.seek(0)


def mend(picture: TiffImagePlugin.TiffImageFile) -> Meaning:
    """Corrects how Pillow is about to read the pixels of the page that it stands at.

    Planes of 16 bits are read as such, big-endian words from libtiff in the order that it gives
    them, and a palette of 8 bits is not divided once more.

    Returns:
        What grey values of more than 8 bits mean.
    """
    tags = picture.tag_v2
    bits = tags.get(_BITS, (1,))[0]
    order = "B" if tags.prefix == b"MM" else "L"
    tiles = []
    for tile in picture.tile:
        rawmode, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if tile.codec_name == "libtiff":
            rawmode = _NATIVE.get(rawmode, rawmode)
        elif tags.get(_PLANAR) == 2 and len(rawmode) == 1:
            if rawmode not in "RGBACMYK":
                continue  # a plane beyond the colours, of no stated meaning
            rawmode = f"{rawmode};16{order}" if bits == 16 else rawmode
        tiles.append(tile._replace(args=(rawmode, *rest)))
    picture.tile = tiles
    colours = tags.get(_COLOUR_MAP)
    if picture.mode in ("P", "PA") and colours and max(colours) < 256:
        picture.palette = ImagePalette.raw("RGB;L", bytes(colours))
    no_data = None
    with suppress(TypeError, ValueError):
        no_data = float(str(tags.get(_NO_DATA)).strip("\0 "))
    return Meaning(
        is_unsigned=tags.get(_SAMPLE_FORMAT, (1,))[0] == 1,
        is_inverted=tags.get(_PHOTOMETRIC, 0) == 0,
        no_data=no_data,
        n_bits=12 if bits == 12 else None,
    )
