"""Each format that Pillow reads, in modes, depths, kinds of alpha and profiles, against a drawing.

Source: sixteen kinds of files from other programs' bug reports were read as something else without
a word: inverted, wrapped, transparent where the format means opaque, profiles ignored.
"""

import warnings
from contextlib import suppress
from functools import cache
from io import BytesIO
from itertools import product

import numpy as np
import pytest
from PIL import Image

from tests.light.pictures.drawn_pictures import (
    HEIGHT,
    PRIMARIES,
    SRGB,
    WIDTH,
    draw_alpha,
    draw_colours,
    draw_grey,
    make_bmp,
    make_chunk,
    make_grey_profile,
    make_ico,
    make_ink_profile,
    make_png,
    make_tga,
    make_thumbnail_first,
    make_tiff,
    make_wide_jpeg2000,
    power,
    put_on_white,
    show,
    to_file_bytes,
)
from tinyv_cli.errors import InputError
from tinyv_cli.pictures.decoding.formats import list_formats
from tinyv_cli.pictures.decoding.profiles import make_profile
from tinyv_cli.pictures.image import AS_PUBLISHED, read_picture

COLOURS, GREY = draw_colours(), draw_grey()
GREY_3 = np.repeat(GREY[..., None], 3, axis=2)
ALPHAS = {kind: draw_alpha(kind) for kind in ("opaque", "half", "ramp")}

# Of GIF 256 colours and alpha of all or nothing; PPM's white is stated, and far above 255.
POORLY_WRITTEN = {("GIF", "RGB"), ("GIF", "RGBA"), ("GIF", "LA"), ("PPM", "I")}
HALF_COLOURS = "WEBP", "-lossy"  # stores colours at half the size, which blurs the drawing's edges
REFUSED = {f"TIFF-rgb8-{order}-2-0-ramp" for order in "<>"}  # a plane too many for Pillow


def quantise(levels, depth):
    """Values of a depth, and the levels of 8 bits that they stand for."""
    most = 2**depth - 1
    values = np.rint(levels / 255 * most).astype(np.uint32)
    return values, values * 255 / most


def find_png_cases():
    for depth, interlaced, has_key in product((1, 2, 4, 8, 16), (False, True), (False, True)):
        values, shown = quantise(GREY_3, depth)
        key = int(values[5, 25, 0])  # black
        before = [make_chunk(b"tRNS", key.to_bytes(2, "big"))] if has_key else []
        alpha = np.where(values[..., 0] == key, 0, 255) if has_key else ALPHAS["opaque"]
        content = make_png(values[..., :1], depth, 0, before=before, interlaced=interlaced)
        yield f"PNG-grey{depth}-{interlaced}-{has_key}", content, put_on_white(shown, alpha)
    for depth, interlaced, kind in product((8, 16), (False, True), ALPHAS):
        alpha = quantise(ALPHAS[kind], depth)[0][..., None]
        for colour, levels in ((4, GREY_3), (6, COLOURS)):
            values = quantise(levels, depth)[0][..., : 1 if colour == 4 else 3]
            content = make_png(np.dstack([values, alpha]), depth, colour, interlaced=interlaced)
            yield (
                f"PNG-{colour}-{depth}-{interlaced}-{kind}",
                content,
                put_on_white(levels, ALPHAS[kind]),
            )
    for depth, interlaced, has_key in product((8, 16), (False, True), (False, True)):
        values, shown = quantise(COLOURS, depth)
        if depth == 16:  # near the key in all but the low bytes
            values[4:14, 27:33] = values[5, 27] + (0, 0, 9)
        key = values[5, 20]
        before = [make_chunk(b"tRNS", key.astype(">u2").tobytes())] if has_key else []
        is_key = (values == key).all(axis=2) & has_key
        content = make_png(values, depth, 2, before=before, interlaced=interlaced)
        yield (
            f"PNG-rgb{depth}-{interlaced}-{has_key}",
            content,
            put_on_white(shown, np.where(is_key, 0, 255)),
        )
    for depth, interlaced, n_alpha in product((1, 2, 4, 8), (False, True), (0, 1, 2)):
        palette = np.random.default_rng(depth).integers(0, 256, (2**depth, 3), np.uint8)
        indices = quantise(GREY, depth)[0]
        opacity = np.full(2**depth, 255, np.uint8)
        opacity[:n_alpha] = (0, 100)[:n_alpha]
        before = [make_chunk(b"PLTE", palette.tobytes())]
        before += [make_chunk(b"tRNS", opacity[:n_alpha].tobytes())] if n_alpha else []
        content = make_png(indices[..., None], depth, 3, before=before, interlaced=interlaced)
        yield (
            f"PNG-palette{depth}-{interlaced}-{n_alpha}",
            content,
            put_on_white(palette[indices].astype(float), opacity[indices]),
        )


