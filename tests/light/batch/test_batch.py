import io
import json
import os
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from tests.light.batch.test_batch_program import ClosableEncoder, make_open_backend, read_lines
from tests.light.toy_decoder import ScriptedDecoder, ToySlots
from tests.light.toy_variant import make_script, write_picture
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.backends.backend import Backend
from tinyv_cli.errors import ExitCode

pytestmark = pytest.mark.usefixtures("place")


@pytest.fixture(autouse=True)
def echo(monkeypatch):
    """A runtime whose answers depend on the picture and on the prompt."""
    monkeypatch.setattr(backends, "open_backend", make_open_backend())


def run(capsys, *words, code=ExitCode.OK, output="out.jsonl"):
    """What is written to stderr, or to stdout if that is the output."""
    n_threads = threading.active_count()
    assert main(["batch", *words, "-o", output, "-m", "bits4", "-n", "5"]) == code
    out, err = capsys.readouterr()
    assert threading.active_count() == n_threads
    if output == "-":
        return out
    assert out == ""
    return err


def put_on_stdin(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def list_paths():
    return [line["path"] for line in read_lines()]


def forbid_opening(monkeypatch):
    def refuse(*_):
        raise AssertionError("the model was opened")

    monkeypatch.setattr(backends, "open_backend", refuse)


def say(monkeypatch, text, n_times=1):
    def open_backend(variant, options, meanwhile):
        encoder = ClosableEncoder()
        meanwhile(encoder, "toy")
        return Backend(encoder, ToySlots(ScriptedDecoder(make_script(text) * n_times)), "toy", 0.1)

    monkeypatch.setattr(backends, "open_backend", open_backend)


def test_a_line_holds_the_answer_of_ask_and_how_it_came_about(capsys):
    run(capsys, "cat.png", "dog.png", "what?")
    texts = Path("out.jsonl").read_text().splitlines()
    for name, text in zip(("cat.png", "dog.png"), texts, strict=True):
        assert main(["ask", name, "what?", "-m", "bits4", "-n", "5", "--json"]) == ExitCode.OK
        asked = json.loads(capsys.readouterr().out)
        line = json.loads(text)
        timings = line.pop("timings")
        assert line == {
            "path": name,
            "answer": asked["answer"],
            "boxes": [],
            "finish_reason": asked["finish_reason"],
            "model": "bits4",
            "toy": False,
        }
        assert set(timings) == {"read", "encode", "prefill", "decode", "total"}
        assert timings["total"] >= timings["read"] + timings["encode"] > 0


def test_boxes_lie_on_the_upright_picture(capsys, monkeypatch):
    picture = Image.new("RGB", (100, 50))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save("turned.jpg", exif=exif)
    say(monkeypatch, "<p>cat</p> {<10><20><50><60>}")
    assert main(["batch", "turned.jpg", "where?", "-o", "out.jsonl"]) == ExitCode.OK
    (box,) = read_lines()[0]["boxes"]
    assert box == {"label": "cat", "box": [0.1, 0.2, 0.5, 0.6], "pixels": [5, 20, 25, 60]}
    assert capsys.readouterr().out == ""


def test_folders_are_sorted_and_sub_folders_are_asked_for(capsys, place):
    for name in ("b.JPG", "a.png", "sub/c.webp", ".hidden.png", ".git/d.png", "notes.txt"):
        path = place / "album" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    run(capsys, "album", "what?", code=ExitCode.BATCH)
    assert list_paths() == ["album/a.png", "album/b.JPG"]
    run(capsys, "-r", "album", "cat.png", "what?", code=ExitCode.BATCH)
    assert list_paths() == ["album/a.png", "album/b.JPG", "album/sub/c.webp", "cat.png"]


def test_patterns_that_no_shell_has_filled_in_are_filled_in(capsys, place):
    (place / "deep" / "er").mkdir(parents=True)
    write_picture(place / "deep" / "er" / "x.png")
    write_picture(place / "a[1].png")
    run(capsys, "a[1].png", "[cd]*.png", "deep/**/*.png", "what?")
    assert list_paths() == ["a[1].png", "cat.png", "dog.png", "deep/er/x.png"]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\0"])
def test_a_list_of_paths_is_read_from_stdin(capsys, monkeypatch, ends):
    names = ["cat.png", "", "gone.png", "./dog.png", "cat.png"]
    put_on_stdin(monkeypatch, "".join(f"{name}{ends}" for name in names).encode())
    run(capsys, "-", "what?", code=ExitCode.BATCH)
    assert list_paths() == ["cat.png", "gone.png", "dog.png"]
    assert read_lines()[1]["error"]["problem"] == "there is no file gone.png"


def test_a_name_that_is_not_utf_8_survives(capsys, monkeypatch, place):
    name = b"caf\xe9.png"
    write_picture(place / os.fsdecode(name))
    put_on_stdin(monkeypatch, name + b"\n")
    run(capsys, "-", "what?")
    (path,) = list_paths()
    assert os.fsencode(path) == name
    put_on_stdin(monkeypatch, name + b"\n")
    assert "1 of 1 pictures have their line" in run(capsys, "-", "what?")
    assert len(read_lines()) == 1


def test_a_picture_is_answered_once_however_its_folder_is_written(capsys, place):
    (place / "sub").mkdir()
    (place / "link.png").symlink_to("cat.png")
    (place / "here").symlink_to(".")
    words = ["cat.png", "./cat.png", "sub/../cat.png", str(place / "cat.png"), "here/cat.png"]
    run(capsys, *words, "link.png", "what?")
    assert list_paths() == ["cat.png", "link.png"]
    run(capsys, "sub/../cat.png", "here/link.png", "what?")
    assert list_paths() == ["cat.png", "link.png"]


@pytest.mark.parametrize(
    ("words", "problem", "hint"),
    [
        (["cat.png", "gone.png", "what?"], "there is no file or folder gone.png", "the prompt is"),
        (["cat.png", "is", "it?"], "there is no file or folder is", "in quotes, and the last"),
        (["*.tif", "what?"], "nothing matches *.tif", "in quotes"),
        (["empty", "what?"], "there is no picture in empty", "`-r` looks through sub-folders too"),
        (["-r", "empty", "what?"], "there is no picture in empty", "another folder"),
        (["cat.png", " "], "the question is blank", "ask something"),
    ],
)
def test_what_names_no_picture_is_said_before_anything_is_made(
    capsys, monkeypatch, place, words, problem, hint
):
    (place / "empty").mkdir()
    forbid_opening(monkeypatch)
    err = run(capsys, *words, code=ExitCode.INPUT)
    assert f"error: {problem}\n" in err
    assert hint in err
    assert not list(place.glob("out*"))


def test_a_forgotten_prompt_is_noticed(capsys, monkeypatch):
    forbid_opening(monkeypatch)
    err = run(capsys, "cat.png", "dog.png", code=ExitCode.USAGE)
    assert "error: the prompt, which comes last, is the file dog.png\n" in err


def test_the_prompt_may_come_from_stdin(capsys, monkeypatch):
    run(capsys, "cat.png", "is it\na cat?")
    expected = read_lines()
    put_on_stdin(monkeypatch, b"is it\na cat?\n")
    run(capsys, "cat.png", "-", output="other.jsonl")
    assert read_lines("other.jsonl") == expected
    err = run(capsys, "-", "-", code=ExitCode.USAGE)
    assert "pictures and prompt cannot both come from stdin" in err


def test_a_prompt_on_stdin_that_is_no_text_is_refused(capsys, monkeypatch):
    put_on_stdin(monkeypatch, b"is it a caf\xe9?\n")
    assert main(["batch", "cat.png", "-", "-o", "b.jsonl"]) == ExitCode.INPUT
    assert "the prompt on stdin is not UTF-8 text" in capsys.readouterr().err


def test_a_broken_picture_stops_nothing_and_can_be_asked_about_again(capsys, place, monkeypatch):
    (place / "bad.png").write_bytes((place / "cat.png").read_bytes()[:40])
    err = run(capsys, "bad.png", "cat.png", "what?", code=ExitCode.BATCH)
    assert "error: 1 of 2 pictures have no answer\n" in err
    assert "jq -c 'select(.error)' out.jsonl" in err
    bad, cat = read_lines()
    assert set(bad) == {"path", "error", "model", "toy"}
    assert bad["error"]["problem"].startswith("bad.png is damaged: ")
    assert bad["error"]["hint"]
    write_picture(place / "bad.png")
    with monkeypatch.context() as patch:
        forbid_opening(patch)
        run(capsys, "bad.png", "cat.png", "what?", code=ExitCode.BATCH)
    run(capsys, "bad.png", "cat.png", "what?", "--retry")
    again, mended = read_lines()
    assert again == cat
    assert mended["path"] == "bad.png"
    assert mended["answer"]


def test_pictures_added_later_are_asked_about_alone(capsys):
    run(capsys, "cat.png", "what?")
    before = Path("out.jsonl").read_bytes()
    err = run(capsys, "dog.png", "cat.png", "what?")
    assert "1 of 2 pictures have their line in out.jsonl" in err
    assert "note: 1 pictures in" in err
    assert Path("out.jsonl").read_bytes().startswith(before)
    assert list_paths() == ["cat.png", "dog.png"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["what else?"], "prompt 'what?'"),
        (["what?", "--temp", "0.5", "--seed", "1"], "temp 0.0, seed unset"),
        (["what?", "--template", "inst"], "template human"),
        (["what?", "-c", "300"], "ctx-size unset"),
        (["what?", "-n", "6"], "max_tokens 5"),
        (["what?", "-m", "bits8"], "model bits4"),
    ],
)
def test_other_settings_are_refused_and_fresh_starts_again(capsys, monkeypatch, words, told):
    run(capsys, "cat.png", "what?")
    before = read_lines()
    forbid = pytest.MonkeyPatch()
    forbid_opening(forbid)
    changed = ["batch", "-o", "out.jsonl", "cat.png", "-m", "bits4", "-n", "5", *words]
    assert main(changed) == ExitCode.USAGE
    forbid.undo()
    err = capsys.readouterr().err
    assert f"error: out.jsonl was begun with other settings: {told}\n" in err
    assert "`--fresh`" in err
    assert read_lines() == before
    assert main([*changed, "--fresh"]) == ExitCode.OK
    capsys.readouterr()
    assert len(read_lines()) == 1
    assert main(changed) == ExitCode.OK
    assert "1 of 1 pictures have their line" in capsys.readouterr().err


