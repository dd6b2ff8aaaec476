"""`tinyv eval PATH --benchmark NAME` with a toy variant, and with answers from elsewhere."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.light.evaluation.published.made import make_png, write_gqa, write_json, write_lines
from tests.light.toy_decoder import ScriptedDecoder, ToyEncoder, ToySlots
from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.backends.backend import Backend
from tinyv_cli.disk import places
from tinyv_cli.errors import ExitCode
from tinyv_cli.evaluation.published.benchmarks import BENCHMARKS
from tinyv_cli.pictures.image import PLAINLY, hash_pixels, read_picture, to_pixels
from tinyv_cli.prompts.prompt import make_prompt
from tinyv_cli.spec import make_tiny_spec

pytestmark = pytest.mark.usefixtures("place")

CAT, MARK, STOP_MARK, END = 260, 257, 258, 262  # ids of the toy's tokenizer; 258 ends its answers
UNCUT = [CAT, MARK, STOP_MARK, *b" x", END]  # what is said to each record
UNCUT_TEXT = "cat### ### x"


class NotingEncoder(ToyEncoder):
    """Keeps the hash of what it encoded."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def encode(self, pixels):
        self.seen.append(hash_pixels(pixels))
        return super().encode(pixels)


class Opened:
    """What was opened, with what is to be said."""

    def __init__(self):
        self.script = UNCUT * 99
        self.encoders, self.decoders = [], []

    def open_backend(self, variant, options, meanwhile):
        self.encoders.append(NotingEncoder())
        meanwhile(self.encoders[-1], "toy")
        self.decoders.append(ScriptedDecoder(self.script, options.context_length, 300))
        return Backend(self.encoders[-1], ToySlots(self.decoders[-1]), "toy", 0.1)


@pytest.fixture
def opened(monkeypatch):
    made = Opened()
    monkeypatch.setattr(backends, "open_backend", made.open_backend)
    return made


def run(capsys, *words, code=ExitCode.OK):
    """The document, and what stderr says."""
    assert main(["eval", *map(str, words), "--json", "-m", "bits4"]) == code
    out, err = capsys.readouterr()
    return (json.loads(out) if out else None), err


def read_ledger(pattern="gqa/gqa.eval-*.jsonl"):
    (path,) = Path().glob(pattern)
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_answers_go_on_behind_the_mark_and_are_kept_uncut(place, opened, capsys):
    document, err = run(capsys, write_gqa(place / "gqa", 4), "--benchmark", "gqa")
    # those about one picture are asked together
    assert [(each["index"], each["answer"]) for each in read_ledger()] == [
        (i, UNCUT_TEXT) for i in (0, 2, 1, 3)
    ]
    assert opened.encoders[0].n_encoded == 2
    assert (document["questions"], document["of"], document["model"]) == (4, 4, "bits4")
    assert document["rules"]["paper"]["published"] == 38.9
    assert document["rules"]["official"]["published"] is None
    assert "4 questions are in gqa/testdev_balanced_questions.json" in err.replace(f"{place}/", "")


@pytest.mark.parametrize("is_toy", [False, True])
def test_a_document_says_whether_a_toy_answered(place, opened, capsys, monkeypatch, is_toy):
    monkeypatch.setattr("tinyv_cli.engine.is_miniature", lambda variant: is_toy)
    document, _ = run(capsys, write_gqa(place / "gqa", 1), "--benchmark", "gqa")
    assert document["toy"] is is_toy


def test_nothing_is_asked_again_and_a_longer_run_goes_on(place, opened, capsys):
    folder = write_gqa(place / "gqa", 6)
    _, err = run(capsys, folder, "--benchmark", "gqa", "--limit", "2")
    assert "the first 2 are no sample, such files are sorted" in err
    document, err = run(capsys, folder, "--benchmark", "gqa")
    assert "bits4 has answered 2 of 6 questions before" in err
    assert len(opened.encoders) == 2
    assert len(read_ledger()) == document["questions"] == 6
    run(capsys, folder, "--benchmark", "gqa")
    assert len(opened.encoders) == 2  # all is known
    run(capsys, folder, "--benchmark", "gqa", "--fresh", "--limit", "1")
    assert len(read_ledger()) == 1


def test_a_sample_is_of_chance(place, opened, capsys):
    folder = write_gqa(place / "gqa", 30)
    document, err = run(capsys, folder, "--benchmark", "gqa", "--sample", "5", "--seed", "3")
    drawn = [each["index"] for each in read_ledger()]
    assert sorted(drawn) != list(range(5))
    assert (document["questions"], document["of"], len(drawn)) == (5, 30, 5)
    assert "5 of them are drawn by chance, seed 3" in err


