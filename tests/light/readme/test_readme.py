"""The README's commands work as they are printed, one after the other; its pictures are real.

The miniature answers where the real model would: `stage4-4bit` and `stage4-8bit` are copies of it.
Installing, fetching from the hub, and what takes long and has tests of its own (making a variant,
serving, measuring speed) is not run here, only read: its words must be ones that are taken.
"""

import importlib.util
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from tests.demo import DEMO
from tests.light.real_variant import copy_variant
from tinyv_cli.app import app, main
from tinyv_cli.commands.variants import remove as remove_module
from tinyv_cli.disk.places import variants_dir
from tinyv_cli.errors import ExitCode
from tinyv_cli.pictures import opening
from tinyv_cli.prompts import request
from tinyv_cli.variants import miniature

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = [
    [line for line in block.splitlines() if line]
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
]
INSTALLING = re.compile(r"python3 -m venv|\.venv/bin/|pip install|\. \.venv|export AWS_")
ONLY_READ = ("pull", "quantize", "export", "serve", "bench")


def to_command(line):
    """The line without its comment."""
    return re.sub(r"\s+# .*$", "", line)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A checkout's folder with the pictures that the examples speak of."""
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TINYV_MODEL", raising=False)
    monkeypatch.setattr(miniature, "miniature_dir", lambda: DEMO)
    folder = tmp_path / "checkout"
    shutil.copytree(DEMO / "examples", folder / "weights" / "demo" / "examples")
    monkeypatch.chdir(folder)
    return folder


def put_real_ones(folder):
    """Adds what stands for the real model's variants, photographs and questions."""
    for bits in (4, 8):
        copy_variant(variants_dir() / f"stage4-{bits}bit")
    cat = DEMO / "examples" / "cat.png"
    (folder / "photos" / "more").mkdir(parents=True)
    for name in ("cat.jpg", "a.jpg", "b.jpg", "photos/1.jpg", "photos/more/2.jpg"):
        shutil.copy(cat, folder / name)  # known by their content, not their names
    Image.open(cat).convert("RGB").save(folder / "letter.pdf")
    line = {"picture": "cat.jpg", "task": "what", "question": "what is this?", "answer": "a cat"}
    (folder / "questions.jsonl").write_text(json.dumps(line), "utf-8")


def run_line(line, monkeypatch, capsys):
    """Runs a pipeline with one `tinyv` in it; returns what it leaves on stdout."""
    steps = to_command(line).split(" | ")
    place = next(number for number, step in enumerate(steps) if step.startswith("tinyv "))
    before, after = steps[:place], steps[place + 1 :]
    if steps[place].startswith("tinyv chat") and not before:
        before = ["echo 'what is this?'"]  # what somebody types
    if before:
        typed = before[0].replace("pdftotext letter.pdf -", "echo 'Dear Sir'")
        piped = subprocess.run(["bash", "-c", typed], capture_output=True, check=True).stdout
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
    monkeypatch.setattr(request, "is_piped", lambda: bool(before))
    command, _, target = steps[place].partition(" > ")
    words = shlex.split(command.replace(" https://example.org/c.png", ""))[1:]
    code = main(words)
    out, err = capsys.readouterr()
    assert code == ExitCode.OK, f"{line}\n{err}"
    if target:
        Path(target).write_text(out, "utf-8")
    if after and shutil.which("jq"):
        done = subprocess.run(after[0], shell=True, input=out, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout
    return out


def check_words(line):
    """Parses a line that is not run; raises where it holds an option that there is not."""
    verb, *words = shlex.split(to_command(line).partition(" > ")[0])[1:]
    typer.main.get_command(app).commands[verb].make_context(verb, words)


def test_every_block_but_those_that_install_holds_commands_of_this_program():
    lines = [line for block in BLOCKS for line in block]
    assert len(lines) > 25
    for line in lines:
        assert INSTALLING.match(line) or re.search(r"(^|\| )tinyv \w+", line), line
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = set(re.findall(r"\[([a-z]+)\]'|extra `\[([a-z]+)\]`", README))
    assert {a or b for a, b in named} <= set(extras["optional-dependencies"])
    assert len(README.partition("## Try it")[0].splitlines()) < 25


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_a_block_runs_as_it_is_printed(block, place, monkeypatch, capsys):
    pytest.importorskip("pypdfium2")
    monkeypatch.setattr(opening, "is_piped", lambda: False)
    lines = [line for line in BLOCKS[block] if not INSTALLING.match(line)]
    if any(re.search(r"cat\.jpg|stage4", line) for line in lines):
        put_real_ones(place)
    monkeypatch.setattr(remove_module, "is_terminal", lambda _: True)
    for line in lines:
        is_long = to_command(line).split()[1] in ONLY_READ
        is_long = is_long or "--benchmark" in line or "--cluster" in line
        if is_long and line.startswith("tinyv"):
            check_words(line)
        else:
            assert run_line(line, monkeypatch, capsys) or ">" in line or "-o" in line, line


def test_what_the_first_block_answers_is_right(place, monkeypatch, capsys):
    [line] = [each for each in BLOCKS[0] if each.startswith("tinyv")]
    assert run_line(line, monkeypatch, capsys) == "a cat\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="a shell is asked")
def test_the_installing_lines_are_a_shells(tmp_path):
    for block in BLOCKS:
        for line in block:
            assert subprocess.run(["bash", "-nc", line], check=False).returncode == 0, line


def test_the_pictures_at_the_top_are_of_a_real_run(tmp_path, monkeypatch):
    monkeypatch.setattr(miniature, "miniature_dir", lambda: DEMO)
    spec = importlib.util.spec_from_file_location("first_screen", ROOT / "docs" / "first_screen.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    svg, png = maker.make_both(tmp_path)
    texts = [re.findall(r"<text[^>]*>([^<]*)<", each) for each in (svg, read_kept("terminal.svg"))]
    assert texts[0] == texts[1]  # releases of rich draw the frame differently
    made, kept = (
        np.asarray(Image.open(each), np.int16)
        for each in (
            io.BytesIO(png),
            ROOT / "docs" / "boxes.png",
        )
    )
    assert made.shape == kept.shape
    assert np.abs(made - kept).mean() < 1
    assert "url(h" not in read_kept("terminal.svg").replace('"', "")  # no font is fetched


def read_kept(name):
    return (ROOT / "docs" / name).read_text("utf-8")


def test_links_lead_to_files_that_are_there():
    for page in [ROOT / "README.md", *ROOT.glob("tinyv_cli/*/*.md"), *ROOT.glob("docs/*.md")]:
        text = page.read_text("utf-8")
        for link in re.findall(r"\]\(([^)#:]+)\)|src=\"([^\"]+)\"", text):
            assert (page.parent / "".join(link)).exists(), f"{page}: {link}"
