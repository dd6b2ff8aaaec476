"""URLs are shown and kept without passwords, tokens or data; what they lead to is what it was.

Source: uv's DisplaySafeUrl; `ask http://user:secret@host/a.png?token=…` printed both.
"""

import json

import pytest

from tests.light.pulling.toy_hub import refuse
from tinyv_cli.addresses import hide_secrets, is_incomplete, to_lasting_name, to_shown
from tinyv_cli.app import main
from tinyv_cli.console import Console
from tinyv_cli.errors import ExitCode, InputError
from tinyv_cli.pictures import opening
from weights.pulling.catalog import FileOrigin, extend_url

SECRET = "hunter2"
SHOWN = [
    ("https://example.org/a.png", "https://example.org/a.png"),
    ("https://example.org/a.pdf#3", "https://example.org/a.pdf#3"),
    ("https://medium.com/@me/x.png", "https://medium.com/@me/x.png"),
    ("http://[::1]:80/x@y.png", "http://[::1]:80/x@y.png"),
    ("http://user:hunter2@h/a.png", "http://***@h/a.png"),
    ("http://hunter2@h:80/a.png", "http://***@h:80/a.png"),
    ("http://user:hun/hunter2@h/a.png", "http://***@h/a.png"),
    ("http://user:#hunter2@h/a.png", "http://***@h/a.png"),
    ("http://u@x:hunter2@h/a.png", "http://***@h/a.png"),
    ("HTTP://u:hunter2@H/?hunter2", "HTTP://***@H/?***"),
    ("https://h/a?token=hunter2&x=hunter2", "https://h/a?token=***&x=***"),
    ("https://h/a?X-Sig=hunter2;b=hunter2", "https://h/a?X-Sig=***;b=***"),
    ("https://h/a?a=b=hunter2", "https://h/a?a=***"),
    ("https://h/a#access_token=hunter2", "https://h/a#***"),
    ("http://u:hunter2@[bad/a.png", "http://***@[bad/a.png"),
    ("http:/u:hunter2@h/a.png", "http:/***@h/a.png"),
    (r"https:\\u:hunter2@h\a.png", r"https:\\***@h\a.png"),
    ("u:hunter2@h/a.png?token=hunter2", "***@h/a.png?token=***"),
    ("s3://key:hunter2@bucket/a.png", "s3://***@bucket/a.png"),
    ("film.mp4@12.5", "film.mp4@12.5"),
    (r"C:\a@b.png", r"C:\a@b.png"),
    ("what is this? a:b", "what is this? a:b"),
]


@pytest.mark.parametrize(("url", "shown"), SHOWN, ids=[row[0] for row in SHOWN])
def test_a_url_is_shown_without_what_is_secret(url, shown):
    assert to_shown(url) == shown
    assert SECRET not in to_lasting_name(url)


def test_lasting_names_stay_the_same_and_apart_and_hold_no_hash_of_a_password():
    first, second = (f"https://u:{SECRET}@h/a?id={each}" for each in (1, 2))
    assert to_lasting_name(first) == to_lasting_name(first) != to_lasting_name(second)
    assert to_lasting_name(first) == to_lasting_name(first.replace(SECRET, "other"))
    assert is_incomplete(to_lasting_name(first))
    assert to_lasting_name("https://h/a.png") == "https://h/a.png"
    assert not is_incomplete("https://h/a.png")


def test_data_is_named_by_its_type_and_a_hash():
    shown = to_shown("data:image/png;base64," + "A" * 200_000)
    assert shown.startswith("data:image/png;sha256-")
    assert len(shown) < 40
    assert shown != to_shown("data:image/png;base64,AAAB")


def test_whatever_quotes_a_url_is_written_without_its_secret(capsys):
    text = f"see `curl 'http://u:{SECRET}@h/a?b={SECRET}'`, (https://u:{SECRET}@h)"
    assert SECRET not in hide_secrets(text)
    Console().write_error(InputError(text, text))
    Console().write_note(text)
    assert SECRET not in capsys.readouterr().err