def find_narrow_cases():
    """Values of 9 to 15 bits in words of 16, in PNG and TIFF."""
    for n_bits, (colour, levels) in product(
        range(9, 16), ((0, GREY_3), (2, COLOURS), (4, GREY_3), (6, COLOURS))
    ):
        values = quantise(levels, n_bits)[0][..., : 1 if colour in (0, 4) else 3]
        if colour >= 4:
            values = np.dstack([values, quantise(ALPHAS["ramp"], n_bits)[0]])
        alpha = ALPHAS["ramp" if colour >= 4 else "opaque"]
        shown = put_on_white(levels, alpha)
        yield f"PNG-{n_bits}in16-{colour}", make_png(values, 16, colour), shown
    for n_bits, order, levels in product((10, 12, 14), "<>", (GREY_3, COLOURS)):
        n_samples = 1 if levels is GREY_3 else 3
        values = quantise(levels, n_bits)[0][..., :n_samples]
        content = put_in_tiff([values.astype(f"{order}u2").tobytes()], order, 16, n_samples)
        yield f"TIFF-{n_bits}in16-{order}-{n_samples}", content, levels


def put_in_tiff(planes, order, depth, n_samples, **tags):
    tags = {
        "t256": (3, [WIDTH]), "t257": (3, [HEIGHT]), "t258": (3, [depth] * n_samples),
        "t259": (3, [1]), "t262": (3, [2 if n_samples >= 3 else 1]), "t277": (3, [n_samples]),
        **tags,
    }  # fmt: skip
    return make_tiff(planes, order=order, **tags)


