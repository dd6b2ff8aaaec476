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


# Twenty questions for each picture: some 2,000 positions, by which recipes can be told apart. With
# the 100 of six questions two recipes of 0.03 and 0.02 nats could not.
_ASKED = (
    (
        ("[vqa] what is this?", "a red circle and a blue square on a grey wall"),
        ("[refer] the blue square", "{<52><50><85><83>}"),
        ("[refer] the red circle", "{<9><13><45><49>}"),
        ("[identify] what is this {<52><50><85><83>}", "a blue square with sharp corners"),
        ("[identify] what is this {<9><13><45><49>}", "a red circle, painted on the wall"),
        (
            "[caption] please describe this image",
            "A red circle hangs above a blue square, and behind both the wall gets lighter "
            "towards the floor.",
        ),
        (
            "[grounding] describe this image in detail",
            "<p>a red circle</p> {<9><13><45><49>} and <p>a blue square</p> {<52><50><85><83>}",
        ),
        ("[detection] circle", "<p>circle</p> {<9><13><45><49>}"),
        (
            "how many shapes are there?",
            "There are two shapes, one round and one with four corners.",
        ),
        ("[vqa] what colour is the circle?", "red"),
        ("[vqa] what colour is the square?", "blue"),
        ("[vqa] is the circle above the square?", "yes"),
        (
            "Which of the two is larger?",
            "The circle is a little wider than the square, but they are nearly the same size.",
        ),
        ("Is there a person in the picture?", "No, nobody can be seen; there are only two shapes."),
        (
            "What could this be used for?",
            "It could be an exercise for children who learn colours and forms at school.",
        ),
        ("[vqa] where is the square?", "in the lower right half"),
        (
            "Tell me a story about this.",
            "Once a circle met a square. They looked at each other for a long time, and in "
            "the end they went home together.",
        ),
        (
            "Write two lines of code that draw this.",
            "draw.ellipse((40, 60, 200, 220)) and then draw.rectangle((235, 225, 380, 370))",
        ),
        ("[caption] describe this image briefly.", "Two simple shapes on a shaded wall."),
        ("What is missing?", "A triangle would fit, somewhere between the other two."),
    ),
    (
        ("[caption] describe this image.", "The picture shows broad stripes in two colours."),
        ("how many stripes are there?", "There are seven stripes, all of the same width."),
        ("[vqa] what colours are there?", "yellow and green"),
        ("[vqa] are the stripes horizontal?", "no, they are vertical"),
        ("[refer] the second stripe", "{<14><0><28><100>}"),
        ("[refer] the last yellow stripe", "{<85><0><100><100>}"),
        ("[identify] what is this {<0><0><14><100>}", "a yellow stripe at the left border"),
        (
            "[detection] stripes",
            "{<0><0><14><100>}<delim>{<14><0><28><100>}<delim>{<28><0><42><100>}<delim>{<42><"
            "0><57><100>}",
        ),
        (
            "[grounding] describe this image in detail",
            "<p>a yellow stripe</p> {<0><0><14><100>} beside <p>a green stripe</p> "
            "{<14><0><28><100>}",
        ),
        (
            "[caption] please describe this image",
            "Yellow and green stripes stand next to each other like the boards of a fence or "
            "the bars of a flag.",
        ),
        (
            "What does this remind you of?",
            "It reminds me of a deck chair, or of an awning over the window of a small shop.",
        ),
        ("Is it day or night?", "That cannot be told from stripes alone."),
        ("[vqa] is there any text?", "no"),
        ("[vqa] what is in front of the stripes?", "nothing"),
        (
            "Why would somebody paint this?",
            "Perhaps because a wall looks longer with it, or simply because the paint was there.",
        ),
        (
            "Which colour comes first?",
            "Yellow comes first, and it is also the colour of the last stripe on the right.",
        ),
        ("Count them in German.", "eins, zwei, drei, vier, fünf, sechs, sieben"),
        ("[vqa] how wide is one stripe?", "about a seventh of the picture"),
        (
            "Describe the mood of the picture.",
            "It is bright and cheerful, a little loud, and very regular.",
        ),
        (
            "What happens if it is turned by ninety degrees?",
            "Then the stripes lie on top of each other, as in a layer cake.",
        ),
    ),
    (
        ("[vqa] is there a dog?", "no, there is only noise"),
        ("Describe the texture in detail.", "It looks rough, like sand or a wall of stone."),
        ("[vqa] what is this?", "noise"),
        (
            "[caption] please describe this image",
            "Soft blotches of all colours lie under a fine grain, as on a screen without a "
            "station.",
        ),
        ("[refer] the brightest spot", "{<61><8><70><17>}"),
        ("[identify] what is this {<20><20><60><60>}", "a part of a blurred surface"),
        ("[detection] dogs", "There are no dogs."),
        (
            "[grounding] describe this image in detail",
            "<p>a grey surface</p> {<0><0><100><100>} with <p>dark spots</p> {<5><62><33><90>}",
        ),
        ("how many colours can you see?", "Too many to count, and none of them is pure."),
        ("[vqa] is it sharp?", "no"),
        ("[vqa] what is in the middle?", "a brownish blotch"),
        (
            "Could this be a photograph?",
            "It could be a photograph of moss or gravel that is badly out of focus.",
        ),
        (
            "What would you hear here?",
            "Perhaps a hiss, like rain on a roof of tin, without any rhythm.",
        ),
        (
            "Is there anything written on it?",
            "No letters or numbers can be made out anywhere in the picture.",
        ),
        ("[vqa] is it indoors or outdoors?", "that is unknown"),
        (
            "What do statisticians call this?",
            "They would call it a random field; neighbouring values are correlated, distant "
            "ones are not.",
        ),
        ("Does it have a border?", "No, the grain goes on up to the edges on all four sides."),
        ("[caption] describe this image in one word.", "static"),
        (
            "Compare the left side with the right side.",
            "On the left it is a little darker and greener, on the right there is more red, "
            "but one has to look closely.",
        ),
        (
            "What should I do with it?",
            "Keep it as an example of a picture in which there is nothing to be seen.",
        ),
    ),
)
PROBES = tuple(
    Probe(picture, question, answer)
    for picture, asked in enumerate(_ASKED)
    for question, answer in asked
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
