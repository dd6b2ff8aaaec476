"""A picture in colours of its own becomes one in sRGB, by the profile that describes them.

LittleCMS, which comes with Pillow, computes. Where a PNG describes its colours without a profile,
by a gamma, primaries or a code, a profile is made of them. A picture without any description is
sRGB already, and stays what it is to the byte.
"""

import struct
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from tinyv_cli.pictures.decoding.png import unpack

MAX_BYTES = 16 << 20  # of a profile; those of printing presses have 3 MB at most

_CLOSE = 1  # levels: by no more than this do profiles of sRGB differ from each other
_SPACES = {"L": "GRAY", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK", "LAB": "Lab"}

# Source: ICC.1:2022, 7.2.16, as s15Fixed16.
_D50 = (0.9642, 1.0, 0.8249)
# Source: Lindbloom, "Chromatic Adaptation": Bradford's cone responses.
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)

# Source: ITU-T H.273, tables 2 and 3: x and y of white, red, green and blue; curves as the
# parameters g, a, b, c, d of ICC's parametric curve 3: y = (ax + b)^g from d on, cx below.
_D65 = (0.3127, 0.329)
_SRGB_PRIMARIES = (*_D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_PRIMARIES = {
    1: _SRGB_PRIMARIES,
    4: (0.31, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.6, 0.15, 0.06),
    6: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: (*_D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (*_D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_CURVES = {
    4: (2.2, 1, 0, 0, 0),
    5: (2.8, 1, 0, 0, 0),
    8: (1, 1, 0, 0, 0),
    13: _SRGB_CURVE,
    **dict.fromkeys((1, 6, 14, 15), (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)),
}


class ProfileError(ValueError):
    """A profile, or a description in its place, that cannot be used; the message says why."""


def find_png_profile(beside: dict[bytes, bytes]) -> bytes | None:
    """Returns the profile that a PNG's chunks hold or describe; None for sRGB.

    A code is worth more than a profile, that more than the word that it is sRGB, and that more than
    gamma and primaries.

    Args:
        beside: contents of chunks by their kinds, as `png.check_png` returns them.

    Raises:
        ProfileError: they describe nothing that can be used.

    Source: Portable Network Graphics (third edition), W3C, table 5.
    """
    if b"cICP" in beside:
        primaries, curve = beside[b"cICP"][:2]
        if primaries == 2 or curve == 2:  # unspecified
            return None
        if primaries not in _PRIMARIES or curve not in _CURVES:
            raise ProfileError(f"its colours, code {primaries}-{curve}, cannot be converted")
        return make_profile(_PRIMARIES[primaries], _CURVES[curve])
    if b"iCCP" in beside:
        profile = unpack(beside[b"iCCP"].partition(b"\0")[2][1:], MAX_BYTES)
        if profile is None:
            raise ProfileError("its colour profile is damaged or too long")
        return profile
    if b"sRGB" in beside or not (b"gAMA" in beside or b"cHRM" in beside):
        return None
    curve_of, primaries_of = _SRGB_CURVE, _SRGB_PRIMARIES
    if b"gAMA" in beside:
        gamma = int.from_bytes(beside[b"gAMA"][:4], "big") / 100_000
        if gamma and abs(gamma * 2.2 - 1) > 0.05:  # as near as that it means sRGB, as to libpng
            curve_of = (1 / gamma, 1, 0, 0, 0)
    if b"cHRM" in beside:
        primaries_of = tuple(each / 100_000 for each in struct.unpack(">8I", beside[b"cHRM"][:32]))
    if (curve_of, primaries_of) == (_SRGB_CURVE, _SRGB_PRIMARIES):
        return None
    return make_profile(primaries_of, curve_of)


def make_profile(primaries: tuple[float, ...], curve: tuple[float, ...]) -> bytes:
    """Makes an RGB profile of a matrix and one curve.

    Args:
        primaries: x and y of white, red, green and blue.
        curve: g, a, b, c and d: light is (a level + b)^g, and c level where the level is below d.

    Raises:
        ProfileError: no colours can be mixed of such primaries.

    Source: ICC.1:2022, sections 7, 10.18 and 10.31; Lindbloom, "RGB/XYZ Matrices".
    """
    white, *corners = np.array(primaries, np.float64).reshape(4, 2)
    try:
        with np.errstate(all="raise"):
            to_xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (white, *corners)]).T
            matrix = to_xyz[:, 1:] * np.linalg.solve(to_xyz[:, 1:], to_xyz[:, 0])
            gains = (_BRADFORD @ _D50) / (_BRADFORD @ to_xyz[:, 0])
            adapted = np.linalg.inv(_BRADFORD) @ np.diag(gains) @ _BRADFORD @ matrix
            xyz = np.rint(adapted * 65536).astype(">i4")  # (3, 3)
            curve_data = b"para" + struct.pack(
                ">IHH5i", 0, 3, 0, *(round(p * 65536) for p in curve)
            )
    except (np.linalg.LinAlgError, FloatingPointError, ZeroDivisionError, struct.error) as error:
        raise ProfileError("its primaries or gamma describe no colours") from error
    white_data = struct.pack(">3i", *(round(each * 65536) for each in _D50))
    contents = {b"wtpt": b"XYZ \0\0\0\0" + white_data}
    for column, letter in enumerate((b"r", b"g", b"b")):
        contents[letter + b"XYZ"] = b"XYZ \0\0\0\0" + xyz[:, column].tobytes()
        contents[letter + b"TRC"] = curve_data
    at = 128 + 4 + 12 * len(contents)
    table, body = struct.pack(">I", len(contents)), b""
    for name, content in contents.items():
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content
    header = struct.pack(
        ">II4s4s4s4s", at + len(body), 0, b"\x02\x40\0\0", b"mntr", b"RGB ", b"XYZ "
    )
    header = header.ljust(36, b"\0") + b"acsp"
    header = header.ljust(68, b"\0") + white_data
    return header.ljust(128, b"\0") + table + body


def to_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """Converts a picture's colours to sRGB; one that is sRGB already stays the same to the byte.

    Args:
        picture: of mode L, RGB, RGBA, CMYK or LAB. RGB and RGBA are converted in place.
        profile: the content of an ICC profile.

    Raises:
        ProfileError: the profile is broken, or made for pictures of another kind.
    """
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if picture.mode == "RGBA" and space == "GRAY":  # grey with transparency
            grey = to_srgb(picture.getchannel("R"), profile)
            grey.putalpha(picture.getchannel("A"))
            return grey
        if picture.mode == "L" and space == "RGB":
            picture = picture.convert("RGB")
        if _SPACES[picture.mode] != space:
            raise ProfileError(f"its colour profile is for {space}, not for {picture.mode}")
        mode = picture.mode if picture.mode == "RGBA" else "RGB"
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), picture.mode, mode
        )
        if picture.mode in ("L", "RGB", "RGBA"):
            few = np.arange(0, 256, 1 if picture.mode == "L" else 15, dtype=np.uint8)
            many = few[None] if picture.mode == "L" else np.stack(np.meshgrid(few, few, few), -1)
            probe = Image.fromarray(many.reshape(1, -1, *many.shape[3:])).convert(picture.mode)
            shown = np.asarray(ImageCms.applyTransform(probe, transform), np.int16)
            if np.abs(shown - np.asarray(probe.convert(mode), np.int16)).max() <= _CLOSE:
                return picture
        if picture.mode == mode:
            ImageCms.applyTransform(picture, transform, inPlace=True)
            return picture
        converted = ImageCms.applyTransform(picture, transform)
        assert converted is not None
        return converted
    except (ImageCms.PyCMSError, OSError, AttributeError, TypeError) as error:
        raise ProfileError("its colour profile is damaged") from error
