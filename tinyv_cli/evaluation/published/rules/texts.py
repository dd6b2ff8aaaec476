"""One answer and one record become a mark, mostly 0 to 1, by each rule that looks at one alone.

The rules called `paper` are those of the published scripts, mistakes included.
"""

import re
import string
from collections.abc import Callable
from fractions import Fraction

from tinyv_cli.evaluation.published.records import Record, Region
from tinyv_cli.evaluation.published.rules.vqa import (
    compute_vqa_accuracy,
    normalise,
    normalise_for_lmms_eval,
    share_of_three,
)
from tinyv_cli.prompts.boxes import FULL_SCALE, read_boxes

MarkText = Callable[[Record, str], float]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TRUTH = {"true": "true", "yes": "true", "false": "false", "no": "false"}
_BOX_FIRST = re.compile(r"\{<\d{1,3}><\d{1,3}><\d{1,3}><\d{1,3}>\}")
_N_PREFIX = 4  # letters that MME looks at


def clean(text: str) -> str:
    """Takes the marks of other models' dialogues off, as the published scripts do."""
    return text.partition("</s>")[0].replace("<s>", "").rpartition("[/INST]")[2].strip()


def cut(text: str) -> str:
    """Cuts a clean text where its answer ends: before `###`, behind the last `Assistant:`."""
    return text.partition("###")[0].rpartition("Assistant:")[2].strip()


def find_first_word(text: str) -> str:
    """Finds the first word of an answer that is cut, in lower case; empty where there is none."""
    word = re.search(r"\w+", cut(text).lower())
    return word[0] if word else ""


def mark_gqa_as_paper(record: Record, text: str) -> float:
    """Whether the reference stands anywhere in the uncut text."""
    return float(record.references[0] in text.lower())


def mark_same(record: Record, text: str) -> float:
    """Whether the answer is the reference to the letter."""
    return float(cut(text) == record.references[0])


def mark_same_but_case(record: Record, text: str) -> float:
    """Whether the answer is the reference but for case."""
    return float(cut(text).lower() == record.references[0].strip().lower())


def mark_same_but_punctuation(record: Record, text: str) -> float:
    """Whether the answer is the reference but for case and punctuation."""
    answer, reference = (
        each.lower().translate(_NO_PUNCTUATION) for each in (cut(text), record.references[0])
    )
    return float(answer == reference)


def mark_vsr_as_paper(record: Record, text: str) -> float:
    """Whether the right one of `true` and `false` stands anywhere in the uncut text."""
    return float(record.references[0] in text.lower())


def mark_vsr_with_yes_no(record: Record, text: str) -> float:
    """The second published script: a point more where `yes` or `no` stands there; 0 to 2."""
    word = "yes" if record.references[0] == "true" else "no"
    return mark_vsr_as_paper(record, text) + (word in text.lower())


def mark_vsr(record: Record, text: str) -> float:
    """Whether the first word says what the label says."""
    return float(_TRUTH.get(find_first_word(text)) == record.references[0])


def mark_vizwiz_as_paper(record: Record, text: str) -> float:
    """A third for each reference that contains the answer or is contained in it, one at most.

    References are joined with `_` and split there again.
    """
    answer = cut(text).lower()
    references = "_".join(record.references).lower().split("_")
    n_matches = sum(each in answer or answer in each for each in references)
    return min(n_matches, 3) / 3


def mark_vizwiz(record: Record, text: str) -> float:
    """VQA accuracy."""
    return compute_vqa_accuracy(cut(text), record.references, spares_unanimous=False)


def mark_memes_as_paper(record: Record, text: str) -> float:
    """Whether `yes`, or without it `no`, anywhere in the answer, is what the label says."""
    answer = cut(text).lower()
    said = next((word for word in ("yes", "no") if word in answer), None)
    return float(said == record.references[0])


def mark_first_word(record: Record, text: str) -> float:
    """Whether the first word is the reference."""
    return float(find_first_word(text) == record.references[0])


