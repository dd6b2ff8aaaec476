"""The fixed pictures, questions and answers that every variant is measured on.

They are drawn here, so that a measurement needs no file and is the same everywhere. Shapes, stripes
and noise cover flat, regular and busy patches; the answers are there to be scored, not to be right.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

_SIDE_PX = 448


@dataclass(frozen=True)
class Probe:
    """One question about one picture.

    Attributes:
        picture: index into `make_pictures`.
        question: with its task tag.
        answer: the text whose tokens are scored one after another.
    """

    picture: int
    question: str
    answer: str


@dataclass(frozen=True)
class EncodedProbes:
    """The image tokens of the probes' pictures, (P, Q, D) float32.

    Attributes:
        exact: in full precision.
        rounded: as the written graphs compute them.
    """

    exact: np.ndarray
    rounded: np.ndarray

    @property
    def cosines(self) -> np.ndarray:
        """Cosines of each token with its full-precision self, (P, Q) float64."""
        lengths = np.linalg.norm(self.exact, axis=-1) * np.linalg.norm(self.rounded, axis=-1)
        cosines: np.ndarray = (self.exact * self.rounded).sum(-1, dtype=np.float64) / lengths
        return cosines


PROBES = (
    Probe(0, "[vqa] what is this?", "a red circle and a blue square on a grey wall"),
    Probe(0, "[refer] the blue square", "{<52><50><85><83>}"),
    Probe(1, "[caption] describe this image.", "The picture shows broad stripes in two colours."),
    Probe(1, "how many stripes are there?", "There are seven stripes, all of the same width."),
    Probe(2, "[vqa] is there a dog?", "no, there is only noise"),
    Probe(2, "Describe the texture in detail.", "It looks rough, like sand or a wall of stone."),
)


def make_pictures() -> list[Image.Image]:
    """Draws the pictures: two shapes on a shaded wall, stripes, and noise."""
    shade = np.linspace(90, 190, _SIDE_PX, dtype=np.float32).astype(np.uint8)
    shapes = Image.fromarray(np.repeat(shade[:, None, None], _SIDE_PX, 1).repeat(3, 2))
    draw = ImageDraw.Draw(shapes)
    draw.ellipse((40, 60, 200, 220), fill=(205, 40, 30))
    draw.rectangle((235, 225, 380, 370), fill=(35, 70, 200))
    columns = np.arange(_SIDE_PX) // (_SIDE_PX // 7) % 2
    colours = np.array([[240, 220, 60], [30, 120, 60]], np.uint8)[columns]
    stripes = Image.fromarray(np.repeat(colours[None], _SIDE_PX, 0))
    generator = np.random.default_rng(20240101)
    coarse = Image.fromarray(generator.integers(40, 216, (28, 28, 3), dtype=np.uint8))
    coarse = coarse.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC)
    fine = generator.integers(-25, 26, (_SIDE_PX, _SIDE_PX, 3), dtype=np.int16)
    noise = Image.fromarray((np.asarray(coarse) + fine).clip(0, 255).astype(np.uint8))
    return [shapes, stripes, noise]