def test_a_stop_mark_ends_nothing_and_twenty_tokens_are_the_most(place, opened, capsys):
    opened.script = [*b"!", *b"abcdefghijklmnopqrstuvwxyz"]
    opened.script[0] = 0
    run(capsys, write_gqa(place / "gqa", 1), "--benchmark", "gqa")
    assert read_ledger()[0]["answer"] == "abcdefghijklmnopqrs"  # 20 with the id 0, which goes


def test_pictures_are_read_plainly(place, opened, capsys):
    folder = write_gqa(place / "gqa", 2)
    turned = Image.new("RGB", (9, 5), "red")
    turned.putpixel((0, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "images" / "p0.png", exif=exif)
    clear = Image.new("RGBA", (6, 6), (9, 99, 199, 0))
    clear.save(folder / "images" / "p1.png")
    run(capsys, folder, "--benchmark", "gqa")
    image_px = make_tiny_spec(4).vision.image_px
    expected = [hash_pixels(to_pixels(each, image_px)) for each in (turned, clear.convert("RGB"))]
    assert opened.encoders[0].seen == expected
    shown = [read_picture(folder / "images" / name) for name in ("p0.png", "p1.png")]
    assert [each.size for each in shown] == [(5, 9), (6, 6)]
    assert shown[1].getpixel((0, 0)) == (255, 255, 255)
    plain = read_picture(make_png((1, 2, 3, 0), mode="RGBA"), PLAINLY)
    assert plain.getpixel((0, 0)) == (1, 2, 3)


def test_a_record_that_cannot_be_asked_costs_itself_alone(place, opened, capsys):
    folder = write_gqa(place / "gqa", 4, pictures=("p0.png",))
    document, err = run(capsys, folder, "--benchmark", "gqa", code=ExitCode.BATCH)
    assert document["questions"] == 2
    assert document["without_answer"] == [1, 3]
    assert len(document["failures"]) == 2
    assert "note: 2 of 4 records lack their picture: there is no picture p1.png" in err
    assert "error: 2 of 4 records could not be asked; the first: record 1 of" in err
    (folder / "images" / "p1.png").write_bytes(make_png()[:45])
    document, err = run(capsys, folder, "--benchmark", "gqa", code=ExitCode.BATCH)
    assert "p1.png is damaged" in document["failures"][0]
    (folder / "images" / "p1.png").write_bytes(make_png())
    document, _ = run(capsys, folder, "--benchmark", "gqa")
    assert document["questions"] == len(read_ledger()) == 4


def test_where_nothing_can_be_asked_there_is_no_score(place, opened, capsys):
    folder = write_gqa(place / "gqa", 2, pictures=())
    document, err = run(capsys, folder, "--benchmark", "gqa", code=ExitCode.INPUT)
    assert document is None
    assert "error: none of these 2 records of gqa has an answer" in err


def test_choices_are_ranked_by_the_mean_loss_of_text_and_mark(place, opened, capsys):
    problem = {"image_id": "7", "question": "which?", "choices": ["cat", "x_y"], "answer": 0}
    write_json(place / "i" / "choose_text_val.json", [problem])
    (place / "i" / "7").mkdir()
    (place / "i" / "7" / "image.png").write_bytes(make_png())
    # each id of the script is the likely one at a step: `cat`, then the mark
    opened.script = [CAT, MARK] + [299] * 50
    document, _ = run(capsys, place / "i", "--benchmark", "iconqa")
    (entry,) = read_ledger("i/iconqa.eval-*.jsonl")
    likely = math.log(299 + math.e) - 1
    unlikely = likely + 1
    assert entry["losses"] == pytest.approx(
        {"cat": likely, "x_y": unlikely, "x": unlikely, "y": unlikely}
    )
    assert entry["answer"] is None
    assert document["rules"]["official"]["chosen"] == [0]
    assert document["rules"]["paper"]["score"] == 100


def test_the_first_tokens_yes_and_no_are_kept_beside_the_answer(place, opened, capsys):
    lines = [{"id": i, "img": "a.png", "label": i, "text": f"t{i}"} for i in range(2)]
    write_lines(place / "m" / "dev.jsonl", lines)
    (place / "m" / "a.png").write_bytes(make_png())
    opened.script = [*b"no", END, ord("n"), *b"yes", END, ord("y")]
    document, _ = run(capsys, place / "m", "--benchmark", "hateful-memes")
    entries = read_ledger("m/hateful-memes.eval-*.jsonl")
    assert [each["answer"] for each in entries] == ["no", "yes"]
    likely = math.log(299 + math.e) - 1
    assert entries[0]["losses"] == pytest.approx({"yes": likely + 1, "no": likely})
    assert document["rules"]["official-auroc"]["score"] == 100
    chances = document["rules"]["official-auroc"]["p_yes"]
    assert chances == pytest.approx([1 / (1 + math.e), 1 / (1 + math.exp(-1))])


def test_the_ledger_of_a_run_can_be_scored_as_answers(place, opened, capsys):
    folder = write_gqa(place / "gqa", 4)
    asked, _ = run(capsys, folder, "--benchmark", "gqa")
    (ledger,) = folder.glob("*.jsonl")
    scored, _ = run(capsys, folder, "--benchmark", "gqa", "--answers", ledger)
    assert scored["rules"] == asked["rules"]
    assert scored["model"] is None


def test_answers_from_elsewhere_need_no_model_and_no_picture(place, capsys):
    folder = write_gqa(place / "gqa", 3, pictures=())
    lines = [{"index": 2, "answer": "a2"}, {"index": 0, "answer": "it is a0###a1"}]
    path = write_lines(place / "a.jsonl", lines)
    document, err = run(capsys, folder, "--benchmark", "gqa", "--answers", path)
    assert document["rules"]["official"]["per_record"] == [0, 1]
    assert document["rules"]["paper"]["per_record"] == [1, 1]
    assert "note: 1 of 3 records have no answer: 1" in err
    assert "note: 3 of 3 records lack their picture" in err


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"index": 3, "answer": "x"}, "its index is 3, and the records are 0 to 2"),
        ({"index": True, "answer": "x"}, "its index is True, and the records are 0 to 2"),
        ({"answer": "x"}, "its index is None, and the records are 0 to 2"),
        ({"index": 0}, "it has no 'answer'"),
        ({"index": 0, "answer": 3}, "its 'answer' is no text"),
        ({"index": 1, "answer": "x"}, "record 1 has an answer before it"),
    ],
)
def test_an_answer_that_is_none_is_named(place, capsys, line, reason):
    path = write_lines(place / "a.jsonl", [{"index": 1, "answer": "x"}, line])
    folder = write_gqa(place / "gqa", 3)
    words = (folder, "--benchmark", "gqa", "--answers", path)
    _, err = run(capsys, *words, code=ExitCode.INPUT)
    assert f"error: line 2 of {path} is no answer: {reason}" in err


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"losses": [1, 2, 3]}, "it has 3 losses, and there are 2 choices"),
        ({"losses": {"a_b": 1}}, "it has no loss of 'c'"),
        ({"losses": {"a_b": 1, "c": "x"}}, "its loss of 'c' is no number"),
        ({"losses": 3}, "its 'losses' are neither a list nor by text"),
        ({"answer": "c"}, "it has no 'losses' of the choices"),
        ({"losses": [2, 1]}, None),
        ({"losses": [2, 1, 1, 3]}, None),
        ({"losses": {"c": 1, "a_b": 2, "a": 5, "b": 6}}, None),
    ],
)
def test_losses_are_by_text_or_in_the_choices_order(place, capsys, given, reason):
    problem = {"image_id": "7", "question": "which?", "choices": ["a_b", "c"], "answer": 1}
    write_json(place / "i" / "choose_text_val.json", [problem])
    path = write_lines(place / "a.jsonl", [{"index": 0, **given}])
    words = (place / "i", "--benchmark", "iconqa", "--answers", path)
    document, err = run(capsys, *words, code=ExitCode.INPUT if reason else ExitCode.OK)
    if reason:
        assert f"line 1 of {path} is no answer: {reason}" in err
    else:
        assert document["rules"]["official"]["score"] == 100
        ranks_split = len(given["losses"]) == 4
        assert (document["rules"]["paper"]["score"] is not None) == ranks_split


