"""Which files a benchmark may have, as data: names, how they are read, where pictures lie."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from tinyv_cli.disk.paths import is_file
from tinyv_cli.errors import InputError
from tinyv_cli.evaluation.published.benchmarks import MME_CATEGORIES
from tinyv_cli.evaluation.published.loaders import fields
from tinyv_cli.evaluation.published.loaders.json_rows import (
    read_json,
    read_json_line_rows,
    read_json_rows,
    read_text,
)
from tinyv_cli.evaluation.published.loaders.parquet_rows import read_parquet_rows
from tinyv_cli.evaluation.published.loaders.rows import Row
from tinyv_cli.evaluation.published.loaders.tsv_rows import read_tsv_rows
from tinyv_cli.evaluation.published.records import Picture

_DEPTHS = ("", "*/", "*/*/")  # below the folder that is named


@dataclass(frozen=True)
class Layout:
    """One way in which a benchmark's files lie.

    Attributes:
        files: patterns of names; the first with a file counts.
        read: makes rows of the files found.
        to_drafts: makes drafts of a row's records.
        folders: that pictures may lie in, below the files, the folder above or the one named.
        takes_all: whether the files of all patterns count, in this order.
        note: what the user is to know of it.
    """

    files: tuple[str, ...]
    read: Callable[[Sequence[Path]], Iterable[Row]]
    to_drafts: fields.ToDrafts
    folders: tuple[str, ...] = ()
    takes_all: bool = False
    note: str = ""

    def find(self, root: Path) -> list[Path]:
        """Finds its files in a folder, or takes the one file that is named."""
        if is_file(root):
            suffixes = {Path(pattern).suffix for pattern in self.files}
            return [root] if root.suffix in suffixes else []
        found = [find_files(root, pattern) for pattern in self.files]
        return [*chain(*found)] if self.takes_all else next(filter(None, found), [])


def find_files(root: Path, pattern: str) -> list[Path]:
    """Finds the files of a pattern in a folder or near below it, in the order of their names."""
    near = (sorted(root.glob(depth + pattern)) for depth in _DEPTHS)
    return next(([*filter(is_file, each)] for each in near if each), [])


def _read_each(read: Callable[[Path], Iterable[Row]], paths: Sequence[Path]) -> Iterator[Row]:
    """Reads files one after the other."""
    return chain.from_iterable(map(read, paths))


_JSON = partial(_read_each, read_json_rows)
_JSON_LINES = partial(_read_each, read_json_line_rows)
_TSV = partial(_read_each, read_tsv_rows)


def _read_gqa_hub(paths: Sequence[Path]) -> Iterator[Row]:
    """Joins the hub's two configs of GQA: questions, and the pictures they are about."""
    parts = [
        each
        for path in paths[:1]
        for each in find_files(path.parent.parent, "testdev_balanced_images/*.parquet")
    ]
    pictures = {row.text("id"): row.picture for row in read_parquet_rows(parts)}
    for row in read_parquet_rows(paths):
        name = row.text("imageId")
        yield replace(row, picture=pictures.get(name) or make_missing(row, name))


def _read_iconqa(paths: Sequence[Path]) -> Iterator[Row]:
    """Reads the problems of `choose_txt_val`, or of the test split where that is all there is."""
    [path] = paths[:1]
    problems = {row.where: row for row in read_json_rows(path.with_name("problems.json"))}
    splits = read_json(path)
    split = "val" if "choose_txt_val" in splits else "test"
    ids = splits.get(f"choose_txt_{split}")
    if not isinstance(ids, list):
        raise InputError(
            f"{path} holds neither choose_txt_val nor choose_txt_test",
            "name the folder `iconqa_data` as it was published",
        )
    for each in ids:
        row = problems.get(f"'{each}'")
        if row is None:
            raise InputError(
                f"problem '{each}' of {path} is not in problems.json",
                "fetch both files again, of the same release",
            )
        image_path = f"iconqa/{split}/choose_txt/{each}/image.png"
        yield replace(row, values={**row.values, "image_path": image_path})


def _read_iconqa_hub(paths: Sequence[Path]) -> Iterator[Row]:
    """Reads the rows whose choices are texts."""
    for row in read_parquet_rows(paths, "query_image"):
        if row.text("ques_type") == "choose_txt":
            yield row


def _read_okvqa(paths: Sequence[Path]) -> Iterator[Row]:
    """Joins questions and annotations by `question_id`."""
    [path] = paths[:1]
    near = (path.parent, path.parent.parent)
    found = (find_files(each, "mscoco_val2014_annotations*.json") for each in near)
    [annotations, *_] = next(filter(None, found), [None])
    if annotations is None:
        raise InputError(
            f"{path} has questions, and no mscoco_val2014_annotations.json is near it",
            "put the file with the answers beside it",
        )
    answers = {
        row.whole("question_id"): row.values.get("answers")
        for row in read_json_rows(annotations, "annotations")
    }
    for row in read_json_rows(path, "questions"):
        number = row.whole("question_id")
        if not answers.get(number):
            row.refuse(f"question {number} has no answers in {annotations}")
        yield replace(row, values={**row.values, "answers": answers[number]})