def test_relative_paths_go_on_in_their_own_folder_only(capsys, place, monkeypatch):
    run(capsys, "cat.png", "what?")
    other = place / "other"
    other.mkdir()
    write_picture(other / "cat.png")
    monkeypatch.chdir(other)
    err = run(capsys, "cat.png", "what?", code=ExitCode.USAGE, output="../out.jsonl")
    assert f"other settings: pictures below {place}\n" in err


def test_a_variant_that_was_made_again_is_another_one(capsys, place):
    run(capsys, "cat.png", "what?")
    manifest = place / "home" / "variants" / "bits4" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("tinyv test", "tinyv more"))
    assert "settings: an older bits4\n" in run(capsys, "cat.png", "what?", code=ExitCode.USAGE)


@pytest.mark.parametrize("n_bytes", [1, 30, 150])
def test_a_line_that_a_kill_cut_is_asked_again(capsys, n_bytes):
    run(capsys, "cat.png", "dog.png", "what?")
    expected = read_lines()
    whole = Path("out.jsonl").read_bytes()
    Path("out.jsonl").write_bytes(whole[:-n_bytes])
    run(capsys, "cat.png", "dog.png", "what?")
    assert read_lines() == expected


def test_a_file_without_a_whole_line_begins_anew(capsys):
    run(capsys, "cat.png", "what?")
    for content in (b"", b'{"path": "c'):
        Path("out.jsonl").write_bytes(content)
        run(capsys, "cat.png", "what?")
        assert list_paths() == ["cat.png"]