def test_a_probability_of_yes_will_do(place, capsys):
    lines = [{"id": i, "img": "a.png", "label": i, "text": f"t{i}"} for i in range(2)]
    write_lines(place / "m" / "dev.jsonl", lines)
    given = [{"index": i, "answer": "no", "p_yes": p} for i, p in enumerate((0, 1))]
    path = write_lines(place / "a.jsonl", given)
    words = (place / "m", "--benchmark", "hateful-memes", "--answers", path)
    document, _ = run(capsys, *words)
    assert document["rules"]["official-auroc"]["score"] == 100
    write_lines(path, [{**given[0], "p_yes": 1.5}])
    _, err = run(capsys, *words, code=ExitCode.INPUT)
    assert "its 'p_yes' is no number from 0 to 1" in err


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--benchmark", "mmlu"], "there is no benchmark 'mmlu'"),
        (["--benchmark", "gqa", "--limit", "1", "--sample", "1"], "--limit and --sample do not go"),
        (["--benchmark", "gqa", "--seed", "1"], "--seed draws the records of --sample"),
        (["--benchmark", "gqa", "--template", "inst"], "--template does not go with --benchmark"),
        (["--benchmark", "gqa", "--against", "bits8"], "--against does not go with --benchmark"),
        (["--benchmark", "gqa", "-n", "9"], "--max-tokens does not go with --benchmark"),
        (["--benchmark", "gqa", "--chart", "a.jpg"], "a.jpg is not called after a PNG"),
        (["--answers", "a.jsonl"], "--answers goes with --benchmark"),
        (["--sample", "3"], "--sample goes with --benchmark"),
        (["--chart", "a.png"], "--chart goes with --benchmark"),
    ],
)
def test_options_that_do_not_go_together(place, capsys, flags, problem):
    _, err = run(capsys, write_gqa(place / "gqa"), *flags, code=ExitCode.USAGE)
    assert f"error: {problem}" in err


