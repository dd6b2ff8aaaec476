"""A picture's file or bytes become the pixels that the vision tower was trained on.

Pillow decodes everything. The steps are those of the published code (RGB, squash-resize by PIL's
bicubic, CLIP's mean and deviation) after what it leaves out: the turn that EXIF asks for,
transparency, colour profiles, and values wider than 8 bits.
"""

import hashlib
import os
import re
import shlex
import stat
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from tinyv_cli.disk.reading import read_bytes
from tinyv_cli.errors import DeviceError, InputError, describe_os_error
from tinyv_cli.pictures.decoding.formats import NotReadError
from tinyv_cli.pictures.decoding.rgb import decode, decode_plainly
from tinyv_cli.pictures.names import hint_at_name

# Source: CLIP's `preprocess`, as arXiv 2312.16862's code uses it.
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)

MAX_PIXELS = 2**27  # 0.4 GB as RGB; a 108-megapixel telephone stays below

_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def say_nothing(_: str) -> None:
    """Takes a note and drops it."""


@dataclass(frozen=True)
class Reading:
    """How pictures are read.

    Attributes:
        uses_profiles: whether colours are converted to sRGB by the profile in the file. Published
            figures were measured without.
        is_plain: whether Pillow's own conversion to RGB is all that is done: no turn that EXIF
            asks for, no white behind what is transparent. Published scripts read so.
        note: takes what the user is to know of a picture, in one line.
    """

    uses_profiles: bool = True
    is_plain: bool = False
    note: Callable[[str], None] = say_nothing


AS_SHOWN = Reading()
AS_PUBLISHED = Reading(uses_profiles=False)
PLAINLY = Reading(uses_profiles=False, is_plain=True)

# Pillow's size limit and Python's warning filters belong to the process: one picture at a time.
_ONE_AT_A_TIME = threading.Lock()


def read_picture(source: Path | bytes, reading: Reading = AS_SHOWN) -> Image.Image:
    """Decodes a picture to sRGB, upright; of an animation the first frame that shows something.

    Args:
        source: a file, or a file's content.
        reading: how, and where notes go.

    Returns:
        A picture of mode RGB that holds no open file; read plainly, neither upright nor in sRGB.

    Raises:
        InputError: there is no such file, it cannot be read, it is not a picture or a damaged
            one, it has more than `MAX_PIXELS` pixels or is less than 2 pixels wide or high.
        DeviceError: memory does not suffice to decode it.
    """
    with _open_stream(source) as stream, _ONE_AT_A_TIME, warnings.catch_warnings():
        # Pillow compares the header's size, also of a picture inside a picture, before it decodes:
        # it warns above the limit and raises above twice the limit. Here both raise.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS
        try:
            if reading.is_plain:
                return decode_plainly(stream).convert("RGB")
            picture, notes = decode(stream, MAX_PIXELS, uses_profiles=reading.uses_profiles)
        except NotReadError as error:
            hint = error.hint or _hint_to_convert(source)
            raise InputError(f"{_name(source)} {error.problem}", hint) from error
        except UnidentifiedImageError as error:
            raise InputError(
                f"{_name(source)} is not a picture Pillow can read", _hint_to_convert(source)
            ) from error
        except _BOMBS as error:
            n_pixels = re.search(r"\d+", str(error))  # "Image size (… pixels) exceeds limit of …"
            raise InputError(
                f"{_name(source)} has {n_pixels[0] if n_pixels else 'too many'} pixels, "
                f"the limit is {MAX_PIXELS}",
                _hint_to_shrink(source),
            ) from error
        except MemoryError as error:
            raise DeviceError(
                f"memory does not suffice to decode {_name(source)}", _hint_to_shrink(source)
            ) from error
        except Exception as error:  # damaged files make Pillow raise almost anything
            raise InputError(
                f"{_name(source)} is damaged: {str(error).rstrip('.') or type(error).__name__}",
                f"fetch it again, or try to repair it: {_hint_to_convert(source)}",
            ) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    for each in notes:
        reading.note(f"{_name(source)} {each}")
    return picture


def to_pixels(picture: Image.Image, image_px: int) -> np.ndarray:
    """Squashes a picture to a square and normalises it.

    Args:
        picture: mode RGB, as `read_picture` returns it.
        image_px: S, the side of the square in pixels.

    Returns:
        (1, 3, S, S) float32, CLIP's mean subtracted and divided by its deviation.

    Source: torchvision's Resize(BICUBIC), ToTensor and Normalize over PIL, as published.
    """
    square = picture.resize((image_px, image_px), Image.Resampling.BICUBIC)
    image = np.asarray(square, np.float32) / np.float32(255)  # (S, S, 3)
    normalised = (image - CLIP_MEAN) / CLIP_STD
    return np.ascontiguousarray(normalised.transpose(2, 0, 1)[None])


def hash_pixels(pixels: np.ndarray) -> str:
    """Returns the SHA-256 of an image's type, shape and bytes, in hexadecimal."""
    digest = hashlib.sha256(f"{pixels.dtype.str} {pixels.shape}".encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()


def _open_stream(source: Path | bytes) -> BinaryIO:
    """Opens the picture's bytes for reading; a pipe is read to its end."""
    if isinstance(source, bytes):
        if not source:
            raise InputError(
                f"{_name(source)} is empty", "check what is piped: `tinyv ask - QUESTION < PICTURE`"
            )
        return BytesIO(source)
    folder = shlex.quote(str(source.parent))
    try:
        status = source.stat()
        if stat.S_ISDIR(status.st_mode):
            os.scandir(source).close()  # a folder that may not be read is that first of all
            quoted = shlex.quote(str(source))
            raise InputError(f"{source} is a folder", f"name one picture in it: `ls {quoted}`")
        if stat.S_ISREG(status.st_mode) and status.st_size == 0:
            raise InputError(f"{source} is empty", f"fetch it again; `ls -l {folder}` shows sizes")
        if stat.S_ISFIFO(status.st_mode):
            return BytesIO(read_bytes(source))
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{source} is not a file", f"name a picture: `ls {folder}`")
        return source.open("rb")
    except FileNotFoundError as error:
        raise InputError(f"there is no file {source}", hint_at_name(source)) from error
    except PermissionError as error:
        raise InputError(
            f"{source} may not be read", f"allow it: `chmod u+r {shlex.quote(str(source))}`"
        ) from error
    except OSError as error:
        raise InputError(
            f"{source} cannot be opened: {describe_os_error(error)}",
            f"check it: `ls -l {folder}`",
        ) from error


def _name(source: Path | bytes) -> str:
    """Returns the picture's name for messages."""
    return str(source) if isinstance(source, Path) else "the given picture"


def _hint_to_convert(source: Path | bytes) -> str:
    """Returns a hint with a command that converts the picture to PNG."""
    return f"convert it to JPEG or PNG: {_make_command(source, 'converted')}"


def _hint_to_shrink(source: Path | bytes) -> str:
    """Returns a hint with a command that makes the picture smaller."""
    return f"make it smaller: {_make_command(source, 'small', '-resize 2048x2048 ')}"


def _make_command(source: Path | bytes, ending: str, how: str = "") -> str:
    """Makes a command that writes a picture anew; one that was piped has no name and stays so."""
    if isinstance(source, bytes):
        return f"`magick - {how}png:- < PICTURE | tinyv ask - QUESTION`"
    target = shlex.quote(f"{source.stem}-{ending}.png")
    return f"`magick {shlex.quote(str(source))} {how}{target}`"
