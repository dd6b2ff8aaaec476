"""A scene becomes a picture, the same every time.

Patterns of a background have two shades of one colour, so that its name stays true of every part:
over 97 % of the pixels are nearest to their own name. Each object is one affine transform of a
kept bitmap. `python -m weights.training.scenes` draws many.
"""

import math

import numpy as np
from PIL import Image

from weights.training.world.glyphs import PADDING_PX, Glyphs, open_glyphs
from weights.training.world.scene import Background, Placement, Scene

_NOISE_CELLS = 48  # a side: grain is as coarse in a small picture as in a large one
_DOT = 0.3  # radius of a dot, of the period
_NOISE_GAIN = 0.6  # of contrast: standard deviation of the grain


def draw_scene(scene: Scene, size_px: int, glyphs: Glyphs | None = None) -> Image.Image:
    """Draws a scene, objects from the back to the front.

    Args:
        scene: to draw.
        size_px: side of the picture.
        glyphs: bitmaps to draw with; None takes the font that is found.

    Returns:
        RGB.

    Raises:
        UsageError: no font was found, or it draws a kind otherwise than scenes assume.
    """
    glyphs = glyphs or open_glyphs()
    picture = Image.fromarray(draw_background(scene.background, size_px))
    for placement in scene.objects:
        patch, corner = make_patch(placement, size_px, glyphs)
        picture.paste(patch, corner, patch)  # cut off at the picture's edges
    return picture


def make_patch(
    placement: Placement, size_px: int, glyphs: Glyphs
) -> tuple[Image.Image, tuple[int, int]]:
    """Draws one object alone.

    Returns:
        RGBA, turned, and its left and top in the picture, which may lie outside.
    """
    side_px = placement.size * size_px
    level = glyphs.choose_level(placement.kind, placement.colour, side_px)
    scale = (level.width - 2 * PADDING_PX) / side_px
    angle = math.radians(placement.rotation_deg)
    cos, sin = math.cos(angle), math.sin(angle)
    reach_px = side_px / 2 * (abs(cos) + abs(sin)) + 1
    x_px, y_px = placement.centre[0] * size_px, placement.centre[1] * size_px
    left, top = math.floor(x_px - reach_px), math.floor(y_px - reach_px)
    extent = (math.ceil(x_px + reach_px) - left, math.ceil(y_px + reach_px) - top)
    # From a pixel of the patch to one of the bitmap: shift to the centre, turn back, scale.
    x, y, middle = left - x_px, top - y_px, level.width / 2
    across = (scale * cos, scale * sin, scale * (x * cos + y * sin) + middle)
    down = (-scale * sin, scale * cos, scale * (y * cos - x * sin) + middle)
    patch = level.transform(
        extent, Image.Transform.AFFINE, (*across, *down), Image.Resampling.BICUBIC
    )
    return patch, (left, top)


def draw_background(background: Background, size_px: int) -> np.ndarray:
    """Fills a picture.

    Returns:
        (size_px, size_px, 3) bytes. Each is within `contrast` of `background.rgb`, but for noise.
    """
    cos, sin = (np.float32(f(np.deg2rad(background.angle_deg))) for f in (np.cos, np.sin))
    steps = ((np.arange(size_px) + 0.5) / size_px - 0.5).astype(np.float32)
    along, across = cos * steps + sin * steps[:, None], cos * steps[:, None] - sin * steps
    period = np.float32(background.period)
    first, second = along / period % 1 - np.float32(0.5), across / period % 1 - np.float32(0.5)
    match background.style:  # brightness of each pixel, -1 to 1, for noise beyond
        case "plain":
            return np.full((size_px, size_px, 3), background.rgb, dtype=np.uint8)
        case "noisy":
            grain = np.random.default_rng(background.seed).standard_normal(
                (_NOISE_CELLS, _NOISE_CELLS), dtype=np.float32
            )
            cells = np.arange(size_px) * _NOISE_CELLS // size_px
            shade = _NOISE_GAIN * grain[cells][:, cells]
        case "shaded":
            shade = along * np.float32(1.4142)  # a diagonal reaches 0.707
        case "striped":
            shade = np.sign(first)
        case "checked":
            shade = np.sign(first * second)
        case "dotted":
            is_dot = first**2 + second**2 < _DOT**2
            shade = np.where(is_dot, np.float32(1), np.float32(-0.3))
    levels = np.asarray(background.rgb, dtype=np.float32) * (
        1 + (shade * background.contrast)[..., None]
    )
    return levels.clip(0, 255).astype(np.uint8)