def mark_okvqa(record: Record, text: str) -> float:
    """VQA accuracy of the original script; the text is lowered before it is cut."""
    answer = text.lower().partition("###")[0]
    return compute_vqa_accuracy(answer, record.references, spares_unanimous=True)


def mark_okvqa_as_lmms_eval(record: Record, text: str) -> float:
    """VQA accuracy as lmms-eval computes it."""
    answer, *references = map(normalise_for_lmms_eval, (cut(text), *record.references))
    return share_of_three([each == answer for each in references])


def mark_refcoco_as_paper(record: Record, text: str) -> float:
    """Whether the box that the text begins with overlaps enough, all sides a pixel longer.

    Numbers are not held to the picture. Source: `computeIoU` of the published script.
    """
    written = text.replace(" ", "")
    if not _BOX_FIRST.match(written):
        return 0.0
    region = _region_of(record)
    numbers = [int(each) for each in re.findall(r"\d+", written)[:4]]
    sides = (region.picture_width, region.picture_height) * 2
    x1, y1, x2, y2 = (n / FULL_SCALE * side for n, side in zip(numbers, sides, strict=True))
    right, low = region.x + region.width, region.y + region.height
    width = max(0.0, min(x2, right) - max(x1, region.x) + 1)
    height = max(0.0, min(y2, low) - max(y1, region.y) + 1)
    union = (x2 - x1 + 1) * (y2 - y1 + 1)
    union += (right - region.x + 1) * (low - region.y + 1) - width * height
    return float(union != 0 and width * height / union > 0.5)


def mark_refcoco(record: Record, text: str) -> float:
    """Whether the first box overlaps by more than half."""
    return float(_compute_overlap(record, text) > Fraction(1, 2))


def mark_refcoco_at_half(record: Record, text: str) -> float:
    """Whether the first box overlaps by half or more, as lmms-eval counts."""
    return float(_compute_overlap(record, text) >= Fraction(1, 2))


def _compute_overlap(record: Record, text: str) -> Fraction:
    """Computes the intersection over union of the first box, exactly: some are 0.5 itself."""
    boxes = read_boxes(cut(text))
    if not boxes:
        return Fraction(0)
    region, box = _region_of(record), boxes[0]
    across, down = region.picture_width, region.picture_height
    x1, x2 = (Fraction(round(each * FULL_SCALE), FULL_SCALE) * across for each in (box.x1, box.x2))
    y1, y2 = (Fraction(round(each * FULL_SCALE), FULL_SCALE) * down for each in (box.y1, box.y2))
    x, y, w, h = map(Fraction, (region.x, region.y, region.width, region.height))
    width = max(Fraction(0), min(x2, x + w) - max(x1, x))
    height = max(Fraction(0), min(y2, y + h) - max(y1, y))
    union = (x2 - x1) * (y2 - y1) + w * h - width * height
    return width * height / union if union > 0 else Fraction(0)


def _region_of(record: Record) -> Region:
    """Returns the right place; records without one are of other benchmarks."""
    assert record.region is not None
    return record.region


def mark_pope(record: Record, text: str) -> float:
    """Whether POPE's own script reads the label from the answer."""
    return float(read_pope(text) == record.references[0])


def read_pope(text: str) -> str:
    """Reads `no` where the first sentence has No, no or not as a word of its own; else `yes`."""
    words = cut(text).partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & {*words} else "yes"


def read_bare_word(text: str) -> str:
    """Reads the whole answer, as lmms-eval compares it with yes and no."""
    return cut(text).lower()


def read_one_of_both(text: str) -> str:
    """Reads the one of yes and no that stands there as a word, as VLMEvalKit; else `unknown`."""
    words = {*normalise(cut(text)).split()}
    found = {"yes", "no"} & words
    return found.pop() if len(found) == 1 else "unknown"


def read_mme(text: str) -> str:
    """Reads yes or no in the answer's first four letters, as MME's own script; else `other`."""
    start = cut(text).lower()[:_N_PREFIX]
    return next((word for word in ("yes", "no") if word in start), "other")