def test_a_path_that_is_not_there(place, capsys):
    _, err = run(capsys, "nowhere", "--benchmark", "gqa", code=ExitCode.INPUT)
    assert "error: there is no file or folder nowhere" in err


def test_the_table_and_the_chart(place, capsys):
    folder = write_gqa(place / "gqa", 3)
    path = write_lines(place / "a.jsonl", [{"index": i, "answer": f"a{i}."} for i in range(3)])
    words = ["eval", str(folder), "--benchmark", "gqa", "--answers", str(path), "-q"]
    assert main([*words, "--chart", "scores.png"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split() for line in out.splitlines()] == [
        ["rule", "questions", "score", "95", "%", "the", "paper", "by", "saying", "nothing"],
        ["paper", "3", "100.0", "43.9-100.0", "38.9", "0.0"],
        ["official", "3", "0.0", "0.0-56.1", "-", "0.0"],
        ["lmms-eval", "3", "100.0", "43.9-100.0", "-", "0.0"],
        ["vlmevalkit", "3", "0.0", "0.0-56.1", "-", "0.0"],
    ]
    with Image.open("scores.png") as chart:
        pixels = np.asarray(chart.convert("RGB"))
    bars = (pixels == (0x9D, 0xB4, 0xC8)).all(-1).sum(1)
    assert sorted({*bars[bars > 300].tolist()})[-1] <= 401  # the rules at 100 %, across the axis
    assert (bars > 300).sum() >= 2 * 10
    assert (pixels == (0xB0, 0x30, 0x30)).all(-1).any()  # the paper's figure
    assert main([*words, "--chart", "scores.png"]) == ExitCode.USAGE
    assert main([*words, "--chart", "scores.png", "--force"]) == ExitCode.OK


def test_an_interrupted_run_is_gone_on_with(place, opened, capsys):
    folder = write_gqa(place / "gqa", 4)
    opened.script = [*UNCUT, *UNCUT[:2], KeyboardInterrupt()]
    _, err = run(capsys, folder, "--benchmark", "gqa", code=ExitCode.INTERRUPTED)
    assert "what was answered is kept; the same command goes on from there" in err
    opened.script = UNCUT * 9
    document, err = run(capsys, folder, "--benchmark", "gqa")
    assert "bits4 has answered 1 of 4 questions before" in err
    assert document["questions"] == 4


def test_what_does_not_fit_the_context_is_said_to_be(place, opened, capsys):
    problem = {"image_id": "7", "question": "which?", "choices": ["ab", "a"], "answer": 0}
    write_json(place / "i" / "choose_text_val.json", [problem])
    (place / "i" / "7").mkdir()
    (place / "i" / "7" / "image.png").write_bytes(make_png())
    benchmark = BENCHMARKS["iconqa"]
    prompt = make_prompt(benchmark.template, (), benchmark.write_prompt("which?"))
    encode = Tokenizer(places.variants_dir() / "bits4" / "tokenizer.json").encode
    n_prompt = 4 + sum(len(encode(piece)) for piece in prompt.pieces)  # the toy's picture has four
    for n_positions, reason in ((n_prompt, "the context is full"), (50, "the prompt needs")):
        flags = ("--benchmark", "iconqa", "--ctx-size", n_positions)
        _, err = run(capsys, place / "i", *flags, code=ExitCode.INPUT)
        assert "error: none of these 1 records of iconqa has an answer: record 0 of" in err
        assert f"cannot be asked: {reason}" in err
    run(capsys, place / "i", "--benchmark", "iconqa", "--ctx-size", n_prompt + 3)
