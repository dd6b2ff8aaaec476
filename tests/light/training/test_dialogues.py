"""Dialogues about a scene: single questions of different tasks, now and then several turns."""

from weights.training.language.dialogues import make_dialogues
from weights.training.world.placement import make_scene
from weights.training.world.splits import make_generator


def draw(number: int, count: int, only_short: bool = False):
    generator = make_generator("train", 3, number)
    scene = make_scene(generator, "train")
    return make_dialogues(scene, generator, count, only_short)


def test_the_same_scene_is_asked_the_same():
    for number in range(20):
        assert draw(number, 6) == draw(number, 6)


def test_so_many_are_drawn_and_no_question_twice():
    for number in range(60):
        for count in (1, 5):
            dialogues = draw(number, count)
            assert len(dialogues) == count
            single = [each.question for each in dialogues if not each.turns]
            assert len(set(single)) == len(single)


def test_about_half_of_the_scenes_have_a_conversation():
    long = [sum(bool(each.turns) for each in draw(number, 4)) for number in range(300)]
    assert set(long) == {0, 1}
    assert 0.4 < sum(long) / 300 < 0.6


def test_a_conversation_learns_any_turn_but_the_first():
    lengths = {len(each.turns) for number in range(200) for each in draw(number, 3)}
    assert lengths == {0, 1, 2, 3}


def test_yes_and_no_are_asked_more_often_than_boxes():
    dialogues = [each for number in range(100) for each in draw(number, 12) if not each.turns]
    n_yes_or_no = sum(each.answer in ("yes", "no") for each in dialogues)
    n_boxes = sum(each.question.startswith("[grounding]") for each in dialogues)
    assert n_yes_or_no > 1.5 * n_boxes


def test_short_answers_can_be_had_alone():
    for number in range(60):
        dialogues = draw(number, 12, only_short=True)
        assert len(dialogues) >= 4
        assert not any(each.turns for each in dialogues)
        assert all(len(each.answer.split()) <= 3 for each in dialogues)
        assert not any("{" in each.answer for each in dialogues)
    answers = [each.answer for number in range(20) for each in draw(number, 12)]
    assert any("{" in answer for answer in answers)
