"""Rows of each benchmark's layouts become drafts of its records: which field means what."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from tinyv_cli.evaluation.published.loaders.rows import Row

_YES_NO = {"yes": "yes", "no": "no"}
_TRUE_FALSE = {"1": "true", "0": "false", "yes": "true", "no": "false"}
_HATEFUL = {"1": "yes", "0": "no"}
_N_IMG_ID = 27  # letters of an `img_id` that name the picture: COCO_train2014_000000000001
_ASKS_YES_NO = " Please answer yes or no."  # what the prompt has another sentence for

# VLMEvalKit puts the statement behind a question, or before one, and an instruction after both.
_ASKED = r"(?:\s+(?:please\s+)?answer\b.*)?"
_STATEMENTS = (
    re.compile(rf"(?:[^?:]*[?:]\s+)?(.+?){_ASKED}", re.I | re.S),
    re.compile(rf"(.+?[.!])\s+[^.!?]*\?{_ASKED}", re.I | re.S),
)


@dataclass(frozen=True)
class Draft:
    """A record but for its place among the others, and its picture's content.

    Attributes:
        question: as `records.Record` has it, like all that is not told here.
        references: likewise.
        files: the names that the picture may have in one of its folders.
        shared_name: of a picture that other rows hold too; empty where that is not told.
        group: likewise.
        choices: likewise.
        right_choice: likewise.
        box: x, y, width and height of the right place, in pixels.
        size: width and height of the picture; None where the picture itself has to tell.
    """

    question: str
    references: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    shared_name: str = ""
    group: str = ""
    choices: tuple[str, ...] = ()
    right_choice: int = 0
    box: Sequence[float] | None = None
    size: tuple[int, int] | None = None


ToDrafts = Callable[[Row], Sequence[Draft]]  # none where a record's fields contradict each other


def draft_gqa(row: Row) -> list[Draft]:
    """Reads a row of GQA: published with `image`, official with `imageId`."""
    files: tuple[str, ...] = ()
    if row.picture is None:
        has_name = "image" in row
        files = (row.text("image") if has_name else f"{row.text('imageId')}.jpg",)
    return [Draft(row.text("question"), (row.text("answer"),), files)]


def draft_vsr(row: Row) -> list[Draft]:
    """Reads a row of VSR: the statement and whether it holds."""
    reference = row.one_of("label", _TRUE_FALSE)
    return [Draft(row.text("caption"), (reference,), (row.text("image"),))]


def draft_vsr_tsv(row: Row) -> list[Draft]:
    """Reads a row of VLMEvalKit's VSR, whose question has the statement inside."""
    question = row.text("question")
    is_last = re.search(rf"\?{_ASKED}$", question, re.I | re.S)
    found = _STATEMENTS[is_last is not None].fullmatch(question)
    statement = found[1] if found else question
    return [Draft(statement, (row.one_of("answer", _TRUE_FALSE),))]


def draft_iconqa(row: Row) -> list[Draft]:
    """Reads a problem with choices that are texts, and the index of the right one."""
    choices, right = row.texts("choices"), row.whole("answer")
    if not 0 <= right < len(choices):
        row.refuse(f"its 'answer' is {right}, and it has {len(choices)} choices")
    files = [row.text("image_path")] if "image_path" in row else []
    if "image_id" in row:
        files.append(f"{row.values['image_id']}/image.png")
    return [_draft_choices(row, choices, right, tuple(files))]


def draft_iconqa_hub(row: Row) -> list[Draft]:
    """Reads a row of the hub's IconQA: its choices are one text, its answer is one of them.

    Commas join the choices, and some have one inside: one with a blank behind it parts nothing,
    and neighbours that together are the answer are one choice.
    """
    choices, answer = re.split(r",(?! )", row.text("choices")), row.text("answer")
    for start in range(len(choices)):
        for end in range(start + 2, len(choices) + 1):
            if answer not in choices and ",".join(choices[start:end]) == answer:
                choices[start:end] = [answer]
    if answer in choices:
        return [_draft_choices(row, tuple(choices), choices.index(answer))]
    if answer.isdecimal() and int(answer) < len(choices):  # the index, as elsewhere
        return [_draft_choices(row, tuple(choices), int(answer))]
    return []


def _draft_choices(
    row: Row, choices: tuple[str, ...], right: int, files: tuple[str, ...] = ()
) -> Draft:
    """Drafts a record whose choices are ranked."""
    question = row.text("question")
    return Draft(question, (choices[right],), files, choices=choices, right_choice=right)


def draft_vizwiz(row: Row) -> list[Draft]:
    """Reads a row of VizWiz with what ten people said."""
    files = () if row.picture else (row.text("image"),)
    return [Draft(row.text("question"), row.texts("answers"), files)]


def draft_hateful_memes(row: Row) -> list[Draft]:
    """Reads a row of Hateful Memes: the text in the picture and whether it is hateful."""
    reference = row.one_of("label", _HATEFUL)
    files = () if row.picture else (row.text("img"),)
    return [Draft(row.text("text"), (reference,), files)]


def draft_okvqa(row: Row) -> list[Draft]:
    """Reads a question of OK-VQA that its answers were joined to."""
    files: tuple[str, ...] = ()
    if row.picture is None:
        number = row.whole("image_id")
        files = (f"COCO_val2014_{number:012}.jpg", f"{number:012}.jpg")
    return [Draft(row.text("question"), row.texts("answers"), files)]


def draft_refcoco(row: Row) -> list[Draft]:
    """Reads a sentence about one object."""
    return [
        Draft(
            row.text("sents"),
            files=(f"{row.text('img_id')[:_N_IMG_ID]}.jpg",),
            group=row.path.stem.rpartition("_")[2],
            box=row.numbers("bbox", 4),
            size=(row.whole("width"), row.whole("height")),
        )
    ]


def draft_refcoco_hub(row: Row) -> list[Draft]:
    """Reads an object with its sentences; the size is the picture's own."""
    assert row.picture is not None
    source = row.picture.read()
    try:
        with Image.open(source if isinstance(source, Path) else BytesIO(source)) as picture:
            size = picture.size
    except (OSError, UnidentifiedImageError):
        row.refuse("its picture is none that Pillow can read")
    group, box = row.path.stem.partition("-")[0], row.numbers("bbox", 4)
    return [Draft(each, group=group, box=box, size=size) for each in row.texts("answer")]


def draft_pope(row: Row) -> list[Draft]:
    """Reads a question of POPE, in one of three categories."""
    if row.picture is None:
        reference, group = row.one_of("label", _YES_NO), row.path.stem.rpartition("_")[2]
        return [Draft(row.text("text"), (reference,), (row.text("image"),), group=group)]
    group = row.text("category") if "category" in row else row.path.stem.partition("-")[0]
    name = row.text("image_source") if "image_source" in row else ""
    question, reference = row.text("question"), row.one_of("answer", _YES_NO)
    return [Draft(question, (reference,), shared_name=name, group=group)]


def draft_mme(row: Row) -> list[Draft]:
    """Reads a question of MME; its group is category and picture, as `existence/0001.jpg`."""
    category = row.text("category")
    name = next((row.text(each) for each in ("question_id", "image_path") if each in row), "")
    stem = Path(name).stem
    if not stem:
        row.refuse("neither 'question_id' nor 'image_path' tells which questions are a pair")
    question = row.text("question").replace(_ASKS_YES_NO, "").strip()
    reference = row.one_of("answer", _YES_NO)
    files = () if row.picture else (f"{stem}.jpg", f"{stem}.png")
    pair = f"{category}/{stem}"
    return [Draft(question, (reference,), files, shared_name=pair, group=pair)]
