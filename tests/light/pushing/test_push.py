"""A variant is pushed into a folder, and pulled from there by folder, URL and ready name."""

import hashlib
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.light.pulling.hub_server import HubServer
from tests.light.pulling.test_pull_variant import change_manifest, read_all
from tests.light.pulling.toy_hub import FAST, point_at
from tests.light.toy_variant import write_variant
from tinyv_cli.app import main
from tinyv_cli.commands.fetching.pull import pull_weights
from tinyv_cli.disk import places
from tinyv_cli.errors import ExitCode, UsageError, WeightsError
from tinyv_cli.options.pull import PullArguments
from weights.pulling.catalog import Catalog, FileOrigin, ReadyVariant, read_catalog


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A variant called mine, and a folder to be in."""
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return write_variant(places.variants_dir() / "mine")


@pytest.fixture
def pushed(mine, tmp_path, monkeypatch):
    """A server with what was pushed, and the SHA-256 of its manifest; the variant is gone."""
    assert main(["push", "mine", "out/mine", "-q"]) == ExitCode.OK
    shutil.rmtree(mine)
    sha256 = hashlib.sha256((tmp_path / "out/mine/manifest.json").read_bytes()).hexdigest()
    with HubServer({}, tmp_path / "out") as server:
        point_at(monkeypatch, server.url, tmp_path)
        yield server, sha256


def pull_ready(name="4bit", *origins, sha256="", **options):
    ready = ReadyVariant("4bit", "make it", sha256, tuple(FileOrigin(url=each) for each in origins))
    catalog = Catalog(read_catalog().parts, (ready,))
    pull_weights(PullArguments(ready=name, **options), catalog, FAST)


def test_a_folder_is_an_exact_copy_and_says_how_it_is_fetched(mine, tmp_path, capsys):
    for _ in range(2):  # the second finds it done
        assert main(["push", "mine", "share/my copy"]) == ExitCode.OK
        out, err = capsys.readouterr()
        folder = tmp_path / "share" / "my copy"
        assert out == f"{folder}\n"
        assert read_all(folder) == read_all(mine)
        assert [each.name for each in folder.parent.iterdir()] == ["my copy"]
        sha256 = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
        assert f"whose own SHA-256 is {sha256}\n" in err
        assert f"tinyv pull '{folder}'\n" in err


def test_what_was_pushed_is_pulled_from_folder_and_url(pushed, tmp_path):
    server, _ = pushed
    for origin in (str(tmp_path / "out" / "mine"), f"{server.url}/plain/mine"):
        assert main(["pull", origin, "-q"]) == ExitCode.OK
        there = places.variants_dir() / "mine"
        assert read_all(there) == read_all(tmp_path / "out" / "mine")
        shutil.rmtree(there)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_what_pythons_own_server_serves_is_pulled_under_a_name(pushed, tmp_path, capsys):
    handler = partial(QuietHandler, directory=tmp_path / "out" / "mine")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert main(["pull", url]) == ExitCode.USAGE
        assert "hint:  name it with `--to NAME`\n" in capsys.readouterr().err
        assert main(["pull", url, "--to", "yours"]) == ExitCode.OK
        server.shutdown()
    assert read_all(places.variants_dir() / "yours") == read_all(tmp_path / "out" / "mine")


def test_a_damaged_variant_is_not_pushed(mine, tmp_path, capsys):
    content = bytearray((mine / "tokenizer.json").read_bytes())
    content[20] ^= 1
    (mine / "tokenizer.json").write_bytes(content)
    assert main(["push", "mine", "share"]) == ExitCode.WEIGHTS
    assert "tokenizer.json" in capsys.readouterr().err
    assert not (tmp_path / "share").exists()


def test_what_stands_in_the_folder_is_replaced_only_if_it_is_a_variant(mine, tmp_path, capsys):
    other = write_variant(tmp_path / "share")
    change_manifest(other, template="inst")
    assert main(["push", "mine", "share"]) == ExitCode.WEIGHTS
    err = capsys.readouterr().err
    assert "share exists already and is not this variant\n" in err
    assert "hint:  use `--force` to replace it, or name another folder\n" in err
    (other / "thesis.txt").write_text("all my work")
    assert main(["push", "mine", "share", "--force"]) == ExitCode.USAGE
    assert "hint:  name another folder\n" in capsys.readouterr().err
    (other / "thesis.txt").unlink()
    assert main(["push", "mine", "share", "--force"]) == ExitCode.OK
    assert read_all(other) == read_all(mine)


@pytest.mark.parametrize(
    ("target", "copier"),
    [
        ("s3://bucket/x", "aws s3 sync FOLDER s3://bucket/x`"),
        ("gs://bucket/x", "gcloud storage rsync --recursive FOLDER gs://bucket/x`"),
        ("https://me:secret@example.org/x", "rsync -a FOLDER/ "),
    ],
)
def test_a_bucket_is_left_to_its_own_program(mine, capsys, target, copier):
    assert main(["push", "mine", target]) == ExitCode.USAGE
    err = capsys.readouterr().err
    assert "is no folder, and tinyv sends nothing anywhere\n" in err
    assert f"`tinyv push mine FOLDER && {copier}" in err
    assert "secret" not in err


def test_a_ready_variant_is_pulled_by_its_name_from_the_first_place_that_has_it(
    pushed, tmp_path, capsys
):
    server, sha256 = pushed
    gone, there = f"{server.url}/plain/gone", f"{server.url}/plain/mine"
    pull_ready("4bit", gone, there, sha256=sha256)
    out, err = capsys.readouterr()
    assert out == f"{places.variants_dir() / '4bit'}\n"
    assert "trying the next place" in err
    assert read_all(places.variants_dir() / "4bit") == read_all(tmp_path / "out" / "mine")
    pull_ready("4bit", there, sha256=sha256, to="other")
    assert (places.variants_dir() / "other").is_dir()


def test_a_ready_variant_that_is_another_by_now_is_refused(pushed):
    server, _ = pushed
    with pytest.raises(WeightsError) as caught:
        pull_ready("4bit", f"{server.url}/plain/mine", sha256="0" * 64)
    assert "SHA-256" in caught.value.problem
    assert not list(places.variants_dir().glob("4bit"))


def test_a_pull_of_the_public_weights_offers_a_ready_variant_that_is_hosted(mine, capsys):
    catalog = read_catalog()
    pull_weights(PullArguments(dry_run=True), catalog, FAST)
    assert "--ready" not in capsys.readouterr().err
    hosted = ReadyVariant("4bit", "make it", "0" * 64, (FileOrigin(url="https://example.org/x"),))
    pull_weights(PullArguments(dry_run=True), Catalog(catalog.parts, (hosted,)), FAST)
    assert "note: `tinyv pull --ready 4bit` fetches what is ready" in capsys.readouterr().err


def test_where_nobody_hosts_one_it_is_said_how_to_make_and_host_it(mine, capsys):
    assert main(["pull", "--ready", "4bit"]) == ExitCode.WEIGHTS
    err = capsys.readouterr().err
    assert "error: nobody hosts the ready variant 4bit yet\n" in err
    for command in ("tinyv quantize --bits 4`", "`tinyv push VARIANT FOLDER`", "`tinyv pull URL`"):
        assert command in err
    assert main(["pull", "--ready", "5bit"]) == ExitCode.USAGE
    assert "hint:  choose one of 4bit\n" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"variant": "a/b"}, {"verify": True}, {"from_": "hub"}])
def test_what_does_not_go_with_a_ready_variant_is_refused(mine, options):
    with pytest.raises(UsageError, match=r"--ready 4bit|--verify|--from"):
        pull_ready("4bit", "http://nowhere.invalid/x", sha256="0" * 64, **options)


READY = """
[[ready]]
name = "4bit"
made_by = "tinyv quantize"
"""


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ('origins = [{ url = "https://example.org/x" }]', "malformed hash: ''"),
        ('origins = [{ url = "ftp://example.org/x" }]', "neither http nor https"),
        ('size = "large"', "unknown key 'size'"),
    ],
)
def test_a_list_that_says_nonsense_about_a_ready_variant_is_refused(tmp_path, extra, problem):
    path = tmp_path / "list.toml"
    part = '[[part]]\nname = "x"\n[[part.form]]\n[[part.form.file]]\npath = "x"\n'
    part += 'origins = [{ url = "https://example.org/x" }]\n'
    path.write_text(f"{READY}{extra}\n{part}")
    with pytest.raises(WeightsError, match=problem):
        read_catalog(path)
    path.write_text(f"{READY}{part}")
    assert read_catalog(path).ready[0].origins == ()
