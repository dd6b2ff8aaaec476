import itertools
import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.light.toy_decoder import ToyDecoder, ToyEncoder
from tests.light.toy_variant import make_manifest, write_picture, write_variant
from tinyv_cli import backends, home
from tinyv_cli.app import main
from tinyv_cli.backends import Backend
from tinyv_cli.errors import ExitCode, InputError
from tinyv_cli.evaluation import evaluate as evaluation
from tinyv_cli.evaluation.divergence import compute_divergences
from tinyv_cli.evaluation.figures import make_share
from tinyv_cli.generate import ImageTokens
from tinyv_cli.manifest import read_variant
from tinyv_cli.prompt import TEMPLATES, make_prompt
from tinyv_cli.tokenizer import Tokenizer

N_LETTERS = 12


def make_line(picture="cat.png", task="what", question="[vqa] what is it?", answer="cat"):
    return {"picture": picture, "task": task, "question": question, "answer": answer}


# Pictures take turns, so that an evaluation has to put them in order.
LINES = [
    make_line(),
    make_line("dog.png", answer="dog"),
    make_line(task="colour", question="[vqa] what colour is it?", answer="red"),
    make_line("dog.png", "count", "[vqa] how many?", "two"),
    make_line(task="refer", question="[refer] it", answer="{<1><2><30><40>}"),
    make_line(task="caption", question="[caption] describe it", answer="a cat"),
]


class EchoDecoder(ToyDecoder):
    """Answers with letters that depend on every position cached, and ends soon."""

    def __init__(self, seed, interrupt_after=None):
        super().__init__()
        self._seed = seed
        self._n_left = interrupt_after

    def extend(self, segments):
        if self._n_left is not None:
            self._n_left -= 1
            if self._n_left < 0:
                raise KeyboardInterrupt
        return super().extend(segments)

    def compute_logits(self):
        logits = np.full(300, -30, np.float32)
        seed = [self._seed, *(sum(map(ord, str(key))) for key in self.held)]
        logits[97 : 97 + N_LETTERS] = np.random.default_rng(seed).standard_normal(N_LETTERS)
        logits[258] = 0.8
        return logits


class Runtimes:
    """What was opened, and whether two were ever there at once."""

    def __init__(self):
        self.opened = []
        self.encoders = []
        self.most_alive = 0
        self.interrupt_after = None
        self._decoders = []

    def open_backend(self, variant, options, notify):
        # A variant's bits make its voice.
        decoder = EchoDecoder(variant.manifest.bits, self.interrupt_after)
        encoder = ToyEncoder()
        self.opened.append(variant.name)
        self.encoders.append(encoder)
        self._decoders.append(weakref.ref(decoder))
        alive = sum(reference() is not None for reference in self._decoders)
        self.most_alive = max(self.most_alive, alive)
        return Backend(encoder, decoder, "toy", 0.1)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TINYV_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "cat.png")
    Image.new("RGB", (9, 9), "blue").save(tmp_path / "dog.png")
    for bits in (4, 8):
        write_variant(home.variants_dir() / f"bits{bits}", bits=bits)
    return tmp_path


@pytest.fixture
def runtimes(monkeypatch):
    made = Runtimes()
    monkeypatch.setattr(backends, "open_backend", made.open_backend)
    return made


def write_questions(lines=LINES, name="questions.jsonl"):
    text = "".join(f"{json.dumps(line) if isinstance(line, dict) else line}\n" for line in lines)
    Path(name).write_text(text, "utf-8")
    return name


def run(capsys, *flags, model="bits4", code=ExitCode.OK):
    """The document that the command prints."""
    assert main(["eval", "questions.jsonl", "-m", model, "--json", *flags]) == code
    out, err = capsys.readouterr()
    if code != ExitCode.OK:
        assert out == ""
        return err
    assert out.count("\n") == 1
    document = json.loads(out)
    assert document.pop("seconds") > 0
    return document


def list_ledgers():
    return sorted(Path().glob("questions.eval-*.jsonl"))


