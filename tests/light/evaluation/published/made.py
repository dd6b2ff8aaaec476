"""Records and files of benchmarks as tests make them."""

import base64
import json
from io import BytesIO
from pathlib import Path

from PIL import Image

from tinyv_cli.evaluation.published.records import Given, Picture, Record, Region
from tinyv_cli.evaluation.published.rules.scores import score_all


def make_record(*references, index=0, **about):
    picture = Picture("a.png", lambda: Path("a.png"))
    return Record(index, f"record {index}", picture, "what?", references, **about)


def make_region(*box, size=(100, 100)):
    return make_record(region=Region(*box, *size))


def score(name, *pairs):
    """The scores of (record, answer or losses), by rule."""
    given = [
        (record, Given(losses=each) if isinstance(each, dict) else Given(each))
        for record, each in pairs
    ]
    return score_all(name, given)


def mark(name, record, text):
    """The mark of one answer by each rule that gives marks."""
    found = score(name, (record, text))
    return {rule: each.per_record[0] for rule, each in found.items() if each and each.per_record}


def make_png(colour="red", size=(8, 8), mode="RGB", **options):
    stream = BytesIO()
    Image.new(mode, size, colour).save(stream, "PNG", **options)
    return stream.getvalue()


def write_json(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), "utf-8")
    return path


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    return path


def write_tsv(path, heading, rows):
    cells = ["\t".join(map(str, row)) for row in [heading, *rows]]
    path.write_text("\n".join(cells) + "\n", "utf-8")
    return path


def to_cell(content):
    return base64.b64encode(content).decode()


def write_gqa(folder, n=3, pictures=("p0.png", "p1.png")):
    """GQA as published: questions about two pictures in turns."""
    questions = [
        {"image": f"p{i % 2}.png", "question": f"what is number {i}?", "answer": f"a{i}"}
        for i in range(n)
    ]
    write_json(folder / "testdev_balanced_questions.json", questions)
    (folder / "images").mkdir()
    for i, name in enumerate(pictures):
        (folder / "images" / name).write_bytes(make_png(("red", "blue")[i]))
    return folder
