"""A scene becomes what is said about it: single questions of all tasks, and a conversation.

In a conversation later questions may say "it" and "them".
"""

from dataclasses import dataclass

import numpy as np

from tinyv_cli.prompts.prompt import Turn
from weights.training.language.asking import Asker, SceneQuestion
from weights.training.language.questions import ask_what, ask_whether, make_questions
from weights.training.language.wording import NUMBER_WORDS, to_box_text
from weights.training.world.scene import Scene, SceneObject

MIN_TURNS, MAX_TURNS = 2, 4
_FOLLOW_UP_CHANCE = 0.6  # that a conversation begins with questions about one object
_CONVERSATION_CHANCE = 0.5
# An answer of few bits teaches little and is learnt last: these are asked twice about a scene.
_OFTEN = ("what", "count", "exists", "relation", "identify")
_SHORT = (*_OFTEN, "colour")


@dataclass(frozen=True)
class Dialogue:
    """Turns about a picture; the last answer is learnt.

    Attributes:
        turns: earlier ones, oldest first.
        question: asked last.
        answer: to be learnt.
    """

    turns: tuple[Turn, ...]
    question: str
    answer: str


def make_dialogues(
    scene: Scene, generator: np.random.Generator, count: int, only_short: bool = False
) -> list[Dialogue]:
    """Draws dialogues about a scene.

    Args:
        scene: to be asked about.
        generator: the same state gives the same dialogues.
        count: of dialogues at most; a scene answers 4 or more.
        only_short: asks for no caption, no box and no conversation.
    """
    asked = make_questions(scene, generator)
    said = {each.question for each in asked}
    again = [each for each in make_questions(scene, generator) if each.task in _OFTEN]
    asked += [each for each in again if each.question not in said]
    if only_short:
        asked = [each for each in asked if each.task in _SHORT]
    dialogues = [
        Dialogue((), asked[i].question, asked[i].answer)
        for i in generator.permutation(len(asked))[:count]
    ]
    if not only_short and generator.random() < _CONVERSATION_CHANCE:
        turns = [Turn(*turn) for turn in make_conversation(scene, generator)]
        learnt = int(generator.integers(1, len(turns)))
        asked_last = turns[learnt]
        dialogues[-1] = Dialogue(tuple(turns[:learnt]), asked_last.question, asked_last.answer)
    return dialogues


def make_conversation(scene: Scene, generator: np.random.Generator) -> list[tuple[str, str]]:
    """Asks a scene two to four questions in turn, no task or question twice.

    Args:
        scene: to be asked about.
        generator: the same state gives the same conversation.

    Returns:
        (question, answer), the first turn first.
    """
    asker = Asker(scene, generator)
    objects = asker.objects
    n_turns = int(generator.integers(MIN_TURNS, MAX_TURNS + 1))
    turns: list[SceneQuestion] = []
    if asker.flip(_FOLLOW_UP_CHANCE):
        if len(objects) == 1:
            first = ask_what(asker)
            assert first is not None, "a single object can be asked for"
            turns = [first, *_follow_up(asker, objects[0])]
        else:
            one = asker.choose(objects)
            n_same = sum(each.kind == one.kind for each in objects)
            turns = [ask_whether(asker, one.kind, "yes")]
            if n_same > 1:
                number = NUMBER_WORDS[n_same]
                turns.append(asker.ask_short("count", "them: count", number, number))
            else:
                turns += _follow_up(asker, one)
    tasks = {turn.task for turn in turns}
    for question in asker.shuffle(make_questions(scene, generator)):
        if question.task not in tasks:
            turns.append(question)
    return [(turn.question, turn.answer) for turn in turns[:n_turns]]


def _follow_up(asker: Asker, one: SceneObject) -> list[SceneQuestion]:
    """Asks about an object that was just spoken of, one question a task, in random order."""
    box = to_box_text(one.box_percent)
    asked = [asker.ask("refer", "it: where", box, "refer", {})]
    if one.colour is not None:
        asked.append(asker.ask_short("colour", "it: colour", one.colour, one.colour))
    elif len(asker.objects) == 1:
        colour = asker.scene.background.colour
        asked.append(asker.ask_short("colour", "it: background", colour, colour))
    return asker.shuffle(asked)
