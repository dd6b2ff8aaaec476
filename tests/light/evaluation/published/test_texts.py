"""Each rule on answers that were thought out for its traps."""

import pytest

from tests.light.evaluation.published.made import make_record, make_region, mark
from tinyv_cli.evaluation.published.rules.texts import clean, cut
from tinyv_cli.evaluation.published.rules.vqa import compute_vqa_accuracy, normalise


@pytest.mark.parametrize(
    ("text", "cleaned", "answer"),
    [
        (" a cat </s> and more", "a cat", "a cat"),
        ("<s>[INST] what? [/INST] a cat###Human: b", "a cat###Human: b", "a cat"),
        ("###a", "###a", ""),
        ("x Assistant: y Assistant: z ### Assistant: w", None, "z"),
        ("", "", ""),
    ],
)
def test_an_answer_is_cleaned_and_cut_as_published(text, cleaned, answer):
    assert clean(text) == (text if cleaned is None else cleaned)
    assert cut(clean(text)) == answer


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("No###", (1, 0, 1, 1)),
        ("I do not know", (1, 0, 0, 0)),
        ("yes###Human: no", (1, 0, 0, 0)),
        ("N.o!", (0, 0, 1, 0)),
        ("no", (1, 1, 1, 1)),
        ("", (0, 0, 0, 0)),
    ],
)
def test_gqa(text, marks):
    rules = ("paper", "official", "lmms-eval", "vlmevalkit")
    assert mark("gqa", make_record("no"), text) == dict(zip(rules, marks, strict=True))


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("true or false", (1, 1, 0)),
        ("No, it is false", (1, 2, 1)),
        ("Nope", (0, 1, 0)),
        ("true###false", (1, 1, 0)),
        ('"False."', (1, 1, 1)),
    ],
)
def test_vsr(text, marks):
    rules = ("paper", "paper-yes-no", "official")
    assert mark("vsr", make_record("false"), text) == dict(zip(rules, marks, strict=True))


def test_vizwiz_as_published_splits_references_at_each_underline():
    record = make_record("red_blue", "green", *["x"] * 8)
    assert mark("vizwiz", record, "BLUE car")["paper"] == pytest.approx(1 / 3)
    assert mark("vizwiz", record, "")["paper"] == 1
    assert mark("vizwiz", record, "")["official"] == 0
    assert mark("vizwiz", record, "e###")["paper"] == 1  # in red, blue and green


@pytest.mark.parametrize(
    ("text", "label", "marks"),
    [
        ("Unknown", "no", (1, 0)),
        ("yes and no", "yes", (1, 1)),
        ("no, yes", "yes", (1, 0)),
        ("no, yes", "no", (0, 1)),
        ("hateful", "no", (0, 0)),
    ],
)
def test_hateful_memes(text, label, marks):
    found = mark("hateful-memes", make_record(label), text)
    assert found == dict(zip(("paper", "official"), marks, strict=True))


def test_equal_references_count_by_their_place():
    assert compute_vqa_accuracy("a b", ["a b"] * 10, spares_unanimous=True) == 1
    assert compute_vqa_accuracy("b", ["b"] * 2 + ["c"] * 8, spares_unanimous=True) == 0.6
    # two of them find one other, the rest find both: (2 · 1/3 + 8 · 2/3) / 10
    assert compute_vqa_accuracy("b", ["b"] * 3 + ["c"] * 7, spares_unanimous=True) == 0.9


def test_where_all_say_the_same_the_original_normalises_nothing():
    for answer, spared, always in (("Race.", 0, 1), ("RACE", 1, 1), ("the race", 0, 1)):
        assert compute_vqa_accuracy(answer, ["race"] * 10, spares_unanimous=True) == spared
        assert compute_vqa_accuracy(answer, ["race"] * 10, spares_unanimous=False) == always
    assert compute_vqa_accuracy("Race.", ["race"] * 9 + ["run"], spares_unanimous=True) == 1


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("The  Two\tDogs", "2 dogs"),
        ("dont wouldntve", "don't wouldntve"),
        ("wouldn'tve y'allll", "wouldn't've y'all'll"),
        ("t-shirt", "t shirt"),
        ("t- shirt", "t shirt"),
        ("a -b-c", "bc"),
        ("1,000-2", "10002"),
        ("2.5 end.", "2.5 end"),
        ("none", "0"),
        ("." * 40 + "a", "........a"),
        ("somebody'd", "somebodyd"),
    ],
)
def test_spelling(text, spelling):
    assert normalise(text) == spelling


def test_okvqa_is_cut_at_the_mark_alone():
    record = make_record(*["cat"] * 9, "dog")
    assert mark("okvqa", record, "Assistant: cat")["official"] == 0
    assert mark("okvqa", record, "Assistant: cat")["lmms-eval"] == 1
    assert mark("okvqa", record, "Cat###dog") == {"paper": 1, "official": 1, "lmms-eval": 1}


@pytest.mark.parametrize(
    ("box", "text", "marks"),
    [
        ((0, 0, 20, 10), "{<0><0><10><10>}", (1, 0, 1)),  # half of it, exactly
        ((10, 10, 40, 40), "{ <10> <10><50><50> } dog", (1, 1, 1)),
        ((10, 10, 40, 40), "a {<10><10><50><50>}", (0, 1, 1)),
        ((10, 10, 90, 40), "{<10><10><199><50>}", (0, 1, 1)),  # paper holds it to no edge
        ((10, 10, 40, 40), "{<10><10><50><50>", (0, 1, 1)),  # tinyv reads it all the same
        ((10, 10, 40, 40), "<10><10><50>", (0, 0, 0)),
        ((10, 10, 40, 40), "{<10><10><50><50>}{<0><0><1><1>}", (1, 1, 1)),
        ((0, 0, 2, 2), "{<0><0><1><1>}", (0, 0, 0)),
        ((0, 0, 2, 2), "{<0><0><1><2>}", (1, 0, 1)),  # a pixel more: 2 · 3 of 3 · 3
        ((10, 10, 40, 40), "{<50><50><10><10>}", (0, 1, 1)),  # corners swapped
        ((10, 10, 40, 40), "", (0, 0, 0)),
    ],
)
def test_refcoco(box, text, marks):
    rules = ("paper", "official", "at-least-half")
    assert mark("refcoco", make_region(*box), text) == dict(zip(rules, marks, strict=True))


def test_boxes_are_measured_in_the_pictures_own_pixels():
    record = make_region(64, 48, 256, 192, size=(640, 480))
    assert mark("refcoco+", record, "{<10><10><50><50>}")["official"] == 1
    assert mark("refcoco+", record, "{<10><10><29><50>}")["official"] == 0  # 19 of 40