def read_answers():
    """What the only ledger of answers holds, by question."""
    (path,) = [each for each in list_ledgers() if '"answer"' in each.read_text()]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["index"]: line["answer"] for line in lines}


def ask(capsys, line, model="bits4"):
    """What `tinyv ask` answers to a line's question."""
    assert main(["ask", line["picture"], line["question"], "-m", model]) == ExitCode.OK
    return capsys.readouterr().out.removesuffix("\n")


def test_answers_are_those_of_ask_and_are_scored(runtimes, capsys):
    answers = [ask(capsys, line) for line in LINES]
    assert len(set(answers)) > 3
    # Two of the references are what the toy says.
    lines = [dict(line) for line in LINES]
    lines[1]["answer"], lines[3]["answer"] = f" {answers[1].upper()}.", answers[3]
    write_questions(lines)
    document = run(capsys)
    assert read_answers() == dict(enumerate(answers))
    assert list(document["tasks"]) == ["what", "colour", "count", "caption", "refer"]
    half = make_share(0.5, 2)
    assert document["tasks"]["what"] == {
        "n": 2,
        "accuracy": 0.5,
        "low": half.low,
        "high": half.high,
        "agreement": None,
        "agreement_low": None,
        "agreement_high": None,
    }
    assert document["tasks"]["count"]["accuracy"] == 1
    assert document["tasks"]["colour"]["accuracy"] == 0
    assert document["all"]["n"] == 6
    assert document["all"]["accuracy"] == pytest.approx(2 / 6)
    assert (document["model"], document["against"]) == ("bits4", None)
    assert document["questions"] == "questions.jsonl"
    assert document["kl_nats"] is document["top1_agreement"] is None


def test_each_picture_is_encoded_once_for_all_its_questions(runtimes, capsys):
    write_questions()
    run(capsys)
    assert runtimes.opened == ["bits4"]
    assert [encoder.n_encoded for encoder in runtimes.encoders] == [2]


def test_two_variants_are_compared_and_never_open_at_once(runtimes, capsys):
    write_questions()
    document = run(capsys, "--against", "bits8")
    assert runtimes.opened == ["bits8", "bits4"]
    assert runtimes.most_alive == 1
    assert [encoder.n_encoded for encoder in runtimes.encoders] == [2, 2]
    here = [ask(capsys, line) for line in LINES]
    there = [ask(capsys, line, "bits8") for line in LINES]
    n_same = sum(a == b for a, b in zip(here, there, strict=True))
    assert document["all"]["agreement"] == pytest.approx(n_same / 6)
    assert document["against"] == "bits8"
    expected = make_share(n_same / 6, 6)
    assert document["all"]["agreement_low"] == expected.low
    assert document["all"]["agreement_high"] == expected.high


def compute_toy_logits(name, line):
    """The logits along a reference answer, from nothing but the toy decoder."""
    variant = read_variant(home.variants_dir() / name)
    tokenizer = Tokenizer(variant.path("tokenizer"))
    spec, template = variant.manifest.spec, TEMPLATES[variant.manifest.template]
    from tinyv_cli.image import hash_pixels, read_picture, to_pixels

    pixels = to_pixels(read_picture(Path(line["picture"])), spec.vision.image_px)
    image = ImageTokens(np.zeros((4, 2), np.float32), hash_pixels(pixels))
    before, after = make_prompt(template, (), line["question"]).pieces
    answer = tokenizer.encode(line["answer"])
    decoder, logits = EchoDecoder(variant.manifest.bits), []
    prompt = [tuple(tokenizer.encode(before)), image, tuple(tokenizer.encode(after))]
    logits.append(decoder.extend(prompt))
    logits += [decoder.extend([(token,)]) for token in answer]
    return np.stack(logits)


