"""A background's numbers become pixels; knows no object.

Patterns have two shades of one colour, so that its name stays true of every part.
"""

import numpy as np

from weights.training.scene import Background, Style

_NOISE_CELLS = 48  # a side: grain is as coarse in a small picture as in a large one
_DOT = 0.3  # radius of a dot, of the period
_NOISE_GAIN = 0.6  # of contrast: standard deviation of the grain


def draw_background(background: Background, size_px: int) -> np.ndarray:
    """Fills a picture.

    Returns:
        (size_px, size_px, 3) bytes. Each is within `contrast` of `background.rgb`, but for noise.
    """
    if background.style == "plain":
        return np.full((size_px, size_px, 3), background.rgb, dtype=np.uint8)
    shade = _compute_shade(background, size_px) * background.contrast
    levels = np.asarray(background.rgb, dtype=np.float32) * (1 + shade[..., None])
    return levels.clip(0, 255).astype(np.uint8)


def _compute_shade(background: Background, size_px: int) -> np.ndarray:
    """Brightness of each pixel, -1 to 1, for noise beyond; (size_px, size_px) float32."""
    if background.style == "noisy":
        grain = np.random.default_rng(background.seed).standard_normal(
            (_NOISE_CELLS, _NOISE_CELLS), dtype=np.float32
        )
        cells = np.arange(size_px) * _NOISE_CELLS // size_px
        return _NOISE_GAIN * grain[cells][:, cells]
    angle = np.deg2rad(background.angle_deg)
    steps = ((np.arange(size_px) + 0.5) / size_px - 0.5).astype(np.float32)
    along = np.float32(np.cos(angle)) * steps + np.float32(np.sin(angle)) * steps[:, None]
    across = np.float32(np.cos(angle)) * steps[:, None] - np.float32(np.sin(angle)) * steps
    return _shade(background.style, along, across, np.float32(background.period))


def _shade(style: Style, along: np.ndarray, across: np.ndarray, period: np.floating) -> np.ndarray:
    """One style's brightness, -1 to 1, from each pixel's place along and across its direction."""
    first: np.ndarray = along / period % 1 - np.float32(0.5)
    second: np.ndarray = across / period % 1 - np.float32(0.5)
    shades: dict[Style, np.ndarray] = {
        "shaded": along * np.float32(1.4142),  # a diagonal reaches 0.707
        "striped": np.sign(first),
        "checked": np.sign(first * second),
        "dotted": np.where(first**2 + second**2 < _DOT**2, np.float32(1), np.float32(-0.3)),
    }
    return shades[style]