def test_a_line_in_the_middle_that_makes_no_sense_is_refused(capsys):
    run(capsys, "cat.png", "dog.png", "what?")
    first, second = Path("out.jsonl").read_text().splitlines(keepends=True)
    Path("out.jsonl").write_text(f"{first}{{}}\n{second}")
    err = run(capsys, "cat.png", "dog.png", "what?", code=ExitCode.USAGE)
    assert "error: line 2 of out.jsonl was not written by tinyv batch\n" in err
    assert "hint:  remove it: `sed -i 2d" in err
    assert len(Path("out.jsonl").read_text().splitlines()) == 3


def test_what_no_batch_has_written_is_never_replaced(capsys, place):
    (place / "thesis.txt").write_text("all my work\n")
    for flags in ([], ["--fresh"]):
        run(capsys, "cat.png", "what?", *flags, code=ExitCode.USAGE, output="thesis.txt")
    assert (place / "thesis.txt").read_text() == "all my work\n"
    picture = (place / "dog.png").read_bytes()
    words = ["cat.png", "dog.png", "what?", "--fresh"]
    err = run(capsys, *words, code=ExitCode.USAGE, output="dog.png")
    assert "the output dog.png is one of the pictures" in err
    assert (place / "dog.png").read_bytes() == picture


def test_a_refused_output_leaves_no_settings_beside_it(capsys, place):
    (place / "thesis.txt").write_text("all my work\n")
    run(capsys, "cat.png", "what?", code=ExitCode.USAGE, output="thesis.txt")
    assert [each.name for each in place.glob("thesis*")] == ["thesis.txt"]


