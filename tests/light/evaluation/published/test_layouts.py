"""Files of each layout become records; what is wrong with them is said, with the record's place."""

import pytest

from tests.light.evaluation.published.made import (
    make_png,
    to_cell,
    write_gqa,
    write_json,
    write_lines,
    write_tsv,
)
from tinyv_cli.errors import InputError
from tinyv_cli.evaluation.published.loaders import fields
from tinyv_cli.evaluation.published.loaders.loading import load_benchmark, take_sample
from tinyv_cli.evaluation.published.loaders.rows import Row

TEN = [{"answer": "two", "answer_confidence": "yes"}] * 10


def refuse(name, path):
    with pytest.raises(InputError) as caught:
        load_benchmark(name, path)
    return caught.value.problem


def make_row(path="x.parquet", **values):
    return Row(fields.Path(path), "row 3", values)


def test_a_folder_above_or_the_file_itself_will_do(tmp_path):
    folder = write_gqa(tmp_path / "a" / "b")
    file = folder / "testdev_balanced_questions.json"
    for path in (folder, folder.parent, tmp_path, file):
        loaded = load_benchmark("gqa", path)
        assert [*loaded.files] == [file]
        assert [each.picture.problem for each in loaded.records] == [""] * 3
        assert loaded.records[1].picture.read() == folder / "images" / "p1.png"


def test_a_missing_picture_is_named_and_costs_no_other(tmp_path):
    folder = write_gqa(tmp_path / "gqa", pictures=("p0.png",))
    records = load_benchmark("gqa", folder).records
    assert [bool(each.picture.problem) for each in records] == [False, True, False]
    assert records[1].picture.problem.startswith("there is no picture p1.png, which record 1 of ")
    with pytest.raises(InputError):
        records[1].picture.read()


