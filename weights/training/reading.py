"""A scene becomes text alone: what it shows in words, a question, the answer; draws nothing.

The description stands where the picture stands in a prompt, so that a language model learns to
answer from what is there before it has ever seen image tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tinyv_cli.prompt import TEMPLATES, Turn, make_prompt
from tinyv_cli.tokenizer import END_OF_TEXT, STOP_MARK
from weights.training.conversations import make_conversation
from weights.training.placement import make_scene
from weights.training.scene import Scene
from weights.training.splits import make_generator
from weights.training.wording import add_article, to_box_text

_TEMPLATES = ("human", "human-system", "train-inst", "inst")


@dataclass(frozen=True)
class Reading:
    """One text to learn from.

    Attributes:
        given: prompt with the description in the picture's place.
        answer: what follows, without the stop mark.
    """

    given: str
    answer: str


def read_scene(seed: int, number: int) -> Reading:
    """The text of a training scene's number, always the same one."""
    generator = make_generator("train", seed, number)
    scene = make_scene(generator, "train")
    turns = [Turn(*turn) for turn in make_conversation(scene, generator)]
    learnt = int(generator.integers(len(turns)))
    template = TEMPLATES[_TEMPLATES[int(generator.integers(len(_TEMPLATES)))]]
    prompt = make_prompt(template, turns[:learnt], turns[learnt].question)
    given = describe(scene).join(prompt.pieces)
    start = "" if given.startswith(END_OF_TEXT) else END_OF_TEXT
    return Reading(start + given, turns[learnt].answer)


def describe(scene: Scene) -> str:
    """Everything that questions are about: the background, then objects from the back to the front.

    `green: a cat {<5><10><40><60>}, a red car {<30><20><80><70>}`.
    """
    objects = (
        f"{add_article(each.name)} {to_box_text(each.box_percent)}" for each in scene.objects
    )
    return f"{scene.background.colour}: {', '.join(objects)}"


def list_texts(seed: int, count: int) -> Iterator[str]:
    """Whole texts of the first scenes: what a vocabulary is learnt from."""
    for number in range(count):
        reading = read_scene(seed, number)
        yield f"{reading.given}{reading.answer}{STOP_MARK}"