def test_logits_along_an_answer_leave_the_prompt_alone_in_the_cache():
    prompt, answer = (1, 2, 3), (4, 5)
    decoder = ToyDecoder(context_length=5)
    decoder.extend([(*prompt, 9)])  # what a session leaves: a prompt and its own answer
    logits = evaluation.compute_logits(decoder, 3, [3, *answer])
    assert decoder.held == [*prompt]
    fresh = ToyDecoder()
    assert (logits[0] == fresh.extend([prompt])).all()
    assert (logits[1] == fresh.extend([(4,)])).all()
    assert (logits[2] == fresh.extend([(5,)])).all()
    with pytest.raises(InputError, match="need 6 positions, the context has 5"):
        evaluation.compute_logits(decoder, 3, [3, *answer, 6])


@pytest.mark.parametrize("block_bytes", [1, 10_000, 1 << 30])
def test_the_divergence_is_that_of_the_other_from_this_along_the_references(
    runtimes, capsys, monkeypatch, block_bytes
):
    make = evaluation.Comparison
    monkeypatch.setattr(
        evaluation, "Comparison", lambda **fields: make(**fields, block_bytes=block_bytes)
    )
    write_questions()
    document = run(capsys, "--against", "bits8")
    divergences, agreements = [], []
    for line in LINES:
        there, here = compute_toy_logits("bits8", line), compute_toy_logits("bits4", line)
        divergences += [*compute_divergences(there, here)]
        agreements += [*(there.argmax(-1) == here.argmax(-1))]
    assert document["kl_nats"] == pytest.approx(np.mean(divergences))
    assert document["kl_nats_low"] < document["kl_nats"] < document["kl_nats_high"]
    assert document["top1_agreement"] == pytest.approx(np.mean(agreements))
    assert runtimes.opened == ["bits8", "bits4"] * (1 if block_bytes > 10_000 else 2)
    assert runtimes.most_alive == 1
    assert [encoder.n_encoded for encoder in runtimes.encoders] in ([2, 2], [1, 1, 1, 1])


def test_a_variant_agrees_with_itself(runtimes, capsys):
    write_questions()
    document = run(capsys, "--against", "bits4")
    assert document["all"]["agreement"] == document["top1_agreement"] == 1
    assert document["kl_nats"] == 0
    assert len(read_answers()) == 6
    assert len(read_lines()) == 6 + 6  # nothing was asked twice


def test_a_finished_evaluation_opens_nothing_again(runtimes, capsys):
    write_questions()
    first = run(capsys, "--against", "bits8")
    runtimes.opened.clear()
    assert run(capsys, "--against", "bits8") == first
    run(capsys)
    run(capsys, model="bits8")
    run(capsys, "--limit", "2")
    assert runtimes.opened == []


@pytest.mark.parametrize("flags", [[], ["--against", "bits8"]])
def test_wherever_it_is_stopped_it_goes_on_and_ends_the_same(runtimes, capsys, flags):
    write_questions()
    expected = run(capsys, *flags)
    answers = [path.read_bytes() for path in list_ledgers()]
    for path in list_ledgers():
        path.unlink()
    for n_steps in itertools.count(1, 7):
        runtimes.interrupt_after = n_steps
        code = main(["eval", "questions.jsonl", "-m", "bits4", "--json", *flags])
        out, err = capsys.readouterr()
        if code == ExitCode.OK:
            break
        assert code == ExitCode.INTERRUPTED
        assert out == ""
        assert "the same command goes on from there" in err
    assert n_steps > 20
    document = json.loads(out)
    assert document.pop("seconds") >= 0
    assert document == expected
    assert [path.read_bytes() for path in list_ledgers()] == answers


@pytest.mark.parametrize("n_bytes", [1, 40, 100])
def test_a_line_that_was_cut_by_a_kill_is_asked_again(runtimes, capsys, n_bytes):
    write_questions()
    expected = run(capsys)
    (path,) = list_ledgers()
    whole = path.read_bytes()
    path.write_bytes(whole[:-n_bytes])
    assert run(capsys) == expected
    assert path.read_bytes() == whole


FOREIGN = '{"index": 6, "answer": "", "question": "", "reference": "", "right": true}'


