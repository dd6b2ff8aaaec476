"""Pictures and questions that matrices are rounded for, made up here so that they need no file.

Nothing like the real task is needed: what counts is that many channels move (DESIGN.md). Several
kinds of picture and of text, each with the six tasks' tags and boxes; none of them is a probe that
measures. All are the same everywhere: they come of fixed seeds.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tinyv_cli.evaluation.questions import check_pictures, read_question_file, read_questions
from tinyv_cli.pictures.image import read_picture

N_PICTURES = 8
_SIDE_PX = 448
_SEED = 20261130


def _to_words(text: str, between: str | None = None) -> list[str]:
    return text.split(between)


_COLOURS = _to_words(
    "red orange yellow green blue purple pink brown black white grey golden silver"
)
_QUALITIES = _to_words(
    "small large tall old new round square wooden broken shiny wet empty open bright dark heavy "
    "thin striped quiet busy distant second left right upper lower whole strange familiar"
)
_THINGS = _to_words(
    "cup table window street bird horse lamp bottle clock garden roof bicycle train boat river "
    "mountain child woman man dog kitchen shelf newspaper basket flower tree fence bridge wheel "
    "shirt hat glove mirror curtain plate spoon knife candle piano guitar ball kite sign letter "
    "screen keyboard cable engine wing shell stone cloud shadow tower market field island desert"
)
_PLACES = _to_words(
    "on the left; on the right; in the middle; near the edge; in the background; behind a wall; "
    "under the table; next to it; far away; above the others; in front of the house; between them",
    "; ",
)
_VERBS = _to_words("stands lies hangs moves waits shines leans floats turns falls rests appears")
_OTHER = _to_words(
    "because although perhaps seven twelve 1984 3.5 hundred never often usually between without "
    "analysis number theory method result why how therefore water energy history music language "
    "def return import class x = y + 1 ; ( ) \" ' : - the of and to in is that it was for with"
)


@dataclass(frozen=True)
class Exercise:
    """A question about a picture, and an answer; neither has to make sense.

    Attributes:
        picture: index among the pictures.
        question: with its task tag.
        answer: the text behind it.
    """

    picture: int
    question: str
    answer: str


@dataclass(frozen=True)
class Material:
    """What a variant is rounded for.

    Attributes:
        pictures: RGB.
        exercises: in the order in which they are taken, as many as are wanted.
    """

    pictures: tuple[Image.Image, ...]
    exercises: tuple[Exercise, ...]


def make_material(n_exercises: int) -> Material:
    """Makes the material that comes with the program."""
    pictures = tuple(_draw_picture(index) for index in range(N_PICTURES))
    found = zip(range(n_exercises), _write_exercises(random.Random(_SEED)), strict=False)
    return Material(pictures, tuple(exercise for _, exercise in found))


def read_material(path: Path) -> Material:
    """Reads a user's own questions, as `tinyv eval` does.

    Raises:
        InputError: the file or a picture cannot be used.
    """
    questions = read_questions(read_question_file(path), path)
    check_pictures(questions)
    # In an order of chance, so that those taken are of all tasks and pictures.
    random.Random(_SEED).shuffle(questions)
    paths = list(dict.fromkeys(question.picture for question in questions))
    places = {picture: index for index, picture in enumerate(paths)}
    exercises = (Exercise(places[q.picture], q.text, q.reference) for q in questions)
    return Material(tuple(read_picture(each) for each in paths), tuple(exercises))


def _write_exercises(chance: random.Random) -> Iterator[Exercise]:
    """Makes up questions and answers without end, the kinds and pictures in turn."""

    def box() -> str:
        x, y = chance.randrange(80), chance.randrange(80)
        right, bottom = x + chance.randint(5, 100 - x), y + chance.randint(5, 100 - y)
        return f"{{<{x}><{y}><{min(right, 100)}><{min(bottom, 100)}>}}"

    def thing() -> str:
        qualities = chance.sample(_QUALITIES + _COLOURS, chance.randrange(3))
        return " ".join([*qualities, chance.choice(_THINGS)])

    def sentence() -> str:
        first = f"{chance.choice(['A', 'The', 'One'])} {thing()} {chance.choice(_VERBS)}"
        ends = [f" {chance.choice(_PLACES)}", f" with a {thing()}", f", and a {thing()} is there"]
        return first + "".join(chance.sample(ends, chance.randint(1, 3))) + "."

    def salad(n_words: int) -> str:
        return " ".join(chance.choice(_THINGS + _OTHER + _QUALITIES) for _ in range(n_words))

    def phrases() -> str:
        marked = (f"<p>{thing()}</p> {box()}" for _ in range(chance.randint(1, 3)))
        return f" {chance.choice(['and', 'beside', 'near'])} ".join(marked)

    picture = 0
    while True:
        for question, answer in (
            (f"[vqa] what colour is the {thing()}?", chance.choice(_COLOURS)),
            (f"[refer] the {thing()}", box()),
            (f"Where is the {thing()}?", f"The {thing()} is {chance.choice(_PLACES)}."),
            (f"[identify] what is this {box()}", f"a {thing()}"),
            ("[caption] please describe this image", f"{sentence()} {sentence()}"),
            (f"[detection] {chance.choice(_THINGS)}", "<delim>".join(box() for _ in range(3))),
            (f"[vqa] how many {chance.choice(_THINGS)}s are there?", str(chance.randrange(12))),
            ("[grounding] describe this image in detail", phrases()),
            (f"{salad(8)}?", salad(40)),
            (f"Is there a {thing()} {chance.choice(_PLACES)}?", f"{sentence()} {salad(12)}"),
        ):
            yield Exercise(picture, question, answer)
            picture = (picture + 1) % N_PICTURES


def _draw_picture(index: int) -> Image.Image:
    """Draws shapes, stripes or noise over a shaded ground, in colours of chance."""
    chance = np.random.default_rng(_SEED + index)
    corners = chance.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    size = (_SIDE_PX, _SIDE_PX)
    picture = Image.fromarray(corners).resize(size, Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(picture)
    for _ in range((0, 3, 8, 20)[index % 4]):
        x, y = (int(n) for n in chance.integers(-40, _SIDE_PX - 20, 2))
        width, height = (int(n) for n in chance.integers(20, 260, 2))
        shape = (draw.ellipse, draw.rectangle)[int(chance.integers(2))]
        shape((x, y, x + width, y + height), fill=tuple(int(n) for n in chance.integers(0, 256, 3)))
    pixels = np.asarray(picture).astype(np.float32)
    waves = np.sin(np.arange(_SIDE_PX) * chance.uniform(0.02, 0.6)) * (index % 3) * 40
    pixels += waves[:, None, None] if index % 2 else waves[:, None]
    n_cells = (8, 32, 112, 224)[index // 2 % 4]
    coarse = chance.integers(0, 256, (n_cells, n_cells, 3), dtype=np.uint8)
    noise = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    pixels += (np.asarray(noise) - 128.0) * chance.uniform(0.1, 0.8)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
