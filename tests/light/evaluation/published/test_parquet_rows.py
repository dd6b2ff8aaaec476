"""Parquet files as the model hub has them."""

import pytest

from tests.light.evaluation.published.made import make_png
from tinyv_cli.errors import InputError, UsageError
from tinyv_cli.evaluation.published.loaders.loading import load_benchmark


def write(path, rows, **options):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


def hold(content):
    return {"bytes": content, "path": "x.png"}


def make_memes(n):
    colours = ["red", "green", "blue", "black", "white"]
    return [
        {"text": f"t{i}", "label": i % 2, "image": hold(make_png(colours[i]))} for i in range(n)
    ]


def test_parts_and_row_groups_are_read_in_order_and_pictures_when_they_are_needed(tmp_path):
    rows = make_memes(5)
    write(tmp_path / "data" / "validation-00000-of-00002.parquet", rows[:3], row_group_size=2)
    write(tmp_path / "data" / "validation-00001-of-00002.parquet", rows[3:])
    records = load_benchmark("hateful-memes", tmp_path).records
    assert [each.question for each in records] == ["t0", "t1", "t2", "t3", "t4"]
    for i in (4, 0, 2, 1, 3):
        assert records[i].picture.read() == rows[i]["image"]["bytes"]
    assert len({each.picture.name for each in records}) == 5


def test_other_columns_are_named_with_the_record(tmp_path):
    path = write(tmp_path / "validation-0.parquet", [{"id": 1, "caption": "x"}])
    with pytest.raises(InputError) as caught:
        load_benchmark("hateful-memes", tmp_path)
    problem = f"row 0 of {path} cannot be used: it has no 'label', only id, caption"
    assert caught.value.problem == problem


def test_a_row_without_a_picture_costs_no_other(tmp_path):
    rows = make_memes(2)
    rows[1]["image"] = None
    write(tmp_path / "validation-0.parquet", rows)
    first, second = load_benchmark("hateful-memes", tmp_path).records
    assert first.picture.read() == rows[0]["image"]["bytes"]
    with pytest.raises(InputError, match=r"row 1 of .* holds no picture"):
        second.picture.read()


def test_a_file_that_is_none_or_damaged_is_refused(tmp_path):
    path = write(tmp_path / "validation-0.parquet", make_memes(3))
    content = path.read_bytes()
    for damaged in (b"no parquet", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="is no parquet file"):
            load_benchmark("hateful-memes", tmp_path)


def test_gqas_two_configs_are_joined(tmp_path):
    questions = [{"id": "1", "imageId": each, "question": "?", "answer": "a"} for each in "ab"]
    write(tmp_path / "testdev_balanced_instructions" / "testdev-0.parquet", questions)
    pictures = [{"id": "a", "image": hold(make_png())}]
    write(tmp_path / "testdev_balanced_images" / "testdev-0.parquet", pictures)
    found, missing = load_benchmark("gqa", tmp_path).records
    assert found.picture.read() == make_png()
    assert missing.picture.problem.startswith("there is no picture b, which row 1 of ")


def test_refcoco_has_a_record_a_sentence_and_the_pictures_own_size(tmp_path):
    row = {"answer": ["a dog", "it"], "bbox": [1.0, 2.0, 3.0, 4.0]}
    row["image"] = hold(make_png(size=(30, 20)))
    write(tmp_path / "data" / "testB-0.parquet", [row])
    loaded = load_benchmark("refcoco", tmp_path)
    assert [each.question for each in loaded.records] == ["a dog", "it"]
    assert {each.group for each in loaded.records} == {"testB"}
    assert loaded.records[0].region.picture_width == 30
    assert "val is not the published one" in loaded.note


def test_iconqa_leaves_out_what_contradicts_itself_and_names_it(tmp_path):
    row = {"question": "?", "choices": "a,b", "answer": "b", "ques_type": "choose_txt"}
    row["query_image"] = hold(make_png())
    rows = [row, {**row, "answer": "c"}, {**row, "ques_type": "choose_img"}, row]
    path = write(tmp_path / "val-0.parquet", rows)
    loaded = load_benchmark("iconqa", tmp_path)
    assert [each.index for each in loaded.records] == [0, 2]
    assert loaded.left_out == (f"row 1 of {path} (record 1)",)
    assert loaded.records[1].picture.read() == make_png()


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "val-0.parquet").write_bytes(b"x")
    with pytest.raises(UsageError) as caught:
        load_benchmark("vizwiz", tmp_path)
    assert caught.value.hint == "install it: `pip install 'tinyv[parquet]'`"
