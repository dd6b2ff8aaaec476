"""Every option that takes a path meets every kind of path, in one process; prints what came of it.

A process of its own, since root's right to pass over permissions is given up for it.
"""

import json
import os
import signal
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from types import ModuleType

from PIL import Image

import quantize
from tests.light.chat.toy_chat import ToyRuntimes
from tests.light.devices.toy_cuda import NO_DRIVER
from tests.light.evaluation.toy_evaluation import make_line
from tests.light.toy_variant import write_picture, write_variant
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.chat import plain_terminal
from tinyv_cli.commands import chat
from tinyv_cli.devices import driver
from tinyv_cli.disk import reading
from tinyv_cli.errors import WeightsError
from tinyv_cli.variants import miniature

PATH = "{}"
HANGS_AFTER_S = 10
VARIANT, PICTURE, TEXT, FOLDER = "variant", "picture", "text", "folder"
QUESTIONS = json.dumps(make_line(picture="/dev/null/no.png")) + "\n"
ASK, BATCH = ["ask", "cat.png", "what?"], ["batch", "cat.png", "what?", "-o"]

# Options by name: what is typed, the ending of the path's name, and what lies there where something
# of the right kind can lie there.
READING = {
    "ask PICTURE": (["ask", PATH, "what?"], ".png", PICTURE),
    "ask PDF": (["ask", PATH, "what?"], ".pdf", None),
    "ask PDF#2": (["ask", f"{PATH}#2", "what?"], ".pdf", None),
    "ask VIDEO": (["ask", PATH, "what?"], ".mp4", None),
    "ask VIDEO@1": (["ask", f"{PATH}@1", "what?"], ".mp4", None),
    "ask --image": (["ask", "--image", PATH, "what?"], ".png", PICTURE),
    "ask --prompt-file": (["ask", "cat.png", "--prompt-file", PATH], ".txt", TEXT),
    "ask --schema": ([*ASK, "--schema", PATH], ".json", None),
    "ask -m": ([*ASK, "-m", PATH], "", VARIANT),
    "chat PICTURE": (["chat", PATH], ".png", PICTURE),
    "chat -m": (["chat", "-m", PATH], "", VARIANT),
    "batch PICTURE": (["batch", PATH, "what?", "-o", "-"], ".png", PICTURE),
    "batch PDF": (["batch", PATH, "what?", "-o", "-"], ".pdf", None),
    "batch list": (["batch", "-", "what?", "-o", "-"], ".png", PICTURE),
    "batch -m": ([*BATCH, "-", "-m", PATH], "", VARIANT),
    "eval QUESTIONS": (["eval", PATH], ".jsonl", None),
    "eval -m": (["eval", "questions.jsonl", "-m", PATH], "", VARIANT),
    "eval --against": (["eval", "questions.jsonl", "--against", PATH], "", VARIANT),
    "bench --against": (["bench", "--against", PATH], ".json", None),
    "bench -m": (["bench", "--chart", "no/such/chart.png", "-m", PATH], "", None),
    "pull VARIANT": (["pull", PATH, "--offline", "--force", "--to", "pulled"], "", VARIANT),
    "pull --from": (["pull", "--from", PATH, "--to", "pulled-sources"], "", None),
    "push NAME": (["push", PATH, "pushed", "--force"], "", VARIANT),
    "quantize --sources": (["quantize", "--sources", PATH], "", None),
    "rm": (["rm", PATH, "-y"], "", None),
    "/image": (["/image {}"], ".png", PICTURE),
    "/load": (["/load {}"], ".json", None),
}
WRITING = {
    "ask --draw": ([*ASK, "--draw", PATH], ".png", None),
    "batch -o": ([*BATCH, PATH], ".jsonl", None),
    "batch --sheet": ([*BATCH, "sheet.jsonl", "--fresh", "--sheet", PATH], ".html", None),
    "push FOLDER": (["push", "bits4", PATH], "", None),
    "bench --chart": (["bench", "--chart", PATH, "-m", "none"], ".png", None),
    "pull --to": (["pull", "--offline", "--to", PATH], "", None),
    "pull VARIANT --to": (["pull", "home/variants/bits4", "--offline", "--to", PATH], "", None),
    "pull --verify --to": (["pull", "--verify", "--to", PATH], "", None),
    "pull --dry-run --to": (["pull", "--dry-run", "--to", PATH], "", None),
    "quantize -o": (["quantize", "--sources", "sources", "-o", PATH], "", None),
    "/save": (["/save {}"], ".json", None),
    "/export md": (["/export md {}"], ".md", None),
    "/export json": (["/export json {}"], ".json", None),
    "/draw": (["/draw {}"], ".png", None),
}
HOME = {
    f"TINYV_HOME {name}": (words, "", FOLDER)
    for name, words in {
        "ask": ASK,
        "ask -m": [*ASK, "-m", "bits4"],
        "chat": ["chat", "cat.png"],
        "batch": [*BATCH, "-"],
        "batch -o": [*BATCH, "home.jsonl", "--fresh"],
        "eval": ["eval", "questions.jsonl"],
        "bench": ["bench", "-m", "none"],
        "list": ["list"],
        "list --json": ["list", "--json"],
        "doctor": ["doctor", "--device", "cpu"],
        "doctor --json": ["doctor", "--json", "--device", "cpu"],
        "rm": ["rm", "none", "-y"],
        "rm --sources": ["rm", "--sources", "-y"],
        "pull": ["pull", "--offline"],
        "pull VARIANT": ["pull", "variant", "--offline", "--force"],
        "pull --dry-run": ["pull", "--dry-run"],
        "pull --verify": ["pull", "--verify"],
        "quantize": ["quantize"],
        "quantize -o": ["quantize", "--sources", "sources", "-o", "new"],
        "/save": ["/save name"],
        "/load": ["/load name"],
    }.items()
}
OPTIONS = {**READING, **WRITING, **HOME}
KINDS = ("locked", "long", "not UTF-8", "folder", "FIFO", "ring", "/dev/full", "read-only")


