"""`tinyv batch --sheet` makes a page that holds everything, and nothing that runs."""

import base64
import io
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.light.batch.test_batch import echo, run, say  # noqa: F401 - a fixture
from tinyv_cli.app import main
from tinyv_cli.batch.sheet import make_thumbnail
from tinyv_cli.errors import ExitCode
from tinyv_cli.variants.miniature import IN_SHORT

pytestmark = pytest.mark.usefixtures("place")

WORDS = ["what?", "--sheet", "sheet.html"]
AT_LENGTH = ["-o", "out.jsonl", "-m", "bits4", "--parallel", "1"]


class Page(HTMLParser):
    """Tags with their attributes, and the text of each picture's part."""

    def __init__(self, path="sheet.html"):
        super().__init__()
        self.tags, self.texts = [], []
        self._is_style = False
        self.feed(Path(path).read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._is_style = tag == "style"
        if tag == "figure":
            self.texts.append("")

    def handle_data(self, data):
        if self.texts and not self._is_style:
            self.texts[-1] += data

    def find(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def test_the_page_shows_pictures_answers_boxes_and_errors_in_their_order(
    capsys, monkeypatch, place
):
    Image.new("RGB", (800, 400), "red").save("red.png")
    (place / "bad.png").write_bytes(b"")
    say(monkeypatch, "<p>a cat</p> {<10><20><50><60>} here", 2)
    assert main(["batch", "red.png", "bad.png", "cat.png", *WORDS, *AT_LENGTH]) == ExitCode.BATCH
    assert "note: sheet.html shows all of them" in capsys.readouterr().err
    page = Page()
    assert page.texts[0] == "1a cat 1 herered.png\n"
    assert page.texts[1].startswith("no picturebad.png is empty")
    assert page.texts[2].rstrip() == "1a cat 1 herecat.png"
    assert [each["class"] for each in page.find("figure")] == ["boxed", "failed", "boxed"]
    frame = page.find("rect")[1]
    assert [frame[key] for key in ("x", "y", "width", "height")] == ["10", "20", "40", "40"]
    first, _ = page.find("img")
    with Image.open(io.BytesIO(base64.b64decode(first["src"].partition(",")[2]))) as thumbnail:
        assert thumbnail.size == (384, 192)
        red, green, blue = thumbnail.convert("RGB").getpixel((5, 5))
        assert red > 240
        assert green + blue < 20


HOSTILE = [
    "<script>alert(1)<|script>.png",
    '"onerror=alert(1) x=".png',
    "javascript:alert(1).png",
    "&lt;b&gt; 'x' #1?%41.png",
]


def test_names_and_answers_are_text_whatever_they_hold(monkeypatch, place):
    for name in HOSTILE:
        shutil.copy("cat.png", name)
    shutil.copy("cat.png", os.fsencode(place) + b"/caf\xe9.png")
    said = "</p><script>alert(1)</script><img src=x onerror=alert(1)>"
    say(monkeypatch, said, len(HOSTILE) + 1)
    prompt = "</title><script>alert(1)</script>"
    files = [*HOSTILE, os.fsdecode(b"caf\xe9.png")]
    assert main(["batch", *files, prompt, "--sheet", "sheet.html", *AT_LENGTH]) == ExitCode.OK
    page = Page()
    allowed = {"html", "meta", "title", "style", "input", "header", "h1", "dl", "dt", "dd", "nav"}
    allowed |= {"label", "b", "main", "figure", "div", "a", "span", "img", "figcaption", "p"}
    assert {tag for tag, _ in page.tags} <= allowed | {"footer", "svg", "rect"}
    attributes = {name for _, each in page.tags for name in each}
    assert not {each for each in attributes if each.startswith("on")}
    for text, name in zip(page.texts, HOSTILE, strict=False):
        assert said in text
        assert name in text
    assert "caf?.png" in page.texts[-1]
    assert all(each["src"].startswith("data:image/jpeg;base64,") for each in page.find("img"))
    assert [each["alt"] for each in page.find("img")][:-1] == HOSTILE
    assert all(each["href"].startswith("./") for each in page.find("a"))
    assert page.find("a")[2]["href"] == "./javascript%3Aalert%281%29.png"
    assert page.find("a")[4]["href"] == "./caf%E9.png"
    policy = next(each for each in page.find("meta") if "http-equiv" in each)["content"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "url(" not in "".join(Path("sheet.html").read_text("utf-8").split("base64"))


def test_a_finished_batch_gets_its_page_without_the_model(capsys, monkeypatch, place):
    run(capsys, "dog.png", "what?")
    run(capsys, "cat.png", *WORDS)  # earlier lines come last
    names = [text.rstrip("\n")[-7:] for text in Page().texts]
    assert names == ["cat.png", "dog.png"]
    whole = Path("sheet.html").read_bytes()
    Path("sheet.html").unlink()
    monkeypatch.setattr("tinyv_cli.backends.opening.open_backend", None)
    run(capsys, "cat.png", *WORDS)
    assert Path("sheet.html").read_bytes() == whole
    (place / "dog.png").unlink()
    with Path("out.jsonl").open("a") as lines:
        lines.write('{"path": "cut by a ki')
    run(capsys, "cat.png", *WORDS)
    assert len(Page().texts) == 2
    assert "no picture" in Page().texts[1]


def test_a_page_is_written_whole_or_not_at_all(capsys, monkeypatch, place):
    run(capsys, "cat.png", *WORDS)
    whole = Path("sheet.html").read_bytes()

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tinyv_cli.batch.sheet.make_thumbnail", refuse)
    err = run(capsys, "cat.png", *WORDS, code=ExitCode.DEVICE)
    assert "error: sheet.html cannot be written: no space left on device\n" in err
    assert Path("sheet.html").read_bytes() == whole
    assert not list(place.glob(".tinyv*"))


@pytest.mark.parametrize(
    ("sheet", "output", "problem"),
    [
        ("mine.html", "out.jsonl", "mine.html is there already, and no page of a batch"),
        ("cat.png", "out.jsonl", "cat.png is there already, and no page of a batch"),
        ("home", "out.jsonl", "home is there already, and no page of a batch"),
        ("gone/sheet.html", "out.jsonl", "there is no folder gone"),
        ("sheet.html", "-", "--sheet is made of a file of lines"),
        ("out.jsonl", "out.jsonl", "--sheet and -o name the same file"),
    ],
)
def test_a_page_replaces_nothing_but_a_page(capsys, place, sheet, output, problem):
    (place / "mine.html").write_text("<h1>mine</h1>")
    words = ["cat.png", "what?", "--sheet", sheet]
    assert main(["batch", *words, "-o", output, "-m", "bits4"]) == ExitCode.USAGE
    assert f"error: {problem}" in capsys.readouterr().err
    assert (place / "mine.html").read_text() == "<h1>mine</h1>"
    assert not list(place.glob("out*"))


@pytest.mark.parametrize("size", [(1200, 900), (3000, 20), (2, 2)])
def test_a_thumbnail_is_small_whatever_the_picture(size):
    noise = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), np.uint8)
    thumbnail = make_thumbnail(Image.fromarray(noise))
    assert 300 * 4 / 3 * len(thumbnail) < 10_000_000
    with Image.open(io.BytesIO(thumbnail)) as shown:
        assert max(shown.size) == min(384, max(size))


@pytest.mark.parametrize("is_toy", [False, True])
def test_a_page_says_that_a_toy_answered(capsys, monkeypatch, is_toy):
    monkeypatch.setattr("tinyv_cli.engine.is_miniature", lambda variant: is_toy)
    run(capsys, "cat.png", *WORDS)
    assert (IN_SHORT in Path("sheet.html").read_text("utf-8")) == is_toy