def test_a_full_disk_while_a_batch_begins_is_no_bug(capsys, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tinyv_cli.batch.output.write_settings", refuse)
    forbid_opening(monkeypatch)
    err = run(capsys, "cat.png", "what?", code=ExitCode.DEVICE)
    assert "error: out.jsonl cannot be written: no space left on device\n" in err


def test_an_output_that_cannot_be_written_is_said_first(capsys, monkeypatch, place):
    forbid_opening(monkeypatch)
    (place / "folder").mkdir()
    assert "is not a regular file" in run(
        capsys, "cat.png", "what?", code=ExitCode.USAGE, output="folder"
    )
    err = run(capsys, "cat.png", "what?", code=ExitCode.DEVICE, output="cat.png/out.jsonl")
    assert "error: cat.png/out.jsonl cannot be written: " in err


def test_a_number_out_of_its_range_is_refused_before_a_file_is_begun(capsys, place):
    err = run(capsys, "cat.png", "what?", "--top-p", "2", code=ExitCode.USAGE, output="new/a.jsonl")
    assert "--top-p" in err
    assert not (place / "new").exists()


def test_lines_go_to_stdout_when_asked_and_nothing_is_kept(capsys, place):
    before = sorted(place.iterdir())
    out = run(capsys, "cat.png", "dog.png", "what?", output="-")
    assert [json.loads(line)["path"] for line in out.splitlines()] == ["cat.png", "dog.png"]
    assert sorted(place.iterdir()) == before


def test_sidecars_lie_beside_their_pictures_and_are_put_back(capsys, monkeypatch, place):
    (place / "bad.png").write_bytes(b"")
    words = ["bad.png", "cat.png", "dog.png", "what?"]
    run(capsys, *words, code=ExitCode.BATCH)
    forbid_opening(monkeypatch)
    _, cat, dog = read_lines()
    for _ in range(2):
        run(capsys, *words, "--sidecar", code=ExitCode.BATCH)
        assert (place / "cat.txt").read_text() == cat["answer"] + "\n"
        assert (place / "dog.txt").read_text() == dog["answer"] + "\n"
        (place / "cat.txt").unlink()
    assert sorted(path.name for path in place.glob("*.t*")) == ["dog.txt"]


def test_files_that_are_called_as_temporary_ones_might_be_stay(capsys, place):
    # The fault: `--sidecar` removed the user's cat.txt.tmp, `--retry` out.jsonl.tmp (issue 14).
    for name in ("cat.txt.tmp", "out.jsonl.tmp", "out.jsonl.settings.tmp"):
        (place / name).write_text("mine")
    (place / "bad.png").write_bytes(b"")
    words = ["bad.png", "cat.png", "what?"]
    run(capsys, *words, "--sidecar", code=ExitCode.BATCH)
    run(capsys, *words, "--sidecar", "--retry", code=ExitCode.BATCH)
    assert list_paths() == ["cat.png", "bad.png"]
    assert {each.name: each.read_text() for each in place.glob("*.tmp")} == {
        "cat.txt.tmp": "mine",
        "out.jsonl.tmp": "mine",
        "out.jsonl.settings.tmp": "mine",
    }
    assert [each.name for each in place.glob(".*")] == []


def test_texts_of_somebody_else_stay(capsys, place):
    (place / "dog.txt").write_text("mine")
    words = ["cat.png", "dog.png", "what?", "--sidecar"]
    err = run(capsys, *words, code=ExitCode.USAGE)
    assert "error: dog.txt is there already\nhint:  move it away" in err
    assert (place / "dog.txt").read_text() == "mine"
    assert not (place / "cat.txt").exists()
    run(capsys, *words, "--fresh")
    assert (place / "dog.txt").read_text() == read_lines()[1]["answer"] + "\n"


def test_two_pictures_do_not_share_a_text(capsys, place):
    Image.new("RGB", (8, 8)).save("cat.jpg")
    err = run(capsys, "cat.jpg", "cat.png", "what?", "--sidecar", code=ExitCode.USAGE)
    assert "the answers about cat.jpg and cat.png would both go to cat.txt" in err


def test_answers_that_were_cut_are_counted(capsys, monkeypatch):
    say(monkeypatch, "a cat on a mat", 2)
    err = run(capsys, "cat.png", "what?")
    assert "note: 1 answers were cut after 5 tokens; `-n 10` allows more\n" in err
    assert run(capsys, "cat.png", "dog.png", "what?", "-q", "--fresh", output="quiet.jsonl") == ""