def put(place, holds):
    """Puts what an option takes at a place, if it can be put there."""
    if holds == VARIANT:
        write_variant(place)
    elif holds == PICTURE:
        write_picture(place)
    elif holds == TEXT:
        place.write_text("what is it?", "utf-8")
    elif holds == FOLDER:
        place.mkdir()


def make_path(kind, folder, suffix, holds, is_read):
    """Makes a path of a kind in an empty folder, and returns it."""
    place = folder / f"path{suffix}"
    if kind == "locked":
        place = folder / "locked" / f"path{suffix}"
        place.parent.mkdir()
        put(place, holds)
        place.parent.chmod(0)
    elif kind == "long":
        place = folder / ("x" * (300 - len(suffix)) + suffix)
    elif kind == "not UTF-8":
        place = folder / os.fsdecode(b"caf\xe9" + suffix.encode())
        put(place, holds)
    elif kind == "folder":
        place.mkdir()
    elif kind == "FIFO":
        os.mkfifo(place)
    elif kind == "ring":
        (folder / "other").symlink_to(place)
        place.symlink_to(folder / "other")
    elif kind == "/dev/full":
        place.symlink_to("/dev/full")
    elif is_read:
        put(place, holds)
        if place.exists():
            place.chmod(place.stat().st_mode & ~0o222)
    else:
        place = folder / "read-only" / f"path{suffix}"
        place.parent.mkdir()
        place.parent.chmod(0o555)
    return place


class HangsError(Exception):
    """A case took longer than any does."""


@contextmanager
def limited():
    def stop(*_):
        raise HangsError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANGS_AFTER_S)
    try:
        yield
    finally:
        signal.alarm(0)


def run(words, path, environment):
    """Runs one command line; returns exit code, stdout and stderr, as a process would show them."""
    words = [each.replace(PATH, str(path)) for each in words]
    entries = []
    if words[0].startswith("/"):
        entries = ["box", words[0], "still there?"]
        words = ["chat", "cat.png"]
    elif words[0] == "chat":
        entries = ["box"]

    def read():
        if not entries:
            raise EOFError
        return entries.pop(0)

    plain_terminal.read_entry = read
    out, err = StringIO(), StringIO()
    stdin, before = sys.stdin, dict(os.environ)
    os.environ.update(environment)
    sys.stdin = TextIOWrapper(BytesIO(os.fsencode(str(path)) + b"\n"))
    try:
        with redirect_stdout(out), redirect_stderr(err), limited():
            code = main(words)
    except Exception as error:  # noqa: BLE001 - what nobody planned for is the finding
        code = f"{type(error).__name__}: {error}"
    finally:
        sys.stdin = stdin
        os.environ.clear()
        os.environ.update(before)
    return code, out.getvalue(), err.getvalue()


def prepare(folder):
    """Makes what the command lines name."""
    os.chdir(folder)
    os.environ["TINYV_HOME"] = str(folder / "home")
    os.environ.pop("TINYV_MODEL", None)
    write_picture(folder / "cat.png")
    Image.new("RGB", (9, 9), "blue").save(folder / "dog.png")
    write_variant(folder / "home" / "variants" / "bits4")
    write_variant(folder / "variant")
    (folder / "questions.jsonl").write_text(json.dumps(make_line()) + "\n", "utf-8")
    (folder / "sources" / "phi-2").mkdir(parents=True)
    names = ("config.json", "model.safetensors", "tokenizer.json")
    stage = "TinyGPT-V_for_Stage4.pth"
    for name in (
        *(f"phi-2/{each}" for each in names),
        *("eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth", stage),
    ):
        (folder / "sources" / name).touch()


def run_all(folder, only=""):
    prepare(folder)
    for name, (words, suffix, holds) in OPTIONS.items():
        for kind in KINDS:
            if only not in f"{name} x {kind}":
                continue
            own = folder / f"case {name.replace('/', '')} {kind.replace('/', '')}"
            own.mkdir()
            path = make_path(kind, own, suffix, holds, name not in WRITING)
            environment = {"TINYV_HOME": str(path)} if name in HOME else {}
            code, out, err = run(words, path, environment)
            case = {"option": name, "kind": kind, "code": code, "out": out, "err": err}
            sys.__stdout__.write(json.dumps(case) + "\n")


def refuse_to_quantize(*_):
    raise WeightsError("these sources hold nothing", "they only have the right names")


def keep_torch_away():
    """Puts a pipeline in the place of quantising, which would load torch to find nothing."""
    pipeline = ModuleType("quantize.pipeline")
    pipeline.make_variant = pipeline.plan_variant = refuse_to_quantize
    sys.modules["quantize.pipeline"] = quantize.pipeline = pipeline


if __name__ == "__main__":
    keep_torch_away()
    reading.WRITER_COMES_WITHIN_S = 0.01
    driver.read_driver = lambda: NO_DRIVER
    driver.has_gpu = lambda: False
    backends.open_backend = ToyRuntimes().open_backend
    miniature.miniature_dir = lambda: Path("/nowhere")
    chat.is_terminal = lambda stream: True
    plain_terminal.is_plain = lambda: True
    run_all(Path(sys.argv[1]), *sys.argv[2:])
