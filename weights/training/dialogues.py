"""A scene becomes what is said about it: single questions of all tasks, and a conversation."""

import numpy as np

from tinyv_cli.prompts.prompt import Turn
from weights.training.conversations import make_conversation
from weights.training.questions import make_questions
from weights.training.rows import Dialogue
from weights.training.scene import Scene

_CONVERSATION_CHANCE = 0.5
# An answer of few bits teaches little and is learnt last: these are asked twice about a scene.
_OFTEN = ("what", "count", "exists", "relation", "identify")
_SHORT = (*_OFTEN, "colour")


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
