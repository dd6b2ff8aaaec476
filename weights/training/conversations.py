"""A scene becomes a conversation: later questions may say "it" and "them".

Knows the single questions of `questions.py` and how they follow on each other.
"""

import numpy as np

from weights.training.asking import Asker, Question
from weights.training.questions import ask_what, ask_whether, make_questions
from weights.training.scene import Scene, SceneObject
from weights.training.wording import NUMBER_WORDS, to_box_text

MIN_TURNS, MAX_TURNS = 2, 4
_FOLLOW_UP_CHANCE = 0.6  # that a conversation begins with questions that hang together


def make_conversation(scene: Scene, generator: np.random.Generator) -> list[tuple[str, str]]:
    """Asks a scene two to four questions in turn, no task or question twice.

    Args:
        scene: to be asked about.
        generator: the same state gives the same conversation.

    Returns:
        (question, answer), the first turn first.
    """
    asker = Asker(scene, generator)
    n_turns = int(generator.integers(MIN_TURNS, MAX_TURNS + 1))
    turns = _open_conversation(asker) if asker.flip(_FOLLOW_UP_CHANCE) else []
    tasks = {turn.task for turn in turns}
    for question in asker.shuffle(make_questions(scene, generator)):
        if question.task not in tasks:
            turns.append(question)
    return [(turn.question, turn.answer) for turn in turns[:n_turns]]


def _open_conversation(asker: Asker) -> list[Question]:
    """A first question and what can be asked on about its object."""
    if len(asker.objects) == 1:
        first = ask_what(asker)
        assert first is not None
        return [first, *asker.shuffle(_follow_up(asker, asker.objects[0]))]
    one = asker.choose(asker.objects)
    same = [each for each in asker.objects if each.kind == one.kind]
    first = ask_whether(asker, one.kind, "yes")
    if len(same) > 1:
        answer = NUMBER_WORDS[len(same)]
        return [first, asker.ask_short("count", "them: count", answer, answer)]
    return [first, *asker.shuffle(_follow_up(asker, one))]


def _follow_up(asker: Asker, one: SceneObject) -> list[Question]:
    """Questions about an object that was just spoken of, one of a task."""
    box = to_box_text(one.box_percent)
    asked = [asker.ask("refer", "it: where", box, "refer", {})]
    if one.colour is not None:
        asked.append(asker.ask_short("colour", "it: colour", one.colour, one.colour))
    elif len(asker.objects) == 1:
        colour = asker.scene.background.colour
        asked.append(asker.ask_short("colour", "it: background", colour, colour))
    return asked
