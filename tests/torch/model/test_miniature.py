"""The miniature from sources that need no naming to an answer; random numbers stand in for it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyv_cli.app import main
from tinyv_cli.disk import places
from tinyv_cli.variants import miniature

LINE = "note: {}, a toy"


@pytest.fixture
def demo(tmp_path, monkeypatch, tiny_sources: Path, tiny_model: Path) -> Path:
    """An installation with small sources and their variant, and a user without any."""
    folder = tmp_path / "site-packages" / "weights" / "demo"
    shutil.copytree(tiny_sources, folder / "sources")
    shutil.copytree(tiny_model, folder / "variant")
    monkeypatch.setattr(miniature, "miniature_dir", lambda: folder)
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    colours = np.random.default_rng(1).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    drawing = Image.fromarray(colours).resize((80, 60), Image.Resampling.NEAREST)
    drawing.save("cat.png")
    return folder


def list_files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def ask(capsys, *flags: str) -> tuple[dict[str, object], str]:
    """The document, and what stderr says of anything but the answer's end."""
    capsys.readouterr()
    assert main(["ask", "cat.png", "what?", "-n", "6", "--json", *flags]) == 0
    out, err = capsys.readouterr()
    notes = [line for line in err.splitlines(True) if "the answer was cut" not in line]
    return json.loads(out), "".join(notes)


def test_it_answers_as_a_variant_does_and_writes_nothing_beside_itself(
    demo, tiny_model, monkeypatch, capsys
):
    before = list_files(demo.parent)
    document, err = ask(capsys)
    assert err.count("\n") == 1
    assert err.startswith(LINE.format("the miniature answers"))
    assert document["model"] == "miniature"
    expected, _ = ask(capsys, "-m", str(tiny_model))
    assert document["tokens"] == expected["tokens"]
    assert list_files(demo.parent) == before
    monkeypatch.setattr("tinyv_cli.variants.hashes.hash_file", pytest.fail)
    ask(capsys)


def test_it_answers_where_nothing_can_be_written_at_all(demo, tmp_path, capsys):
    for path in (demo, *demo.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (tmp_path / "home").write_text("a file, so that nothing can be kept under it", "utf-8")
    try:
        _, err = ask(capsys, "-m", str(demo / "variant"))
    finally:
        for path in (demo, *demo.rglob("*")):
            path.chmod(0o755)
    assert err.count("\n") == 1
    assert err.startswith(LINE.format("the miniature answers"))


def test_its_sources_are_quantised_unnamed_into_a_variant_that_is_known_for_what_it_is(
    demo, capsys
):
    before = list_files(demo.parent)
    assert main(["quantize", "-q", "-t", "1"]) == 0
    folder = places.variants_dir() / "miniature-4bit"
    assert capsys.readouterr() == (f"{folder}\n", "")
    document, err = ask(capsys)
    assert document["model"] == "miniature-4bit"
    assert err.count("\n") == 1
    assert err.startswith(LINE.format("miniature-4bit answers, made of the miniature"))
    assert list_files(demo.parent) == before


def test_sources_of_another_training_give_a_variant_that_nothing_is_said_of(demo, capsys):
    checkpoint = demo / "sources" / "TinyGPT-V_for_Stage3.pth"
    own = shutil.copytree(demo / "sources", places.sources_dir())
    write_again(own / checkpoint.name)
    assert main(["quantize", "-q", "-t", "1"]) == 0
    document, err = ask(capsys)
    assert (document["model"], err) == ("stage3-4bit", "")


def write_again(path: Path) -> None:
    """Changes one number of a checkpoint."""
    code = (
        "import sys, torch; path = sys.argv[1]; content = torch.load(path, weights_only=True)\n"
        "next(iter(content.get('model', content).values())).view(-1)[0] += 1\n"
        "torch.save(content, path)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
