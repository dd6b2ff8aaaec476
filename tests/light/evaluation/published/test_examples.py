"""Made-up records in every layout, with the scores that two others computed for them."""

import json
import math
from pathlib import Path

import pytest

from tinyv_cli.evaluation.published.loaders.loading import load_benchmark
from tinyv_cli.evaluation.published.records import Given
from tinyv_cli.evaluation.published.rules.scores import score_all
from tinyv_cli.pictures.image import PLAINLY, read_picture

EXAMPLES = Path(__file__).resolve().parents[5] / "shared" / "benchmarks" / "examples"
LAYOUTS = ("official", "published", "hub", "tsv")
FOUND = sorted(
    (path.parent.name, path.name) for path in EXAMPLES.glob("*/*") if path.name in LAYOUTS
)

pytestmark = pytest.mark.skipif(
    not EXAMPLES.is_dir(), reason="there are no examples (../shared/benchmarks/examples)"
)


def load(name, layout):
    if layout == "hub":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    return load_benchmark(name.replace("_", "-"), EXAMPLES / name / layout).records


def compare_as(record):
    """What every layout has to tell alike: order and names of pictures are its own."""
    group = record.group if "/" in record.group else ""  # MME's pairs
    picture = read_picture(record.picture.read(), PLAINLY)  # the tables' are written anew
    about = (record.references, group, record.choices, record.right_choice, record.region)
    return (record.question, *about, picture.size)


@pytest.mark.parametrize(("name", "layout"), FOUND)
def test_records_are_the_same_from_each_layout(name, layout):
    records = {*map(compare_as, load(name, layout))}
    first = next(other for other in LAYOUTS if (name, other) in FOUND)
    assert records == {*map(compare_as, load(name, first))}
    expected = json.loads((EXAMPLES / name / "expected.json").read_text("utf-8"))
    assert len(records) == len(expected["answers"])


@pytest.mark.parametrize(("name", "layout"), FOUND)
def test_scores_are_the_expected_ones_to_the_last_digit(name, layout):
    records = load(name, layout)
    if (name, layout) == ("refcoco", "hub"):  # a row an object: put in the answers' order
        records = [records[i] for i in (0, 2, 1, 3, 4)]
    expected = json.loads((EXAMPLES / name / "expected.json").read_text("utf-8"))
    rules, answers = expected["rules"], expected["answers"]
    chances = rules.get("official-auroc", {}).get("p_yes", [None] * len(answers))
    given = [
        Given(losses=answer)
        if isinstance(answer, dict)
        else Given(answer, p and {"yes": -math.log(p), "no": -math.log(1 - p)})
        for answer, p in zip(answers, chances, strict=True)
    ]
    scores = score_all(name.replace("_", "-"), list(zip(records, given, strict=False)))
    for rule, figures in rules.items():
        found = scores[rule]
        known = {"score": found.value, "per_record": list(found.per_record), **found.details}
        for key in figures.keys() - {"p_yes"}:
            said = known[key]
            wanted = figures[key]
            if key == "predicted":
                wanted = [each.lower() for each in wanted]
            assert said == wanted, (rule, key)