@pytest.mark.parametrize("line", ["[]", '{"index": 0}', "\x00\x00", FOREIGN])
def test_lines_behind_one_that_makes_no_sense_are_asked_again(runtimes, capsys, line):
    write_questions()
    expected = run(capsys)
    (path,) = list_ledgers()
    whole = path.read_text()
    path.write_text(whole.replace("\n", f"\n{line}\n", 1))
    assert run(capsys) == expected
    assert path.read_text() == whole


def test_it_is_told_how_much_was_done_before(runtimes, capsys):
    write_questions()
    run(capsys, "--limit", "2")
    assert main(["eval", "questions.jsonl", "-m", "bits4"]) == ExitCode.OK
    assert "bits4 has answered 2 of 6 questions before; `--fresh`" in capsys.readouterr().err


def test_fresh_asks_again(runtimes, capsys):
    write_questions()
    run(capsys, "--against", "bits8")
    (path,) = [each for each in list_ledgers() if "kl_sum" in each.read_text()]
    path.write_text(path.read_text().replace('"n_same": ', '"n_same": 1'))
    runtimes.opened.clear()
    document = run(capsys, "--against", "bits8", "--fresh")
    assert runtimes.opened == ["bits8", "bits4"]
    assert document["top1_agreement"] <= 1
    assert len(read_lines()) == 18


def read_lines():
    return [line for path in list_ledgers() for line in path.read_text().splitlines()]


def test_only_the_first_questions_are_asked_with_a_limit(runtimes, capsys):
    write_questions()
    document = run(capsys, "--limit", "3")
    assert document["all"]["n"] == 3
    assert sorted(read_answers()) == [0, 1, 2]
    assert run(capsys)["all"]["n"] == 6
    assert len(read_lines()) == 6


@pytest.mark.parametrize(
    "change", [["-n", "3"], ["--template", "inst"], ["-c", "300"], ["-m", "bits8"]]
)
def test_what_changes_answers_has_answers_of_its_own(runtimes, capsys, change):
    write_questions()
    run(capsys)
    assert main(["eval", "questions.jsonl", "-m", "bits4", *change]) == ExitCode.OK
    assert len(runtimes.opened) == 2
    assert len(list_ledgers()) == 2


def test_a_changed_file_of_questions_and_a_variant_made_again_begin_anew(runtimes, capsys):
    write_questions()
    run(capsys)
    write_questions([*LINES, make_line(question="[vqa] and this?")])
    assert run(capsys)["all"]["n"] == 7
    folder = home.variants_dir() / "bits4"
    manifest = replace(make_manifest(folder, bits=4), made_by="a later tinyv")
    (folder / "manifest.json").write_text(manifest.to_json())
    run(capsys)
    assert len(runtimes.opened) == 3


def test_where_nothing_can_be_written_answers_lie_at_home(runtimes, capsys, monkeypatch, place):
    write_questions()
    real_open = Path.open

    def refuse(path, mode="r", **options):
        if "a" in mode and path.parent.resolve() == place:
            raise PermissionError(13, "Permission denied")
        return real_open(path, mode, **options)

    monkeypatch.setattr(Path, "open", refuse)
    document = run(capsys, "--against", "bits8")
    assert list_ledgers() == []
    kept = list((place / "home" / "evaluations").iterdir())
    assert len(kept) == 3
    assert run(capsys, "--against", "bits8") == document
    assert len(runtimes.opened) == 2


