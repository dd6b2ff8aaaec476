import base64
import io
import math
import subprocess
import sys
import threading
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tinyv_cli.errors import InputError, UsageError
from tinyv_cli.pictures import opening as pictures
from tinyv_cli.pictures.opening import Access, check_words, open_picture, read_content

NEAR = Access(allow_private=True)


def make_picture(colour="red", size=(8, 6), kind="PNG"):
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def site():
    """A server of a few paths; `path` → (content type, content)."""
    content, asked = {}, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            kind, body = content[self.path]
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()

    def put(path, kind, body):
        content[path] = kind, body
        return f"http://127.0.0.1:{server.server_port}{path}"

    put.asked = asked
    yield put
    server.shutdown()
    thread.join()
    server.server_close()


def fails(word, access=NEAR):
    with pytest.raises(InputError) as caught:
        open_picture(word, access)
    return caught.value


def colour_of(picture):
    assert picture.mode == "RGB"
    return picture.getpixel((picture.width // 2, picture.height // 2))


# Files and stdin


def test_a_path_is_a_file(folder):
    (folder / "cat.png").write_bytes(make_picture())
    assert open_picture("cat.png").size == (8, 6)
    assert "there is no file dog.png" in fails("dog.png").problem


def test_a_dash_is_what_stdin_holds(folder):
    assert colour_of(open_picture("-", Access(stdin=make_picture))) == (255, 0, 0)
    assert "is empty" in fails("-", Access(stdin=lambda: b"")).problem


def test_what_is_to_be_known_of_a_picture_is_noted(folder):
    values = np.arange(0, 4096, 4, dtype=np.uint16).reshape(32, 32)
    Image.fromarray(values).save(folder / "12.png")
    notes = []
    open_picture("12.png", Access(note=notes.append))
    assert notes == ["12.png uses 12 bits of its words of 16, white is 4095"]


def test_stdin_of_the_process_is_read_and_a_closed_one_is_empty():
    code = "from tinyv_cli.pictures.opening import open_picture; print(open_picture('-').size)"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, input=make_picture(), capture_output=True, check=True)
    assert done.stdout == b"(8, 6)\n"
    closed = "import sys; sys.stdin = None\nfrom tinyv_cli.pictures.opening import read_stdin\n"
    done = subprocess.run([sys.executable, "-c", f"{closed}assert read_stdin() == b''"], check=True)


def test_several_words_may_name_stdin_once():
    check_words(["cat.png", "-", "http://h/x.png"])
    with pytest.raises(UsageError, match="given twice"):
        check_words(["-", "cat.png", "-"])


# URLs


def test_a_url_is_the_picture_that_pillow_finds_there(site):
    url = site("/cat", "text/html", make_picture(kind="JPEG"))
    assert open_picture(url, NEAR).size == (8, 6)


def test_what_pillow_cannot_read_is_no_picture_whatever_its_type(site):
    error = fails(site("/cat.png?key=hidden", "image/png", b"<html>no</html>"))
    assert "/cat.png?key=***: the given picture is not a picture Pillow can read" in error.problem
    assert "hidden" not in error.problem
    assert "curl -L URL" in error.hint


def test_half_a_picture_and_nothing_are_told(site):
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(whole, "PNG")
    assert "damaged" in fails(site("/half.png", "image/png", whole.getvalue()[:3000])).problem
    assert "is empty" in fails(site("/none.png", "image/png", b"")).problem


def test_addresses_nearby_need_leave(site):
    url = site("/cat.png", "image/png", make_picture())
    assert "--allow-private" in fails(url, Access()).hint


def test_offline_fetches_nothing_and_says_so_before_anything_else(site):
    url = site("/cat.png", "image/png", make_picture())
    offline = Access(allow_private=True, offline=True)
    assert "TINYV_OFFLINE" in fails(url, offline).hint
    with pytest.raises(InputError, match="--offline was asked for"):
        check_words(["cat.png", url], offline)
    check_words(["cat.png", "-"], offline)
    assert site.asked == []


@pytest.mark.parametrize("word", ["file:///etc/passwd", "ftp://h/x.png", "FILE:///x", "s3://b/x"])
def test_other_schemes_are_refused_with_a_way_out(word):
    error = fails(word)
    assert "pictures are not fetched from" in error.problem
    assert "by its path" in error.hint
    with pytest.raises(InputError, match="are not fetched from"):
        check_words([word])


# Pages


@pytest.fixture
def document(folder):
    pytest.importorskip("pypdfium2")
    pages = [Image.new("RGB", (100, 50), colour) for colour in ("red", "lime", "blue")]
    pages[0].save(folder / "a b.pdf", save_all=True, append_images=pages[1:])
    return folder / "a b.pdf"


def test_a_page_is_drawn_by_its_number_and_the_first_without(document):
    assert colour_of(open_picture("a b.pdf")) == colour_of(open_picture("a b.pdf#1"))
    red, blue = colour_of(open_picture("a b.pdf")), colour_of(open_picture(f"{document}#3"))
    assert red[0] > 200 > 60 > red[2]
    assert blue[2] > 200 > 60 > blue[0]
    assert open_picture("a b.pdf#2").size == (pictures.PAGE_PX, pictures.PAGE_PX // 2)


def test_a_pdf_is_known_by_its_content_whatever_it_is_called(document, site):
    """Source: PDFs were known by their suffix alone, also by `batch`, lists, stdin and URLs."""
    content = document.read_bytes()
    shown = open_picture("a b.pdf").tobytes()
    (document.parent / "scan.jpg").write_bytes(content)
    (document.parent / "late").write_bytes(b"\n\x1b%-12345X@PJL\n" + content)
    url = site("/x", "image/png", content)
    inline = "data:application/pdf;base64," + base64.b64encode(content).decode()
    for word in ("scan.jpg", "scan.jpg#1", "late", url, inline):
        assert open_picture(word, NEAR).tobytes() == shown
    assert open_picture("-", Access(stdin=lambda: content)).tobytes() == shown
    assert read_content(content).tobytes() == shown
    assert colour_of(open_picture("scan.jpg#3"))[2] > 200


def test_a_picture_called_a_pdf_is_a_picture(folder):
    (folder / "photo.pdf").write_bytes(make_picture(kind="JPEG"))
    assert open_picture("photo.pdf").size == (8, 6)
    png_of_pdfs = PngInfo()
    png_of_pdfs.add_text("Title", "%PDF-1.7")
    Image.new("RGB", (9, 7)).save(folder / "text.png", pnginfo=png_of_pdfs)
    assert open_picture("text.png").size == (9, 7)


def test_a_page_that_is_not_there_is_told(document):
    for page in ("0", "4", "999999999"):
        assert f"has 3 pages, there is no page {page}" in fails(f"a b.pdf#{page}").problem
    assert "there is no file none.pdf" in fails("none.pdf#2").problem


def test_what_is_only_called_a_pdf_is_told(document):
    document.write_bytes(b"%PDF-1.7 and no more")
    error = fails("a b.pdf#2")
    assert "a b.pdf is not a PDF that can be read" in error.problem
    assert "pdftoppm -png 'a b.pdf'" in error.hint


def test_a_file_whose_name_looks_like_a_page_is_the_file(folder):
    for name in ("plan.pdf#2", "x.mp4@3", "cat.png#1"):
        (folder / name).write_bytes(make_picture())
        assert open_picture(name).size == (8, 6)
    assert "there is no file dog.png#1" in fails("dog.png#1").problem


# Videos


def write_video(path, colours, rate=2, **stream_options):
    """A video of one colour a frame."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as video:
        stream = video.add_stream("mpeg4", rate=rate)
        stream.width, stream.height = 64, 32
        stream.gop_size = 4
        for name, value in stream_options.items():
            getattr(stream, name)(value)
        for i, colour in enumerate(colours):
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 32), colour))
            frame.pts, frame.time_base = i, Fraction(1, rate)
            video.mux(stream.encode(frame))
        video.mux(stream.encode(None))
    return path


def to_level(picture):
    return round(np.mean(np.asarray(picture)) / 20)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "AVI"])
def test_a_moment_shows_the_frame_that_is_seen_then(folder, suffix):
    name = f"video.{suffix}"
    write_video(folder / name, [(20 * i, 20 * i, 20 * i) for i in range(1, 11)])
    assert to_level(open_picture(name)) == 1
    for moment_s in ("0", "0.4", "0.5", "2.2", "3.5", "4.99"):
        expected = 1 + math.floor(float(moment_s) * 2)
        assert to_level(open_picture(f"{name}@{moment_s}")) == expected, moment_s
    for moment_s in ("5.6", "400000000"):
        error = fails(f"{name}@{moment_s}")
        assert f"{name} ends before" in error.problem
        assert f"{name}@0" in error.hint


def test_a_video_taken_upright_is_shown_upright(folder):
    name = "video.mp4"
    write_video(folder / name, ["red"] * 3, set_display_rotation=90)
    assert open_picture(name).size == (32, 64)


def test_what_is_only_called_a_video_is_told(folder):
    pytest.importorskip("av")
    (folder / "a.mp4").write_bytes(b"nothing of the kind" * 99)
    (folder / "b.mp4").write_bytes(b"")
    (folder / "c.mp4").mkdir()
    for name in ("a.mp4@1", "b.mp4"):
        error = fails(name)
        assert "is not a video that can be read" in error.problem
        assert "ffmpeg -i" in error.hint
    assert "there is no file c.mp4" in fails("c.mp4@2").problem


@pytest.mark.parametrize("kind", ["hls", "concat"])
def test_a_play_list_that_is_called_a_video_fetches_nothing(folder, site, kind):
    pytest.importorskip("av")
    url = site("/part.ts", "video/mp2t", b"x")
    texts = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{url}'\n",
    }
    (folder / "a.mp4").write_text(texts[kind])
    assert "is not a video that can be read" in fails("a.mp4").problem
    assert site.asked == []


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("a.pdf#2", "pypdfium2", "documents"), ("a.webm@2", "av", "video")],
)
def test_what_is_not_installed_is_named(folder, monkeypatch, name, module, extra):
    (folder / name[:-2]).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, module, None)
    error = fails(name)
    assert "is not installed" in error.problem
    assert f"pip install 'tinyv[{extra}]'" in error.hint