def _read_mme(paths: Sequence[Path]) -> Iterator[Row]:
    """Reads the two questions of each picture: a line each, the answer behind a tab."""
    for path in paths:
        is_apart = path.parent.name == "questions_answers_YN"
        category = (path.parent.parent if is_apart else path.parent).name
        about = {"category": category, "image_path": path.name}
        for n_line, line in enumerate(read_text(path).splitlines(), 1):
            if line.strip():
                question, _, answer = line.rpartition("\t")
                values = {"question": question or None, "answer": answer, **about}
                yield Row(path, f"line {n_line}", values)


def make_missing(row: Row, name: str) -> Picture:
    """Makes a picture that is not there."""
    problem = f"there is no picture {name}, which {row.place} asks about"

    def refuse() -> bytes:
        raise InputError(problem, "fetch the pictures of the same split, or of all of them")

    return Picture(name, refuse, problem)


_COCO_FOLDERS = ("val2014", "images", "")
_MME_FILES = tuple(
    f"{category}/{folder}*.txt"
    for category in chain(*MME_CATEGORIES.values())
    for folder in ("", "questions_answers_YN/")
)


def _make_refcoco(name: str, splits: Sequence[str]) -> tuple[Layout, ...]:
    """Makes the layouts of RefCOCO and its kin."""
    published = tuple(f"{name}_{split}.json" for split in splits)
    parts = tuple(f"{split}-*.parquet" for split in splits)
    folders = ("images", "train2014", "")
    note = "the hub's val is not the published one: compare testA and testB alone"
    return (
        Layout(published, _JSON, fields.draft_refcoco, folders, takes_all=True),
        Layout(parts, read_parquet_rows, fields.draft_refcoco_hub, takes_all=True, note=note),
    )


LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "gqa": (
        Layout(("testdev_balanced_questions.json",), _JSON, fields.draft_gqa, ("images", "")),
        Layout(("testdev_balanced_instructions/*.parquet",), _read_gqa_hub, fields.draft_gqa),
        Layout(("GQA_TestDev_Balanced.tsv",), _TSV, fields.draft_gqa),
    ),
    "vsr": (
        Layout(
            ("zeroshot/test.jsonl", "test.jsonl"),
            _JSON_LINES,
            fields.draft_vsr,
            ("train2017", "val2017", "images", ""),
        ),
        Layout(("VSR-zeroshot.tsv",), _TSV, fields.draft_vsr_tsv),
    ),
    "iconqa": (
        Layout(("pid_splits.json",), _read_iconqa, fields.draft_iconqa, ("",)),
        Layout(("choose_text_val.json",), _JSON, fields.draft_iconqa, ("images", "")),
        Layout(("val-*.parquet", "test-*.parquet"), _read_iconqa_hub, fields.draft_iconqa_hub),
    ),
    "vizwiz": (
        Layout(
            ("Annotations/val.json", "val.json"),
            _JSON,
            fields.draft_vizwiz,
            ("val", "images", ""),
        ),
        Layout(("val-*.parquet",), read_parquet_rows, fields.draft_vizwiz),
        Layout(("VizWiz.tsv",), _TSV, fields.draft_vizwiz),
    ),
    "hateful-memes": (
        Layout(
            ("dev.jsonl", "dev_seen.jsonl"), _JSON_LINES, fields.draft_hateful_memes, ("", "data")
        ),
        Layout(("validation-*.parquet",), read_parquet_rows, fields.draft_hateful_memes),
    ),
    "okvqa": (
        Layout(
            ("okvqa_test_split.json", "OpenEnded_mscoco_val2014_questions*.json"),
            _read_okvqa,
            fields.draft_okvqa,
            _COCO_FOLDERS,
        ),
        Layout(("val2014-*.parquet",), read_parquet_rows, fields.draft_okvqa),
    ),
    "refcoco": _make_refcoco("refcoco", ("val", "testA", "testB")),
    "refcoco+": _make_refcoco("refcoco+", ("val", "testA", "testB")),
    "refcocog": _make_refcoco("refcocog", ("val", "test")),
    "pope": (
        Layout(
            tuple(f"coco_pope_{each}.json" for each in ("random", "popular", "adversarial")),
            _JSON_LINES,
            fields.draft_pope,
            _COCO_FOLDERS,
            takes_all=True,
        ),
        Layout(("test-*.parquet",), read_parquet_rows, fields.draft_pope),
        Layout(("POPE.tsv",), _TSV, fields.draft_pope),
    ),
    "mme": (
        Layout(_MME_FILES, _read_mme, fields.draft_mme, ("", "images"), takes_all=True),
        Layout(("test-*.parquet",), read_parquet_rows, fields.draft_mme),
        Layout(("MME.tsv",), _TSV, fields.draft_mme),
    ),
}