URLS = [
    "http://me:hunter2@127.0.0.1:9/a.png?token=hunter2",
    "http://me:hunter2@[bad/a.png?token=hunter2",
    "http://me:hunter2@h:port/a.png?token=hunter2",
    "ftp://me:hunter2@h/a.png?token=hunter2",
    "http:/me:hunter2@h/a.png?token=hunter2",
    "me:hunter2@h/a.png?token=hunter2",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    "words",
    [
        ["ask", "URL", "what?", "--allow-private"],
        ["ask", "URL", "what?", "--offline"],
        ["ask", "cat.png", "URL", "what?", "--allow-private"],
        ["ask", "what?", "URL"],
        ["ask", "cat.png", "URL"],
        ["ask", "cat.png", "URL", "--task", "caption"],
        ["chat", "URL", "--allow-private"],
        ["batch", "URL", "what?", "-o", "o.jsonl"],
        ["batch", "cat.png", "URL", "-o", "o.jsonl"],
        ["eval", "q.jsonl"],
    ],
    ids=" ".join,
)
def test_no_verb_prints_a_secret_of_a_url(place, capsys, url, words):
    line = {"picture": url, "task": "what", "question": "[vqa] what?", "answer": "cat"}
    (place / "q.jsonl").write_text(json.dumps(line) + "\n", "utf-8")
    code = main([url if each == "URL" else each for each in words])
    out, err = capsys.readouterr()
    assert code in (ExitCode.USAGE, ExitCode.INPUT)
    assert SECRET not in out + err
    assert len(err.splitlines()) == 2


def test_answers_name_a_url_without_its_secret(place, runtimes, capsys, monkeypatch):
    content = (place / "cat.png").read_bytes()
    asked = []
    monkeypatch.setattr(opening, "fetch", lambda url, _: asked.append(url) or content)
    url = f"https://me:{SECRET}@example.org/a.png?token={SECRET}"
    for flags in ([], ["--json"]):
        assert main(["ask", url, "cat.png", "what?", "-m", "bits4", *flags]) == ExitCode.OK
        out, err = capsys.readouterr()
        assert "https://***@example.org/a.png?token=***" in out
        assert SECRET not in out + err
    assert asked == [url, url]


def test_a_list_of_urls_gets_a_line_each_that_holds_no_secret(place, toys, capsys, monkeypatch):
    from tinyv_cli.commands import batch

    urls = [f"https://u:{SECRET}@h/a.png?token={SECRET}{each}" for each in (1, 2, 2)]
    monkeypatch.setattr(batch, "read_stdin", lambda: "\n".join([*urls, "cat.png"]).encode())
    command = ["batch", "-", "what?", "-o", "o.jsonl", "-m", "bits4"]
    assert main(command) == ExitCode.BATCH
    text = (place / "o.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert SECRET not in text + capsys.readouterr().err
    assert len({line["path"] for line in lines}) == len(lines) == 3
    assert main(command) == ExitCode.BATCH
    assert (place / "o.jsonl").read_text("utf-8") == text  # each has its line already
    assert "3 of 3 pictures have their line" in capsys.readouterr().err


def test_pull_tells_no_secret_of_a_mirror(hub):
    origin = hub.server.url.replace("://", f"://me:{SECRET}@")
    error = refuse(hub, from_=f"{origin}/nothing?token={SECRET}")
    assert "***@" in error.problem
    assert SECRET not in error.problem + error.hint


@pytest.mark.parametrize("url", ["http://me:hunter2@[bad/x", "http://me:hunter2@h:port/x"])
def test_pull_of_a_malformed_url_tells_no_secret(place, capsys, url):
    for words in (["pull", url], ["pull", "--from", url], ["pull", url, "--verify"]):
        assert main([*words, "-q"]) == ExitCode.USAGE
        out, err = capsys.readouterr()
        assert SECRET not in out + err
        assert "is not a URL" in err


def test_a_token_stays_behind_the_path_of_a_file():
    assert extend_url("https://h/d/?sig=a/b", "phi 2/x") == "https://h/d/phi%202/x?sig=a/b"
    assert FileOrigin(url=f"https://h/d?sig={SECRET}").label == "https://h/d?sig=***"