def test_the_table_has_a_line_a_task_and_one_for_all(runtimes, capsys):
    write_questions()
    assert main(["eval", "questions.jsonl", "-m", "bits4"]) == ExitCode.OK
    out, err = capsys.readouterr()
    lines = [line.split("  ")[0] for line in out.splitlines()]
    assert lines == ["task", "what", "colour", "count", "caption", "refer", "all"]
    assert "the answers of bits4 are in questions.eval-" in err
    assert main(["eval", "questions.jsonl", "-m", "bits4", "--against", "bits8"]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "same answer" in out.splitlines()[0]
    assert "logits KL (nats)" in out
    assert "same best token" in out


def test_quiet_leaves_the_figures(runtimes, capsys):
    write_questions()
    assert main(["eval", "questions.jsonl", "-m", "bits4", "-q"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert out != ""
    assert err == ""


def test_help_names_the_verb_with_an_example(capsys):
    assert main(["--help"]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "\n  eval " in out
    assert "\n    tinyv eval" in out


GOOD = json.dumps(make_line())


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nonsense", "it is not JSON (Expecting value at character 1)"),
        ("[1]", "it is not a JSON object"),
        ('{"picture": "cat.png"}', "task is missing"),
        (json.dumps(make_line() | {"answer": 2}), "answer is not a text"),
        (json.dumps(make_line(task="dream")), "there is no task 'dream', there are what, colour"),
        (json.dumps(make_line(task="refer")), "its answer holds no box"),
        (json.dumps(make_line(question=" ")), "the question is blank"),
        (json.dumps(make_line(answer="\ud800")), "surrogates not allowed"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_line_that_cannot_be_asked_is_named(runtimes, capsys, line, problem):
    write_questions([GOOD, "", line])
    err = run(capsys, code=ExitCode.INPUT)
    assert err.startswith("error: line 3 of questions.jsonl ")
    assert problem in err
    assert runtimes.opened == []


def test_blank_lines_and_a_byte_order_mark_are_passed_over(runtimes, capsys):
    Path("questions.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\r\n\r\n{GOOD}".encode())
    assert run(capsys)["all"]["n"] == 2


def test_a_file_that_is_not_there_or_holds_nothing_is_an_error_of_input(runtimes, capsys):
    assert "there is no file questions.jsonl" in run(capsys, code=ExitCode.INPUT)
    write_questions([""])
    assert "questions.jsonl holds no question" in run(capsys, code=ExitCode.INPUT)
    assert main(["eval", "home"]) == ExitCode.INPUT
    assert "home cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("picture", ["bird.png", "\x00", "a" * 5000, ""])
def test_a_missing_picture_is_found_before_anything_is_opened(runtimes, capsys, picture):
    write_questions([GOOD, make_line(picture)])
    err = run(capsys, code=ExitCode.INPUT)
    assert "which line 2 of questions.jsonl asks about" in err
    assert runtimes.opened == []
    assert run(capsys, "--limit", "1")["all"]["n"] == 1


def test_pictures_lie_where_the_file_of_questions_lies(runtimes, capsys, place, monkeypatch):
    write_questions()
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    assert main(["eval", "../questions.jsonl", "-m", "bits4"]) == ExitCode.OK
    assert list(Path().iterdir()) == []


def test_a_question_that_does_not_fit_the_context_is_named(runtimes, capsys):
    write_questions([GOOD, make_line(answer="cat " * 200)])
    err = run(capsys, "--against", "bits8", "-c", "2048", code=ExitCode.OK)
    write_questions([GOOD, make_line(answer="x " * 1500)])
    err = run(capsys, "--against", "bits8", code=ExitCode.INPUT)
    assert "line 2 of questions.jsonl cannot be asked: prompt and answer need" in err
    assert "--ctx-size" in err


def test_a_variant_that_is_missing_is_an_error_of_the_weights(runtimes, capsys):
    write_questions()
    run(capsys, model="none", code=ExitCode.WEIGHTS)
    run(capsys, "--against", "none", code=ExitCode.WEIGHTS)
    (home.variants_dir() / "bits8" / "decoder.data").write_bytes(b"codes and scalez")
    assert "is damaged" in run(capsys, "--against", "bits8", code=ExitCode.WEIGHTS)
    assert runtimes.opened == []


def test_variants_of_different_tokens_cannot_be_compared(runtimes, capsys):
    write_questions()
    manifest = read_variant(home.variants_dir() / "bits4").manifest
    language = replace(manifest.spec.language, vocab_size=400)
    folder = home.variants_dir() / "odd"
    write_variant(folder, spec=replace(manifest.spec, language=language))
    err = run(capsys, "--against", "odd", code=ExitCode.USAGE)
    assert "bits4 and odd have different tokens" in err
