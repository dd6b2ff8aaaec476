"""A scene becomes a picture, the same every time; knows no question.

Run `python -m weights.training.scenes` to draw many.
"""

import math

from PIL import Image

from weights.training.backgrounds import draw_background
from weights.training.glyphs import PADDING_PX, Glyphs, open_glyphs
from weights.training.scene import Placement, Scene


def draw_scene(scene: Scene, size_px: int, glyphs: Glyphs | None = None) -> Image.Image:
    """Draws a scene, objects from the back to the front.

    Args:
        scene: what to draw.
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
        draw_object(picture, placement, glyphs)
    return picture


def draw_object(picture: Image.Image, placement: Placement, glyphs: Glyphs) -> None:
    """Draws one object over what a square picture shows, turned and cut off at its edges."""
    patch, corner = make_patch(placement, picture.width, glyphs)
    picture.paste(patch, corner, patch)


def make_patch(
    placement: Placement, size_px: int, glyphs: Glyphs
) -> tuple[Image.Image, tuple[int, int]]:
    """An object's own pixels at its place.

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
