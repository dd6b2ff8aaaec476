"""Pictures inside `data:` URLs, in each verb that takes pictures.

Source: a `data:` URL as picture gave 151 KB of error, the whole URL.
"""

import base64
import json
from urllib.parse import quote

import pytest

from tinyv_cli.app import main
from tinyv_cli.errors import ExitCode, InputError
from tinyv_cli.pictures import data_url
from tinyv_cli.pictures.data_url import read_data_url
from tinyv_cli.pictures.opening import Access, check_words, open_picture

CONTENT = bytes(range(256))
BASE64 = base64.b64encode(CONTENT).decode()
URL_SAFE = base64.urlsafe_b64encode(CONTENT).decode()


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{BASE64}",
        f"DATA:image/png;BASE64,{BASE64}",
        f"data:;base64,{BASE64}",
        f"data:image/png;name=a.png;base64,{BASE64}",
        f"data:image/png;base64,{BASE64.rstrip('=')}",
        f"data:image/png;base64,{URL_SAFE}",
        f"data:image/png;base64,{quote(BASE64, safe='')}",
        f"data:image/png;base64,{BASE64[:80]}\n  {BASE64[80:]}\r\n",
        f"data:image/png,{quote(CONTENT)}",
        f"data:,{quote(CONTENT)}",
    ],
)
def test_the_content_is_what_was_put_in(url):
    assert read_data_url(url) == CONTENT


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("data:image/png;base64,", "is empty"),
        ("data:,", "is empty"),
        ("data:image/png;base64,!!!!", "is not base64"),
        ("data:image/png;base64,A", "is not base64"),
        ("data:image/png,<svg>", "not a picture"),
        ("data:image/png;base64," + "A" * 200_000, "not a picture"),
    ],
)
def test_what_holds_no_picture_is_told_by_a_short_name(url, problem):
    with pytest.raises(InputError, match=problem) as caught:
        open_picture(url)
    text = caught.value.problem + caught.value.hint
    assert caught.value.problem.startswith("data:")
    assert len(text) < 300


def test_one_that_holds_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(data_url, "MAX_BYTES", 200)
    for url in (f"data:,{quote(CONTENT)}", "data:," + "A" * 2000):
        with pytest.raises(InputError, match="holds more than"):
            read_data_url(url)


@pytest.fixture
def url(place):
    content = (place / "cat.png").read_bytes()
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def test_no_network_is_needed(url):
    check_words([url], Access(offline=True))
    assert open_picture(url, Access(offline=True)).size == (8, 8)


def test_ask_takes_one_and_names_it_shortly(place, url, runtimes, capsys):
    assert main(["ask", url, "cat.png", "what?", "--json", "-m", "bits4"]) == ExitCode.OK
    out, err = capsys.readouterr()
    first, second = (json.loads(line) for line in out.splitlines())
    assert first["picture"].startswith("data:image/png;sha256-")
    assert first["answer"] == second["answer"]
    assert url not in out + err


def test_a_batch_takes_them_from_its_list_and_goes_on(place, url, toys, capsys, monkeypatch):
    from tinyv_cli.commands import batch

    monkeypatch.setattr(batch, "read_stdin", lambda: f"{url}\ncat.png\n{url}\n".encode())
    command = ["batch", "-", "what?", "-o", "o.jsonl", "-m", "bits4"]
    assert main(command) == ExitCode.OK
    text = (place / "o.jsonl").read_text("utf-8")
    first, second = (json.loads(line) for line in text.splitlines())
    assert first["path"].startswith("data:image/png;sha256-")
    assert first["answer"] == second["answer"]
    assert url not in text
    assert main(command) == ExitCode.OK
    assert "2 of 2 pictures have their line" in capsys.readouterr().err
    assert main(["batch", url, "what?", "-o", "o2.jsonl", "-m", "bits4"]) == ExitCode.OK
    capsys.readouterr()
    assert main([*command[:3], "-o", "o3.jsonl", "-m", "bits4", "--sidecar"]) == ExitCode.USAGE
    assert "is no file that a .txt could lie beside" in capsys.readouterr().err
