"""A scene and a random generator become the parts of a question: tag, phrasing, reference.

How things are asked and referred to; `questions.py` decides which.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from weights.training.language.phrasings import PHRASINGS, POSITIONS_OF_MORE, POSITIONS_OF_TWO
from weights.training.world.relations import RELATIONS, find_extreme
from weights.training.world.scene import Scene, SceneObject

Task = Literal[
    "what",
    "colour",
    "count",
    "exists",
    "relation",
    "caption",
    "refer",
    "identify",
    "detection",
    "grounding",
]
_CAPITAL_CHANCE = 0.2  # "What is this?"
_BARE_CHANCE = 0.15  # "what is this"
_TAG_CHANCE = 0.5  # of `[vqa]`, where a question can do without
_POSITION_CHANCE = 0.25  # of "the left cat" where "the red cat" would do

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class SceneQuestion:
    """A question about a picture and its one right answer.

    Attributes:
        task: the kind of question.
        question: with its task tag.
        answer: as the model should say it.
        is_held_out: its phrasing was kept for testing.
    """

    task: Task
    question: str
    answer: str
    is_held_out: bool


class Asker:
    """Asks about one scene.

    Attributes:
        scene: asked about.
        objects: the scene's.
        generator: every choice comes from it.
    """

    def __init__(self, scene: Scene, generator: np.random.Generator) -> None:
        self.scene = scene
        self.objects = list(scene.objects)
        self.generator = generator

    def choose(self, things: Sequence[Thing]) -> Thing:
        """Chooses one of several, each as likely."""
        return things[int(self.generator.integers(len(things)))]

    def shuffle(self, things: Sequence[Thing]) -> list[Thing]:
        """Returns all of them in random order."""
        return [things[i] for i in self.generator.permutation(len(things))]

    def flip(self, chance: float = 0.5) -> bool:
        """Returns True with a chance of 0-1."""
        return bool(self.generator.random() < chance)

    def ask(
        self, task: Task, group: str, answer: str, tag: str, values: Mapping[str, str]
    ) -> SceneQuestion:
        """Phrases a question, now and then with a capital or without its punctuation mark.

        Args:
            task: the kind of question.
            group: of `PHRASINGS`.
            answer: to it.
            tag: `vqa`, `caption`, …, or empty.
            values: for the names in braces.
        """
        phrasings = PHRASINGS[group]
        held_out = phrasings.held_out if self.scene.split == "test" else ()
        phrasing = self.choose(phrasings.usual + held_out)
        text = phrasing.format_map(values)
        if self.flip(_CAPITAL_CHANCE):
            text = text[0].upper() + text[1:]
        if self.flip(_BARE_CHANCE):
            text = text.rstrip("?.")
        question = f"[{tag}] {text}" if tag else text
        return SceneQuestion(task, question, answer, phrasing in phrasings.held_out)

    def ask_short(
        self, task: Task, group: str, name: str, article: str, **values: str
    ) -> SceneQuestion:
        """Phrases a question with or without `[vqa]`.

        Args:
            task: the kind of question.
            group: of `PHRASINGS`.
            name: the answer with the tag.
            article: the answer without it.
            values: for the names in braces.
        """
        is_tagged = self.flip(_TAG_CHANCE)
        answer, tag = (name, "vqa") if is_tagged else (article, "")
        return self.ask(task, group, answer, tag, values)

    def refer_to(self, target: SceneObject, with_position: bool = False) -> str | None:
        """Finds words that fit one object of the scene alone, without an article.

        Args:
            target: the object.
            with_position: "left cat" is fine where the name alone would fit several.

        Returns:
            None where no words do.
        """
        names = [each.name for each in self.objects]
        kinds = [each.kind for each in self.objects]
        plain = [target.kind] if kinds.count(target.kind) == 1 else []
        if target.colour is not None and names.count(target.name) == 1:
            plain.append(target.name)
        if with_position and (not plain or self.flip(_POSITION_CHANCE)):
            same = [each for each in self.objects if each.kind == target.kind]
            table = POSITIONS_OF_TWO if len(same) == 2 else POSITIONS_OF_MORE
            placed = [
                words.format(name=target.kind)
                for relation in RELATIONS
                if find_extreme(same, relation) is target
                for words in table[relation]
            ]
            plain = placed or plain
        return self.choose(plain) if plain else None
