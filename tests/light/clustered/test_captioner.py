"""`Captioner` as a program of one's own calls it; needs pyarrow, and no Ray that runs."""

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="the extra [ray] is not installed")

from tests.demo import DEMO
from tinyv_cli.batch.cluster.captioner import Captioner, CaptionOptions
from tinyv_cli.batch.cluster.lines import to_lines
from tinyv_cli.errors import WeightsError
from tinyv_cli.variants import miniature

QUESTION = "[caption] describe this image."


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(miniature, "miniature_dir", lambda: DEMO)


def ask(captioner, **columns):
    batch = {name: np.array(values, dtype=object) for name, values in columns.items()}
    return [line for table in captioner(batch) for line in to_lines(table)]


def test_bytes_become_rows_in_their_order_and_a_broken_picture_is_one_with_its_error():
    whole = (DEMO / "examples" / "cat.png").read_bytes()
    captioner = Captioner("miniature", QUESTION)
    contents = {"one": whole, "none": b"", "half": whole[: len(whole) // 2], "two": whole}
    lines = ask(captioner, path=list(contents), bytes=list(contents.values()))
    assert [line["path"] for line in lines] == list(contents)
    one, none, half, two = lines
    assert one["answer"] == two["answer"] != ""
    assert one["model"] == "miniature"
    assert one["toy"] is one["drawing"] is True
    assert none["error"]["problem"] == "none is empty"
    assert half["error"]["problem"].startswith("half: ")
    assert "answer" not in half

    by_word = ask(captioner, path=["p"], word=[str(DEMO / "examples" / "cat.png")])
    assert by_word[0]["answer"] == one["answer"]


def test_another_variant_than_the_batch_was_begun_with_is_refused():
    with pytest.raises(WeightsError, match="is another than the batch was begun with"):
        Captioner("miniature", QUESTION, CaptionOptions(variant_hash="0" * 64))


def test_what_ray_is_to_keep_for_a_worker_grows_with_answers_at_once():
    one, many = (
        Captioner.estimate_resources("miniature", options=CaptionOptions(parallel=n))
        for n in (1, 16)
    )
    assert one["num_cpus"] == many["num_cpus"] == 1
    assert 0 < one["memory"] < many["memory"]
