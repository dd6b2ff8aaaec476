"""A finished variant is fetched and checked by its manifest."""

import hashlib
import json

import pytest

from tests.light.pulling.hub_server import Fault, HubServer
from tests.light.pulling.toy_hub import FAST, point_at
from tests.light.toy_variant import make_manifest, write_variant
from tinyv_cli.commands.fetching.pull import pull_weights
from tinyv_cli.disk import lock, places
from tinyv_cli.errors import UsageError, WeightsError
from tinyv_cli.options.pull import PullArguments
from tinyv_cli.progress import show_nothing
from tinyv_cli.variants import home
from tinyv_cli.variants.manifest import read_variant
from weights.pulling import variant_pull


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """(server, folder) of a variant in a repository and under /plain/toy."""
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    folder = write_variant(tmp_path / "shared" / "toy")
    with HubServer({"someone/toy": folder}, tmp_path / "shared") as server:
        point_at(monkeypatch, server.url, tmp_path)
        yield server, folder


def run(origin, **options):
    pull_weights(PullArguments(variant=str(origin), **options), retry_policy=FAST)


def refuse(origin, **options):
    with pytest.raises(WeightsError) as caught:
        run(origin, **options)
    return caught.value


def read_all(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*")}


def change_manifest(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


@pytest.mark.parametrize("kind", ["repository", "revision", "url", "folder"])
def test_a_variant_is_fetched_whole_and_named_after_its_origin(shared, kind, capsys):
    server, folder = shared
    origin = {
        "repository": "someone/toy",
        "revision": "someone/toy@main",
        "url": f"{server.url}/plain/toy/",
        "folder": folder,
    }[kind]
    run(origin)
    there = places.variants_dir() / "toy"
    assert read_all(there) == read_all(folder)
    assert capsys.readouterr().out == f"{there}\n"
    assert [path.name for path in places.variants_dir().iterdir()] == ["toy"]


def test_it_can_have_another_name_and_is_found_by_it(shared):
    run("someone/toy", to="mine")
    assert home.resolve_variant("mine").manifest == read_variant(shared[1]).manifest


def test_the_same_variant_is_not_fetched_twice(shared):
    server, _ = shared
    run("someone/toy")
    server.log.clear()
    run("someone/toy")
    assert {path.rpartition("/")[2] for _, path, _ in server.log} == {"manifest.json"}


def test_another_variant_of_the_name_is_replaced_only_by_force(shared):
    _, folder = shared
    other = write_variant(places.variants_dir() / "toy", bits=8)
    assert "exists already" in refuse("someone/toy").problem
    assert read_variant(other).manifest.bits == 8
    run("someone/toy", force=True)
    assert read_all(other) == read_all(folder)


def test_where_another_process_works_on_the_variant_it_is_waited_for(shared):
    class WaitingError(Exception):
        pass

    def notify(line):
        raise WaitingError(line)

    target = places.variants_dir() / "toy"
    target.parent.mkdir(parents=True)
    options = variant_pull.VariantPullOptions("someone/toy", target, retry_policy=FAST)
    with lock.hold(target, lambda: None), pytest.raises(WaitingError, match="waiting for it"):
        variant_pull.pull_variant(options, show_nothing, notify)
    assert list(target.parent.iterdir()) == []


def test_what_a_killed_process_had_set_aside_is_put_back(shared):
    _, folder = shared
    write_variant(places.variants_dir() / ".toy.tinyv-replaced")
    run("someone/toy")
    assert [path.name for path in places.variants_dir().iterdir()] == ["toy"]
    assert shared[0].count("GET", "decoder.data") == 0
    assert read_all(places.variants_dir() / "toy") == read_all(folder)


def test_a_damaged_file_is_refused_and_the_variant_is_not_there(shared):
    server, folder = shared
    size = (folder / "decoder.data").stat().st_size
    server.faults["decoder.data"] = Fault(body=b"x" * size, method="GET")
    assert "SHA-256" in refuse("someone/toy").problem
    assert home.list_variants() == []
    server.faults.clear()
    server.log.clear()
    run("someone/toy")
    assert server.count("GET", "decoder.onnx") == 0
    assert read_all(places.variants_dir() / "toy") == read_all(folder)


@pytest.mark.parametrize("kind", ["repository", "folder"])
@pytest.mark.parametrize("path", ["../../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:evil"])
def test_no_path_leaves_the_folder(shared, path, kind, tmp_path):
    server, folder = shared
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files[0]["path"] = path
    change_manifest(folder, files=files)
    error = refuse("someone/toy" if kind == "repository" else folder)
    assert "not a plain path" in error.problem
    assert not list(tmp_path.rglob("evil*"))
    assert server.count("GET", "evil") == 0


def test_a_file_that_is_called_as_our_own_record_is_refused(shared):
    _, folder = shared
    (folder / "decoder.data").rename(folder / "pulled.json")
    text = (folder / "manifest.json").read_text().replace('"decoder.data"', '"pulled.json"')
    (folder / "manifest.json").write_text(text)
    assert "pulled.json" in refuse("someone/toy").problem
    assert home.list_variants() == []


def test_a_link_out_of_the_folder_is_not_taken(shared, tmp_path):
    _, folder = shared
    secret = tmp_path / "secret"
    (folder / "decoder.data").rename(secret)
    (folder / "decoder.data").symlink_to(secret)
    assert "leads out of its folder" in refuse(folder).problem


@pytest.mark.parametrize("depth", ["", "int4"])
@pytest.mark.parametrize("store", ["models--someone--toy/blobs", "blobs/ab"])
def test_a_variant_in_the_hubs_cache_is_copied_and_can_be_asked_only_then(
    shared, tmp_path, store, depth
):
    _, folder = shared
    place = tmp_path / "hub/models--someone--toy/snapshots/0123" / depth
    (tmp_path / "hub" / store).mkdir(parents=True)
    place.mkdir(parents=True)
    for path in folder.iterdir():
        blob = tmp_path / "hub" / store / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.write_bytes(path.read_bytes())
        (place / path.name).symlink_to(blob)
    with pytest.raises(WeightsError, match="leads out of its folder") as caught:
        home.resolve_variant(str(place))
    assert f"tinyv pull {place}" in caught.value.hint
    run(place, to="toy")
    there = places.variants_dir() / "toy"
    assert read_all(there) == read_all(folder)
    assert not any(path.is_symlink() for path in there.iterdir())
    blob = (place / "decoder.data").resolve()
    blob.write_bytes(b"x" * blob.stat().st_size)
    assert "is damaged" in refuse(place, to="other").problem
    assert home.list_variants() == [read_variant(there)]


NOT_OURS = {
    "notes": {"notes.txt": b"mine"},
    "an extension of a browser": {"manifest.json": b'{"manifest_version": 3}'},
    "a page": {"manifest.json": b"{}", "index.html": b""},
    "models": {"decoder.onnx": b"mine"},
    "a damaged text": {"manifest.json": b"{"},
}


@pytest.mark.parametrize("content", NOT_OURS.values(), ids=NOT_OURS)
def test_what_is_no_variant_is_never_replaced(shared, content):
    target = places.variants_dir() / "toy"
    target.mkdir(parents=True)
    for name, each in content.items():
        (target / name).write_bytes(each)
    with pytest.raises(UsageError, match="`--force` does not replace it"):
        run("someone/toy", force=True)
    assert read_all(target) == content


def test_a_file_beside_a_variants_own_is_named_and_not_replaced(shared):
    _, folder = shared
    target = write_variant(places.variants_dir() / "toy", bits=8)
    (target / "notes").mkdir()
    (target / "notes/mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"no part of a variant: notes/mine\.txt"):
        run("someone/toy", force=True)
    (target / "notes/mine.txt").unlink()
    (target / "notes").rmdir()
    (target / "manifest.json").write_text("")  # damaged, and still a variant
    run("someone/toy", force=True)
    assert read_all(target) == read_all(folder)


def test_a_file_in_the_place_of_a_variant_is_not_replaced(shared):
    target = places.variants_dir() / "toy"
    target.parent.mkdir(parents=True)
    target.write_text("mine")
    with pytest.raises(UsageError, match="is not a variant"):
        run("someone/toy", force=True)
    assert target.read_text() == "mine"


@pytest.mark.parametrize("text", ["<html>", "{}", '{"format_version": 99}', "[" * 100_000])
def test_what_is_no_manifest_is_refused(shared, text):
    _, folder = shared
    (folder / "manifest.json").write_text(text)
    refuse("someone/toy")
    assert home.list_variants() == []


def test_a_manifest_without_end_is_refused(shared):
    server, _ = shared
    server.faults["manifest.json"] = Fault(body=b" " * 5_000_000, method="GET")
    assert "manifest.json" in refuse(f"{server.url}/plain/toy").problem


def test_nothing_but_what_the_manifest_names_is_fetched(shared):
    server, folder = shared
    (folder / "setup.py").write_text("raise SystemExit('executed')")
    run("someone/toy")
    assert server.count("GET", "setup.py") == 0
    assert not (places.variants_dir() / "toy" / "setup.py").exists()


def test_a_repository_that_is_not_there_is_an_error(shared):
    assert "HTTP 404" in refuse("someone/nothing").problem
    assert list(places.variants_dir().iterdir()) == []


def test_a_private_one_wants_a_token(shared, monkeypatch):
    server, folder = shared
    server.needs_token = "hf_mine"
    assert "HF_TOKEN" in refuse("someone/toy").hint
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    run("someone/toy")
    assert read_all(places.variants_dir() / "toy") == read_all(folder)


def test_offline_a_repository_cannot_be_asked_and_a_folder_can(shared):
    server, folder = shared
    assert "switched off" in refuse("someone/toy", offline=True).problem
    assert server.log == []
    run(folder, offline=True)


@pytest.mark.parametrize("origin", ["toy", "a/b/c", "", "/nowhere/at/all"])
def test_what_is_no_origin_is_refused(shared, origin):
    with pytest.raises(UsageError):
        run(origin)


def test_a_full_disk_is_noticed_before(shared, monkeypatch):
    server, _ = shared
    monkeypatch.setattr(variant_pull, "measure_free", lambda folder: 10)
    with pytest.raises(Exception, match="the variant needs"):
        run("someone/toy")
    assert server.count("GET", "decoder.data") == 0


def test_files_are_not_linked_to_a_folder_that_others_may_change(shared):
    _, folder = shared
    run(folder)
    there = places.variants_dir() / "toy" / "decoder.data"
    assert not there.samefile(folder / "decoder.data")


def test_a_subfolder_is_fetched_too(shared):
    _, folder = shared
    (folder / "deep").mkdir()
    (folder / "decoder.data").rename(folder / "deep" / "decoder.data")
    manifest = json.loads(make_manifest_text(folder))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    run("someone/toy")
    assert (places.variants_dir() / "toy/deep/decoder.data").is_file()


def make_manifest_text(folder):
    (folder / "decoder.data").write_bytes((folder / "deep" / "decoder.data").read_bytes())
    text = make_manifest(folder).to_json().replace('"decoder.data"', '"deep/decoder.data"')
    (folder / "decoder.data").unlink()
    return text
