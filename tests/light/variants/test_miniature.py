import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import quantize
from tests.light.toy_variant import make_open_backend, make_script, write_variant
from tests.light.variants.miniature_sources import (
    CHECKPOINT,
    make_sources,
    write_sources,
)
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.disk import places
from tinyv_cli.errors import ExitCode, WeightsError
from tinyv_cli.variants import home, miniature
from tinyv_cli.variants.home import (
    DamagedVariant,
    list_named_variants,
    list_variants,
    resolve_variant,
)
from tinyv_cli.variants.manifest import read_variant
from tinyv_cli.variants.miniature import (
    find_ready_variant,
    find_sources,
    is_miniature,
    read_miniature,
)

ROOT = Path(__file__).resolve().parents[3]
REALLY_DEMO_DIR = ROOT / "weights" / "demo"
FIRST = (
    "a toy that comes with tinyv and knows drawings of 64 kinds of things (`tinyv list -v`); "
    "photographs get made-up answers; the real model: `tinyv pull && tinyv quantize --bits 4`"
)
NOTE = f"note: the miniature answers, {FIRST}\n"


def list_files(folder):
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("TINYV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """An installation that brings a miniature along."""
    folder = tmp_path / "installation" / "demo"
    write_variant(folder / "variant", sources=make_sources())
    write_sources(folder / "sources")
    monkeypatch.setattr(miniature, "miniature_dir", lambda: folder)
    return folder


@pytest.fixture
def say(monkeypatch):
    """A runtime that says yes; what it was asked to open."""
    seen = {}
    monkeypatch.setattr(backends, "open_backend", make_open_backend(make_script("yes"), seen))
    shutil.copy(REALLY_DEMO_DIR / "examples" / "cat.png", "cat.png")
    return seen


def add(name, **changes):
    return write_variant(places.variants_dir() / name, **changes)


def run_ask(*flags):
    return main(["ask", "cat.png", "what?", *flags])


# Which variant is meant


def test_without_a_variant_of_ones_own_the_miniature_is_meant(demo):
    variant = resolve_variant(None)
    assert (variant.name, variant.folder) == ("miniature", demo / "variant")


def test_ones_own_variant_goes_before_the_miniature(demo):
    add("mine", made_s=1)
    assert resolve_variant(None).name == "mine"


def test_the_miniature_can_be_named_beside_ones_own(demo, monkeypatch):
    add("mine")
    assert resolve_variant("miniature").folder == demo / "variant"
    monkeypatch.setenv("TINYV_MODEL", "miniature")
    assert resolve_variant(None).folder == demo / "variant"


def test_ones_own_variant_of_that_name_is_meant_by_it(demo):
    folder = add("miniature")
    assert resolve_variant("miniature").folder == folder
    assert [each.name for each in list_named_variants()] == ["miniature"]


def test_a_folder_of_that_name_right_here_is_meant_by_it(demo):
    write_variant(Path("miniature"))
    assert resolve_variant("miniature").folder == Path("miniature").absolute()


def test_damaged_variants_of_ones_own_are_an_error_and_no_reason_for_the_miniature(demo):
    (add("mine") / "decoder.data").unlink()
    with pytest.raises(WeightsError, match=r"mine/decoder\.data is missing"):
        resolve_variant(None)
    (add("miniature") / "decoder.data").unlink()
    with pytest.raises(WeightsError, match=r"variants/miniature/decoder\.data is missing"):
        resolve_variant("miniature")


@pytest.mark.parametrize("name", [None, "miniature"])
def test_an_installation_without_the_miniature_has_the_errors_it_had(name):
    assert (find_sources(), find_ready_variant(), read_miniature()) == (None, None, None)
    with pytest.raises(WeightsError, match="there is no variant") as caught:
        resolve_variant(name)
    assert caught.value.hint == home.HOW_TO_MAKE_ONE


def test_a_variant_folder_that_only_leftovers_keep_is_no_miniature(demo):
    for path in (demo / "variant").iterdir():
        path.unlink()
    (demo / "variant" / "notes").mkdir()
    assert read_miniature() is None


def test_a_damaged_miniature_is_told_with_the_way_out_that_it_has(demo):
    (demo / "variant" / "decoder.data").unlink()
    with pytest.raises(WeightsError, match="is missing") as caught:
        resolve_variant(None)
    assert "install tinyv again" in caught.value.hint
    assert "quantize" not in caught.value.hint


def test_a_misspelt_miniature_is_understood(demo):
    with pytest.raises(WeightsError) as caught:
        resolve_variant("minature")
    assert caught.value.hint == "did you mean `-m miniature`?"


def test_it_is_found_beside_the_program_wherever_that_lies(tmp_path, demo):
    site = tmp_path / "site-packages"
    shutil.copytree(ROOT / "tinyv_cli", site / "tinyv_cli")
    shutil.copytree(demo, site / "weights" / "demo")
    code = (
        "import sys; from tinyv_cli.app import main; code = main(['list', '--json'])\n"
        "names = {'weights', 'quantize', 'torch', 'onnx', 'onnxruntime', 'numpy'}\n"
        "sys.exit(code or ' '.join(names & set(sys.modules)) or 0)"
    )
    # A package of the same name right here must not be taken for it.
    Path("weights").mkdir()
    Path("weights/__init__.py").write_text("raise RuntimeError")
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    [found] = json.loads(done.stdout)["variants"]
    assert (found["name"], found["folder"]) == (
        "miniature",
        str(site / "weights" / "demo" / "variant"),
    )


def test_in_a_checkout_it_belongs_to_weights():
    code = "from tinyv_cli.variants.miniature import miniature_dir; print(miniature_dir())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == REALLY_DEMO_DIR


# Asking it


def test_the_answer_of_the_miniature_comes_with_one_line_that_says_whose_it_is(demo, say, capsys):
    assert run_ask() == ExitCode.OK
    assert capsys.readouterr() == ("yes\n", NOTE)
    assert say["variant"].folder == demo / "variant"


def test_the_line_is_there_when_it_was_named_and_beside_a_document(demo, say, capsys):
    add("mine")
    assert run_ask("-m", "miniature", "--json") == ExitCode.OK
    out, err = capsys.readouterr()
    assert json.loads(out)["model"] == "miniature"
    assert err == NOTE


def test_the_line_is_there_for_a_variant_of_its_sources_under_another_name(demo, say, capsys):
    add("mine", sources=make_sources(), bits=8)
    assert run_ask() == ExitCode.OK
    note = f"note: mine answers, made of the miniature, {FIRST}\n"
    assert capsys.readouterr() == ("yes\n", note)


@pytest.mark.parametrize(
    "sources",
    [make_sources("c"), make_sources()[:1], ()],
    ids=["another checkpoint", "only a config in common", "no sources"],
)
def test_the_line_is_not_there_for_any_other_variant(demo, say, capsys, sources):
    add("mine", sources=sources)
    assert not is_miniature(resolve_variant("mine"))
    assert run_ask() == ExitCode.OK
    assert capsys.readouterr() == ("yes\n", "")


def test_a_damaged_miniature_is_no_concern_of_ones_own_variant(demo, say, capsys):
    (demo / "variant" / "manifest.json").write_text("{")
    add("mine", sources=make_sources())
    assert run_ask() == ExitCode.OK
    assert capsys.readouterr() == ("yes\n", "")


def test_changed_bytes_of_the_miniature_are_found_before_anything_is_opened(demo, say, capsys):
    (demo / "variant" / "decoder.data").write_bytes(b"codes and scalez")
    assert run_ask() == ExitCode.WEIGHTS
    out, err = capsys.readouterr()
    assert out == ""
    assert "decoder.data is damaged" in err
    assert "hint:  install tinyv again" in err
    assert say == {}


def test_nothing_is_written_where_the_miniature_lies_and_it_is_hashed_once(
    demo, say, capsys, monkeypatch
):
    before = list_files(demo)
    assert run_ask() == ExitCode.OK
    assert list_files(demo) == before
    monkeypatch.setattr("tinyv_cli.variants.hashes.hash_file", pytest.fail)
    assert run_ask() == ExitCode.OK


def test_it_answers_where_nothing_can_be_kept(demo, say, capsys, tmp_path):
    (tmp_path / "home").write_text("a file, so that nothing can be kept under it")
    assert run_ask("-m", str(demo / "variant")) == ExitCode.OK
    assert capsys.readouterr() == ("yes\n", NOTE)


# Measuring and listing it


def test_eval_takes_the_miniature_too_and_says_so_once(demo, say, capsys):
    line = {"picture": "cat.png", "task": "what", "question": "what?", "answer": "yes"}
    Path("questions.jsonl").write_text(json.dumps(line))
    before = list_files(demo)
    assert main(["eval", "questions.jsonl", "--json"]) == ExitCode.OK
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["model"], document["all"]["accuracy"]) == ("miniature", 1)
    assert document["toy"] is True
    assert err.count(NOTE) == 1
    assert list_files(demo) == before
    assert main(["eval", "questions.jsonl", "-q"]) == ExitCode.OK
    assert capsys.readouterr().err == ""


def test_the_miniature_is_the_last_row_of_the_list(demo, capsys):
    add("zebra")
    assert main(["list"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["name", "zebra", "miniature"]
    assert err == ""
    assert [each.name for each in list_variants()] == ["zebra"]


def test_the_list_as_a_document_gives_the_miniature_all_fields(demo, capsys):
    add("zebra")
    assert main(["list", "--json"]) == ExitCode.OK
    own, brought = json.loads(capsys.readouterr().out)["variants"]
    assert own.keys() == brought.keys()
    assert (brought["name"], brought["folder"]) == ("miniature", str(demo / "variant"))
    assert brought["damaged"] is None


def test_a_damaged_miniature_is_listed_with_the_reason(demo, capsys):
    (demo / "variant" / "decoder.data").unlink()
    [found] = list_named_variants()
    assert isinstance(found, DamagedVariant)
    assert main(["list"]) == ExitCode.OK
    missing = demo / "variant" / "decoder.data"
    assert capsys.readouterr().out == f"miniature  damaged: {missing} is missing\n"


# Sources nobody named


@pytest.fixture
def made(monkeypatch, tmp_path):
    """A quantiser that makes nothing; what it was asked."""
    asked = []
    folder = write_variant(tmp_path / "made")
    files = {"decoder": "d.onnx"}
    part = SimpleNamespace(files=files, n_weights=1, size_bytes=1, bits_per_weight=8)
    plan = SimpleNamespace(parts=(part,), size_bytes=1, run_bytes=1, quantise_bytes=1, disk_bytes=1)

    def make_variant(options, progress):
        asked.append(options)
        return SimpleNamespace(
            variant=read_variant(folder),
            plan=plan,
            smoke_picture="a wall",
            smoke_question="what?",
            smoke_answer="yes",
        )

    fake = SimpleNamespace(
        make_variant=make_variant, plan_variant=lambda options: asked.append(options) or plan
    )
    monkeypatch.setattr("tinyv_cli.commands.quantize.find_spec", lambda _: fake)
    monkeypatch.setattr(quantize, "pipeline", fake, raising=False)
    monkeypatch.setitem(sys.modules, "quantize.pipeline", fake)
    return asked


def test_the_users_own_sources_are_taken_where_none_are_named(demo, made, capsys):
    own = write_sources(places.sources_dir())
    assert main(["quantize", "--dry-run"]) == ExitCode.OK
    assert [each.sources for each in made] == [own]
    assert made[0].output == places.variants_dir() / "stage4-4bit"
    assert capsys.readouterr().err == (
        f"note: taking the sources in {own}; `--sources DIR` takes others\n"
    )


@pytest.mark.parametrize("state", ["no folder", "empty", "other files"])
def test_else_the_miniatures_are_taken_and_the_variant_is_called_so(demo, made, capsys, state):
    own = places.sources_dir()
    if state != "no folder":
        own.mkdir(parents=True)
    if state == "other files":
        (own / "notes.txt").write_text("mine")
    assert main(["quantize", "--dry-run", "--bits", "8"]) == ExitCode.OK
    assert [each.sources for each in made] == [demo / "sources"]
    assert made[0].output == places.variants_dir() / "miniature-8bit"
    assert capsys.readouterr().err == (
        f"note: no sources in {own}: `tinyv pull` fetches the real model's; "
        "taking those of the miniature that comes with tinyv, `--sources DIR` takes others\n"
    )


@pytest.mark.parametrize("name", ["eva_vit_g.pth", "phi-2/config.json", f"{CHECKPOINT}.part"])
def test_sources_of_ones_own_that_are_incomplete_are_never_passed_over(demo, made, capsys, name):
    (places.sources_dir() / name).parent.mkdir(parents=True)
    (places.sources_dir() / name).write_text("{}")
    assert main(["quantize"]) == ExitCode.WEIGHTS
    assert f"error: {places.sources_dir()} lacks" in capsys.readouterr().err
    assert made == []


def test_sources_that_are_named_win_and_nothing_is_said_of_others(demo, made, capsys, monkeypatch):
    write_sources(places.sources_dir())
    named = write_sources(Path("named"))
    assert main(["quantize", "--sources", "named", "-q"]) == ExitCode.OK
    monkeypatch.setenv("TINYV_SOURCES", "named")
    assert main(["quantize", "--dry-run"]) == ExitCode.OK
    assert [each.sources for each in made] == [named, named]
    assert capsys.readouterr().err == ""


def test_the_miniatures_sources_give_their_name_also_when_they_are_named(demo, made, capsys):
    path = demo / "variant" / ".." / "sources"
    assert main(["quantize", "--sources", str(path), "--dry-run"]) == ExitCode.OK
    assert made[0].output == places.variants_dir() / "miniature-4bit"
    assert main(["quantize", "-o", "mine", "-q"]) == ExitCode.OK
    assert made[1].output == places.variants_dir() / "mine"
    assert capsys.readouterr().err == ""


def test_where_there_are_no_sources_at_all_the_way_to_them_is_told(made, capsys):
    assert main(["quantize"]) == ExitCode.WEIGHTS
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"error: there are no sources in {places.sources_dir()}, and no other folder was named\n"
        "hint:  fetch them: `tinyv pull`; or name a folder: `tinyv quantize --sources DIR`\n"
    )
    assert made == []