def test_official_gqa_is_an_object_by_id(tmp_path):
    questions = {"7": {"imageId": "n1", "question": "what?", "answer": "cat"}}
    write_json(tmp_path / "q" / "testdev_balanced_questions.json", questions)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "n1.jpg").write_bytes(b"x")
    (record,) = load_benchmark("gqa", tmp_path).records
    assert (record.place.partition(" of ")[0], record.picture.problem) == ("'7'", "")


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        (None, "line 2 of {} cannot be used: it has no 'label', only image, caption, label"),
        (2, "line 2 of {} cannot be used: its 'label' is '2', not 1 or 0 or yes or no"),
    ],
)
def test_a_label_that_is_none_is_named(tmp_path, label, problem):
    good = {"image": "a.jpg", "caption": "It is.", "label": 1}
    path = write_lines(tmp_path / "test.jsonl", [good, {**good, "label": label}])
    assert refuse("vsr", tmp_path) == problem.format(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[{"image": "a"', "is not JSON: expecting ',' delimiter (line 1, character 15)"),
        ("3", "holds no list of records"),
        ('["a"]', "is not an object"),
        ("[]", "holds no question of gqa"),
        ("\xff", None),
    ],
)
def test_a_damaged_file_is_said_to_be(tmp_path, content, problem):
    path = tmp_path / "testdev_balanced_questions.json"
    path.write_bytes(content.encode("latin-1"))
    assert (problem or "is not UTF-8 text") in refuse("gqa", tmp_path)


def test_a_wrong_split_is_named_beside_the_right_one(tmp_path):
    write_lines(tmp_path / "data" / "test.jsonl", [{"id": 1, "img": "a.png", "text": "x"}])
    problem = refuse("hateful-memes", tmp_path)
    assert "holds no file of hateful-memes, which are dev.jsonl, dev_seen.jsonl" in problem
    assert problem.endswith("there is test.jsonl")
    inside = refuse("hateful-memes", tmp_path / "data" / "test.jsonl")
    assert inside.startswith("line 1 of ")
    assert "it has no 'label', only id, img, text" in inside
    assert "is no file of hateful-memes" in refuse(
        "hateful-memes", write_json(tmp_path / "a.txt", 1)
    )


def test_the_paper_read_dev_and_not_dev_seen(tmp_path):
    line = {"id": 1, "img": "img/1.png", "label": 1, "text": "x"}
    write_lines(tmp_path / "data" / "dev_seen.jsonl", [line])
    assert load_benchmark("hateful-memes", tmp_path).files[0].name == "dev_seen.jsonl"
    write_lines(tmp_path / "data" / "dev.jsonl", [line])
    (tmp_path / "data" / "img").mkdir()
    (tmp_path / "data" / "img" / "1.png").write_bytes(b"x")
    loaded = load_benchmark("hateful-memes", tmp_path)
    assert loaded.files[0].name == "dev.jsonl"
    assert loaded.records[0].references == ("yes",)
    assert loaded.records[0].picture.problem == ""


def test_questions_without_answers_are_refused(tmp_path):
    write_json(tmp_path / "val.json", [{"image": "a.jpg", "question": "x?", "answerable": 1}])
    assert "record 0 of" in refuse("vizwiz", tmp_path)
    assert "it has no 'answers', only image, question, answerable" in refuse("vizwiz", tmp_path)
    write_json(tmp_path / "val.json", [{"image": "a.jpg", "question": "x?", "answers": []}])
    assert "its 'answers' is not a list of texts" in refuse("vizwiz", tmp_path)


def test_okvqa_is_joined_with_its_annotations(tmp_path):
    question = {"image_id": 7, "question": "what?", "question_id": 70}
    path = tmp_path / "q" / "OpenEnded_mscoco_val2014_questions.json"
    write_json(path, {"questions": [question]})
    assert "no mscoco_val2014_annotations.json is near it" in refuse("okvqa", tmp_path)
    notes = tmp_path / "a" / "mscoco_val2014_annotations.json"
    write_json(notes, {"annotations": [{"question_id": 71, "answers": TEN}]})
    assert f"question 70 has no answers in {notes}" in refuse("okvqa", tmp_path)
    write_json(notes, {"annotations": [{"question_id": 70, "answers": TEN}]})
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014" / "COCO_val2014_000000000007.jpg").write_bytes(b"x")
    (record,) = load_benchmark("okvqa", tmp_path).records
    assert (record.references, record.picture.problem) == (("two",) * 10, "")


def test_iconqa_takes_the_questions_whose_choices_are_texts(tmp_path):
    problem = {"question": "how many?", "choices": ["1", "2"], "answer": 1}
    write_json(tmp_path / "problems.json", {"5": problem, "6": problem, "7": problem})
    write_json(
        tmp_path / "pid_splits.json", {"choose_txt_val": ["6", "5"], "choose_img_val": ["7"]}
    )
    records = load_benchmark("iconqa", tmp_path).records
    assert [each.place.partition(" of ")[0] for each in records] == ["'6'", "'5'"]
    assert (records[0].choices, records[0].right_choice) == (("1", "2"), 1)
    assert "iconqa/val/choose_txt/6/image.png" in records[0].picture.problem
    write_json(tmp_path / "pid_splits.json", {"choose_txt_test": ["7"]})
    (record,) = load_benchmark("iconqa", tmp_path).records
    assert "iconqa/test/choose_txt/7" in record.picture.problem
    write_json(tmp_path / "pid_splits.json", {"choose_txt_val": ["8"]})
    assert "problem '8' of" in refuse("iconqa", tmp_path)
    write_json(tmp_path / "pid_splits.json", {"fill_in_blank_val": ["5"]})
    assert "neither choose_txt_val nor choose_txt_test" in refuse("iconqa", tmp_path)
    write_json(tmp_path / "problems.json", {"5": {**problem, "answer": 2}})
    write_json(tmp_path / "pid_splits.json", {"choose_txt_val": ["5"]})
    assert "its 'answer' is 2, and it has 2 choices" in refuse("iconqa", tmp_path)


@pytest.mark.parametrize(
    ("choices", "answer", "split"),
    [
        ("3,5", "5", (("3", "5"), 1)),
        ("left,top, then left", "left", (("left", "top, then left"), 0)),
        ("1,000,2,000", "2,000", (("1", "000", "2,000"), 2)),
        ("one,two", "1", (("one", "two"), 1)),
        ("one,two", "three", None),
    ],
)
def test_the_hubs_choices_are_parted(choices, answer, split):
    row = make_row(question="?", choices=choices, answer=answer)
    found = [(each.choices, each.right_choice) for each in fields.draft_iconqa_hub(row)]
    assert found == ([split] if split else [])


@pytest.mark.parametrize(
    ("question", "statement"),
    [
        ("Is this statement true? The cat is on a mat. Answer Yes or No.", "The cat is on a mat."),
        ("Is it so: A is left of B. Please answer yes or no.", "A is left of B."),
        ("The cat sits.", "The cat sits."),
        ("The cat sits. Is this true? Please answer yes or no.", "The cat sits."),
        ("The cat sits. Is this true?", "The cat sits."),
        ("Does the cat sit?", "Does the cat sit?"),
    ],
)
def test_a_statement_is_taken_out_of_its_question(question, statement):
    (draft,) = fields.draft_vsr_tsv(make_row(question=question, answer="Yes"))
    assert (draft.question, draft.references) == (statement, ("true",))


def test_popes_three_files_are_three_groups_in_the_published_order(tmp_path):
    for name in ("adversarial", "popular", "random"):
        line = {"question_id": 1, "image": "a.jpg", "text": name, "label": "no"}
        write_lines(tmp_path / f"coco_pope_{name}.json", [line])
    records = load_benchmark("pope", tmp_path).records
    assert [each.group for each in records] == ["random", "popular", "adversarial"]
    (record,) = load_benchmark("pope", tmp_path / "coco_pope_popular.json").records
    assert (record.group, record.question) == ("popular", "popular")


def test_refcoco_reads_each_split_there_is(tmp_path):
    line = {"img_id": "COCO_train2014_000000000001_12", "sents": "a dog", "bbox": [1, 2, 3, 4]}
    line |= {"width": 20, "height": 10}
    for split in ("testA", "val"):
        write_json(tmp_path / f"refcoco+_{split}.json", [line])
    records = load_benchmark("refcoco+", tmp_path).records
    assert [each.group for each in records] == ["val", "testA"]
    assert "COCO_train2014_000000000001.jpg" in records[0].picture.problem
    region = records[0].region
    assert (region.x, region.height, region.picture_width) == (1, 4, 20)
    write_json(tmp_path / "refcoco+_val.json", [{**line, "bbox": [1, 2]}])
    assert "its 'bbox' is not a list of 4 numbers" in refuse("refcoco+", tmp_path)


def test_mme_has_two_questions_a_picture_and_pictures_beside_or_in_a_folder(tmp_path):
    beside, apart = tmp_path / "MME" / "count", tmp_path / "MME" / "posters"
    (apart / "questions_answers_YN").mkdir(parents=True)
    (apart / "images").mkdir()
    beside.mkdir()
    lines = "Is it? Please answer yes or no.\tYes\nIs it not? Please answer yes or no.\tNo\n"
    for path in (beside / "1.txt", apart / "questions_answers_YN" / "2.txt"):
        path.write_text(lines)
    (beside / "1.png").write_bytes(b"x")
    (apart / "images" / "2.jpg").write_bytes(b"x")
    records = load_benchmark("mme", tmp_path).records
    assert [each.group for each in records] == ["count/1"] * 2 + ["posters/2"] * 2
    assert [each.question for each in records[:2]] == ["Is it?", "Is it not?"]
    assert [each.picture.problem for each in records] == [""] * 4
    (beside / "1.txt").write_text("Is it? Yes\n")
    assert "line 1 of" in refuse("mme", tmp_path)


def test_a_sample_is_drawn_by_chance_and_always_the_same(tmp_path):
    records = load_benchmark("gqa", write_gqa(tmp_path / "gqa", 30)).records
    one = take_sample(records, 10, 1)
    assert one == take_sample(records, 10, 1)
    assert one != take_sample(records, 10, 2)
    assert len({each.index for each in one}) == 10
    assert [each.index for each in one] == sorted(each.index for each in one)
    assert take_sample(records, 99, 1) == list(records)


def test_a_table_holds_pictures_or_points_to_them(tmp_path):
    big = make_png((1, 2, 3), (300, 300), compress_level=0)
    assert len(to_cell(big)) > 200_000
    heading = ("index", "image", "question", "answer")
    rows = [
        (10, 30, "first?", "a"),
        (20, to_cell(make_png("blue")), '"say ""this""?"', "b"),
        (30, to_cell(big), '"in two\nlines?"', "c"),
        (40, f'"[""{to_cell(make_png())}""]"'.replace('""', "'"), "in a list?", "d"),
        (50, 99, "lost?", "e"),
        (60, to_cell(make_png())[:-2], "cut?", "f"),
        (70, 20, "again?", "g"),
    ]
    path = write_tsv(tmp_path / "GQA_TestDev_Balanced.tsv", heading, rows)
    records = load_benchmark("gqa", path).records
    assert [each.question for each in records][1:3] == ['say "this"?', "in two\nlines?"]
    pictures = [each.picture for each in records]
    assert pictures[0].read() == pictures[2].read() == big
    assert pictures[0].name == pictures[2].name
    assert pictures[1].read() == pictures[6].read() == make_png("blue")
    assert pictures[3].read() == make_png()
    assert pictures[4].problem.startswith(f"the picture of row 4 of {path} is that of index '99'")
    assert f"the picture of row 5 of {path} is cut off or no base64" in pictures[5].problem
    for each in (pictures[4], pictures[5]):
        with pytest.raises(InputError):
            each.read()


def test_a_table_that_is_cut_off_or_none_is_refused(tmp_path):
    path = tmp_path / "POPE.tsv"
    heading = ("index", "image", "question", "answer", "category")
    write_tsv(path, heading, [(0, to_cell(make_png()), "Is it?", "Yes", "random"), (1, "QUFB")])
    assert f"row 1 of {path} has 2 cells, the heading 5" in refuse("pope", tmp_path)
    write_tsv(path, heading, [(0, to_cell(make_png()), "Is it?", "perhaps", "random")])
    assert "its 'answer' is 'perhaps', not yes or no" in refuse("pope", tmp_path)
    path.write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in refuse("pope", tmp_path)


def test_a_list_that_is_written_as_python_is_read(tmp_path):
    heading = ("index", "image", "question", "answers")
    cell = to_cell(make_png())
    path = write_tsv(tmp_path / "VizWiz.tsv", heading, [(0, cell, "?", "['a', 'b\\'s']")])
    assert load_benchmark("vizwiz", path).records[0].references == ("a", "b's")
    write_tsv(path, heading, [(0, cell, "?", "['a', ")])
    assert "its 'answers' is no list: ['a'," in refuse("vizwiz", path)