def find_tiff_cases():
    for order, inverted in product("<>", (False, True)):
        photometric = {"t262": (3, [0 if inverted else 1])}
        turn = (lambda values, most: most - values) if inverted else (lambda values, _: values)
        for depth in (8, 16, 32):
            values = turn(np.rint(GREY / 255 * (2**depth - 1)), 2.0**depth - 1)
            words = values.astype(f"{order}u{depth // 8}")
            content = put_in_tiff([words.tobytes()], order, depth, 1, **photometric)
            yield f"TIFF-grey{depth}-{order}-{inverted}", content, GREY_3
        signed = turn(GREY.astype(float), 255).astype(f"{order}i4")
        content = put_in_tiff([signed.tobytes()], order, 32, 1, t339=(3, [2]), **photometric)
        yield f"TIFF-signed-{order}-{inverted}", content, GREY_3
        floats = turn(GREY / 255, 1).astype(f"{order}f4")
        content = put_in_tiff([floats.tobytes()], order, 32, 1, t339=(3, [3]), **photometric)
        if order == "<" or not inverted:
            yield f"TIFF-float-{order}-{inverted}", content, GREY_3
    for order, depth, planar in product("<>", (8, 16), (1, 2)):
        for extra, kind in ((None, "opaque"), (0, "ramp"), (1, "half"), (2, "ramp"), (2, "half")):
            alpha = ALPHAS[kind] if extra else np.full((HEIGHT, WIDTH), 77)
            levels = COLOURS.astype(float)
            stored = levels * alpha[..., None] / 255 if extra == 1 else levels
            bands = stored if extra is None else np.dstack([stored, alpha])
            words = np.rint(bands * (257 if depth == 16 else 1)).astype(f"{order}u{depth // 8}")
            planes = [words.tobytes()]
            if planar == 2:
                planes = [
                    np.ascontiguousarray(words[..., i]).tobytes() for i in range(words.shape[2])
                ]
            tags = {"t284": (3, [planar])} | ({} if extra is None else {"t338": (3, [extra])})
            if extra == 1 and planar == 2:
                continue  # Pillow gives the colours back multiplied, as they are stored
            content = put_in_tiff(planes, order, depth, words.shape[2], **tags)
            shown = put_on_white(levels, alpha) if extra else levels
            yield f"TIFF-rgb{depth}-{order}-{planar}-{extra}-{kind}", content, shown
    for order, depth, wide in product("<>", (1, 4, 8), (False, True)):
        palette = np.random.default_rng(depth).integers(0, 256, (2**depth, 3), np.uint8)
        palette[0] = 255
        indices = quantise(GREY, depth)[0]
        bits = ((indices[..., None] >> np.arange(depth - 1, -1, -1)) & 1).reshape(HEIGHT, -1)
        plane = np.packbits(bits.astype(np.uint8), axis=1).tobytes()
        colours = (palette.T.astype(int) * (257 if wide else 1)).reshape(-1).tolist()
        content = put_in_tiff([plane], order, depth, 1, t262=(3, [3]), t320=(3, colours))
        yield f"TIFF-palette{depth}-{order}-{wide}", content, palette[indices].astype(float)
    yield "TIFF-thumbnail-first", make_thumbnail_first(COLOURS), COLOURS
    for name, value, kind, tag in (
        ("float", -9999.0, "f4", None), ("tagged", -3.5, "f4", b"-3.5\0"),
        ("int", -9999, "i2", None), ("int32", -32768, "i4", None), ("nan", np.nan, "f4", None),
    ):  # fmt: skip
        words = (GREY * (100.0 if kind == "i2" else 1.0)).astype(f"<{kind}")
        words[20:24] = value
        tags = {"t339": (3, [3 if kind == "f4" else 2])} | ({"t42113": (2, tag)} if tag else {})
        shown = GREY_3.astype(float)
        shown[20:24] = 0
        if kind == "i2":  # of 15 bits
            shown *= 100 / 32767 * 255
        content = put_in_tiff([words.tobytes()], "<", words.itemsize * 8, 1, **tags)
        yield f"TIFF-no-data-{name}", content, shown


def find_alpha_cases():
    opaque = COLOURS.astype(float)
    for kind in ("none", "opaque", "ramp"):
        alpha = draw_alpha(kind)
        shown = opaque if kind == "none" else put_on_white(opaque, alpha)
        for size in (56, 108, 124):
            yield f"BMP-{size}-{kind}", make_bmp(COLOURS, alpha, size), shown
        yield f"TGA-8-{kind}", make_tga(COLOURS, alpha, 8), shown
        yield f"TGA-0-{kind}", make_tga(COLOURS, alpha, 0), opaque
        yield f"ICO-{kind}", make_ico(COLOURS, alpha), shown


