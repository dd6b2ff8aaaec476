import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.light.evaluation.toy_evaluation import (
    LINES,
    EchoDecoder,
    ask,
    list_ledgers,
    make_line,
    read_answers,
    run,
    write_questions,
)
from tests.light.toy_variant import make_manifest
from tinyv_cli.answers.generate import ImageTokens
from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.app import main
from tinyv_cli.disk import places
from tinyv_cli.errors import ExitCode
from tinyv_cli.evaluation import evaluate as evaluation
from tinyv_cli.evaluation.divergence import compute_divergences
from tinyv_cli.evaluation.figures import make_share
from tinyv_cli.prompts.prompt import TEMPLATES, make_prompt
from tinyv_cli.variants.manifest import read_variant

pytestmark = pytest.mark.usefixtures("place")


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
        "same_text": None,
        "same_text_low": None,
        "same_text_high": None,
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
    assert document["all"]["same_text"] == pytest.approx(n_same / 6)
    assert document["against"] == "bits8"
    expected = make_share(n_same / 6, 6)
    assert document["all"]["same_text_low"] == expected.low
    assert document["all"]["same_text_high"] == expected.high
    assert n_same / 6 <= document["all"]["agreement"] <= 1


def compute_toy_logits(name, line):
    """The logits along a reference answer, from nothing but the toy decoder."""
    variant = read_variant(places.variants_dir() / name)
    tokenizer = Tokenizer(variant.path("tokenizer"))
    spec, template = variant.manifest.spec, TEMPLATES[variant.manifest.template]
    from tinyv_cli.pictures.image import hash_pixels, read_picture, to_pixels

    pixels = to_pixels(read_picture(Path(line["picture"])), spec.vision.image_px)
    image = ImageTokens(np.zeros((4, 2), np.float32), hash_pixels(pixels))
    before, after = make_prompt(template, (), line["question"]).pieces
    answer = tokenizer.encode(line["answer"])
    decoder, logits = EchoDecoder(variant.manifest.bits), []
    prompt = [tuple(tokenizer.encode(before)), image, tuple(tokenizer.encode(after))]
    logits.append(decoder.extend(prompt))
    logits += [decoder.extend([(token,)]) for token in answer]
    return np.stack(logits)


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
    folder = places.variants_dir() / "bits4"
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
    assert "\n  tinyv eval" in out