def find_profile_cases():
    described = {
        "P3": ("P3", SRGB), "Adobe": ("Adobe", power(2.2)), "2020": ("2020", power(2.4)),
        "linear": ("sRGB", power(1)), "sRGB": ("sRGB", SRGB),
    }  # fmt: skip
    modes = {"RGB": (COLOURS, "opaque"), "RGBA": (COLOURS, "ramp"), "L": (GREY_3, "opaque"),
             "LA": (GREY_3, "half"), "P": (COLOURS, "opaque")}  # fmt: skip
    kinds = {"PNG": "RGB RGBA L LA P", "TIFF": "RGB RGBA L LA P", "JPEG": "RGB L",
             "WEBP": "RGB RGBA", "AVIF": "RGB RGBA", "MPO": "RGB"}  # fmt: skip
    for (name, (primaries, curve)), (format_, names) in product(described.items(), kinds.items()):
        profile = make_profile(PRIMARIES[primaries], curve)
        for mode in names.split() if format_ in list_formats() else ():
            levels, kind = modes[mode]
            picture = make_mode(mode, kind)
            options = {"lossless": True} if format_ == "WEBP" else {}
            options |= {"quality": 100, "subsampling": 0} if format_ in ("JPEG", "MPO") else {}
            options |= {"quality": 100, "subsampling": "4:4:4"} if format_ == "AVIF" else {}
            content = to_file_bytes(picture, format_, icc_profile=profile, **options)
            stored = np.asarray(picture.convert("RGB"), float) if mode == "P" else levels
            shown = put_on_white(show(stored, primaries, curve), ALPHAS[kind])
            yield f"{format_}-{mode}-{name}", content, shown
    for format_, mode in (("PNG", "L"), ("PNG", "LA"), ("TIFF", "L"), ("JPEG", "L")):
        options = {"quality": 100} if format_ == "JPEG" else {}
        picture, profile = make_mode(mode, "half"), make_grey_profile()
        content = to_file_bytes(picture, format_, icc_profile=profile, **options)
        alpha = ALPHAS["half" if mode == "LA" else "opaque"]
        shown = put_on_white(show(GREY_3, "sRGB", power(1)), alpha)
        yield f"{format_}-{mode}-grey-profile", content, shown
    inks = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    printed = np.full((HEIGHT, WIDTH, 3), 255.0)
    known = {(255, 0, 0, 0): (255, 0, 0), (0, 0, 255, 0): (0, 0, 255), (0, 0, 0, 255): (0, 0, 0)}
    for at, (ink, colour) in enumerate(known.items()):
        inks[:, 16 * at : 16 * at + 16], printed[:, 16 * at : 16 * at + 16] = ink, colour
    for format_, options in (("TIFF", {}), ("JPEG", {"quality": 100, "subsampling": 0})):
        picture = Image.frombytes("CMYK", (WIDTH, HEIGHT), inks.tobytes())
        content = to_file_bytes(picture, format_, icc_profile=make_ink_profile(), **options)
        yield f"{format_}-CMYK-profile", content, printed
    gamma = {"gAMA": make_chunk(b"gAMA", (100_000).to_bytes(4, "big"))}
    primaries = b"".join(round(each * 100_000).to_bytes(4, "big") for each in PRIMARIES["P3"])
    gamma["cHRM"] = make_chunk(b"cHRM", primaries)
    srgb, p3 = make_chunk(b"sRGB", b"\0"), make_chunk(b"cICP", bytes([12, 13, 0, 1]))
    usual = make_chunk(b"gAMA", (45_455).to_bytes(4, "big"))
    for depth, (name, chunks, (where, curve)) in product((8, 16), (
        ("gAMA", [gamma["gAMA"]], ("sRGB", power(1))),
        ("cHRM", [gamma["cHRM"]], ("P3", SRGB)),
        ("both", list(gamma.values()), ("P3", power(1))),
        ("sRGB-wins", [srgb, gamma["gAMA"]], ("sRGB", SRGB)),
        ("cICP-wins", [p3, srgb, gamma["gAMA"]], ("P3", SRGB)),
        ("usual", [usual], ("sRGB", SRGB)),
    )):  # fmt: skip
        for colour, levels in ((0, GREY_3), (2, COLOURS)):
            values = quantise(levels, depth)[0][..., : 1 if colour == 0 else 3]
            shown = show(levels, where, curve)
            yield (
                f"PNG-{name}-{depth}-{colour}",
                make_png(values, depth, colour, before=chunks),
                shown,
            )


def make_mode(mode, kind="opaque"):
    """The drawing in a mode of Pillow's."""
    grey, colours = Image.fromarray(GREY), Image.fromarray(COLOURS)
    if mode in ("LA", "RGBA"):
        picture = (grey if mode == "LA" else colours).convert(mode)
        picture.putalpha(Image.fromarray(ALPHAS[kind]))
        return picture
    if mode == "I;16":
        return Image.fromarray(GREY.astype(np.uint16) * 257)
    if mode in ("I", "F"):
        return grey.convert(mode)
    return (
        colours.quantize(64)
        if mode == "P"
        else (grey if mode in ("L", "1") else colours).convert(mode)
    )


def find_written_cases():
    """Whatever Pillow itself writes, in each mode it takes."""
    Image.init()
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "F")
    for format_, mode in product(sorted(set(Image.SAVE) & set(list_formats())), modes):
        for kind in ALPHAS if mode in ("LA", "RGBA") else ("opaque",):
            for name, options in list_ways(format_):
                picture = make_mode(mode, kind)
                try:
                    content = to_file_bytes(picture, format_, **options)
                except (OSError, ValueError, KeyError, SystemError):
                    continue  # this is not written in this mode
                with Image.open(BytesIO(content), formats=(format_,)) as written:
                    stored, size = written.mode, written.size
                    has_alpha = written.has_transparency_data
                is_deep = mode in ("I", "I;16", "F")
                is_cut = is_deep and stored not in ("I", "F") and not stored.startswith("I;16")
                if is_cut or size != (WIDTH, HEIGHT) or (format_, mode) in POORLY_WRITTEN:
                    continue  # another picture was written
                if is_deep or stored in ("L", "LA", "F"):
                    levels = GREY_3 if is_deep else to_three(picture.convert("L"))
                else:
                    levels = np.asarray(picture.convert("RGB"), float)
                shown = put_on_white(levels, ALPHAS[kind]) if has_alpha else levels
                yield f"{format_}-{mode}-{kind}{name}", content, shown


def to_three(grey):
    return np.repeat(np.asarray(grey, float)[..., None], 3, axis=2)


def list_ways(format_):
    if format_ == "TIFF":
        kinds = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma")
        return [("", {}), *((f"-{each}", {"compression": each}) for each in kinds)]
    if format_ in ("JPEG", "MPO"):
        best = {"quality": 100, "subsampling": 0}
        return [("", best), ("-progressive", best | {"progressive": True})]
    if format_ == "WEBP":
        return [("-lossless", {"lossless": True, "exact": True}), ("-lossy", {"quality": 100})]
    if format_ == "AVIF":
        return [("", {"quality": 100, "subsampling": "4:4:4"})]
    if format_ == "TGA":
        return [("", {}), ("-rle", {"compression": "tga_rle"})]
    if format_ == "ICO":
        return [
            ("", {"sizes": [(WIDTH, HEIGHT)]}),
            ("-bmp", {"sizes": [(WIDTH, HEIGHT)], "bitmap_format": "bmp"}),
        ]
    if format_ == "JPEG2000":
        return [("", {}), ("-lossy", {"irreversible": True})]
    return [("", {})]


def find_wide_jpeg2000_cases():
    for depth, mode in product((9, 10, 12, 14, 16), ("LA", "RGB", "RGBA")):
        picture = make_mode(mode, "ramp")
        levels = GREY_3 if mode == "LA" else COLOURS
        shown = put_on_white(levels, ALPHAS["ramp"]) if mode != "RGB" else levels
        yield f"JPEG2000-{mode}-{depth}", make_wide_jpeg2000(picture, depth), shown


@cache
def list_cases():
    """By name: a file's content, and what it shows, (H, W, 3)."""
    finders = (
        find_png_cases, find_narrow_cases, find_tiff_cases, find_alpha_cases, find_profile_cases,
        find_written_cases, find_wide_jpeg2000_cases,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # some formats will go one day
        return {name: (content, shown) for find in finders for name, content, shown in find()}


def test_there_are_several_hundred_cases_of_most_formats():
    names = list_cases()
    assert len(names) > 500
    assert len({name.partition("-")[0] for name in names}) >= 15


@pytest.mark.parametrize("name", list_cases())
def test_what_was_drawn_is_shown(name):
    content, shown = list_cases()[name]
    if name in REFUSED:  # by name, or read: Pillow 13 gives up at the head, 11 does not
        with suppress(InputError):
            assert np.array_equal(np.asarray(read_picture(content)), COLOURS)
        return
    rgb = np.asarray(read_picture(content), float)
    assert rgb.shape == shown.shape
    is_blurred = name.startswith(HALF_COLOURS[0]) and name.endswith(HALF_COLOURS[1])
    assert np.abs(rgb - shown).mean() < (8 if is_blurred else 2)


def test_published_figures_are_measured_without_profiles():
    content, _ = list_cases()["PNG-RGB-P3"]
    assert np.array_equal(np.asarray(read_picture(content, AS_PUBLISHED)), COLOURS)


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "WEBP"])
def test_without_a_profile_and_with_that_of_srgb_the_bytes_stay(format_):
    for name in (f"{format_}-RGB-sRGB",):
        content, _ = list_cases()[name]
        assert np.array_equal(np.asarray(read_picture(content)), COLOURS)
