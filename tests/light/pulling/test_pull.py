"""The public files are fetched from a real server on loopback, whatever it does on the way."""

import json
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.light.pulling.hub_server import Fault, HubServer
from tests.light.pulling.toy_hub import (
    CHECKPOINT,
    QFORMER,
    VISION,
    check_complete,
    point_at,
    refuse,
    run,
)
from tests.light.weights.toy_sources import (
    FAST,
    FUSED_FILES,
    SHARDS,
    make_bytes,
)
from tinyv_cli.commands.fetching.pull import pull_weights
from tinyv_cli.disk import places
from tinyv_cli.errors import DeviceError, WeightsError
from tinyv_cli.options.pull import PullArguments
from weights.pulling import plan
from weights.pulling.catalog import PublicFile
from weights.pulling.folder import SourcesFolder
from weights.reading.sources import resolve_sources


def test_everything_is_fetched_and_the_folder_is_the_one_line_on_stdout(hub, capsys):
    run(hub)
    check_complete(hub)
    assert capsys.readouterr().out == f"{places.sources_dir()}\n"
    assert not [path for _, path, _ in hub.server.log if "/api/" in path]


def test_no_lock_and_nothing_half_written_is_left_and_no_file_of_the_users_is_touched(hub):
    folder = places.sources_dir()
    folder.mkdir(parents=True)
    (folder / "pulled.json.part").write_text("mine")
    run(hub)
    here = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert here == {*FUSED_FILES, "pulled.json", "pulled.json.part"}
    assert (folder / "pulled.json.part").read_text() == "mine"


def test_beginnings_of_a_file_are_found_whatever_it_is_called(tmp_path):
    folder = SourcesFolder(tmp_path)
    file = PublicFile("a[1].bin", ())
    mine = folder.find_part(file, "0123456789abcdef")
    for path in (mine, tmp_path / "a1.bin.0123.part", tmp_path / "a[1].bin.more.0123.part"):
        path.write_bytes(b"x")
    assert folder.list_parts(file) == [mine]


def test_a_folder_that_cannot_be_made_is_an_error(hub, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="cannot be written"):
        run(hub, to=str(tmp_path / "file" / "sources"))


def test_what_is_there_and_right_is_not_fetched_again(hub):
    run(hub)
    hub.server.log.clear()
    run(hub)
    assert hub.server.log == []


def test_a_file_that_was_lost_is_fetched_alone(hub):
    run(hub)
    (places.sources_dir() / VISION).unlink()
    hub.server.log.clear()
    run(hub)
    assert {path for _, path, _ in hub.server.log} == {f"/plain/{VISION}"}
    check_complete(hub)


@pytest.mark.parametrize("cut_after", [0, 1, 65_536, 199_999])
def test_a_connection_that_is_cut_is_taken_up_where_it_broke(hub, cut_after):
    hub.server.faults[CHECKPOINT] = Fault(times=2, cut_after=cut_after, method="GET")
    run(hub)
    check_complete(hub)
    assert hub.server.sent_bytes[CHECKPOINT] == 200_000
    ranges = [each[2] for each in hub.server.log if each[0] == "GET" and CHECKPOINT in each[1]]
    assert ranges[0] is None
    assert ranges[-1] == (f"bytes={min(2 * cut_after, 199_999)}-" if cut_after else None)


def test_a_connection_that_is_cut_again_and_again_comes_to_its_end(hub):
    hub.server.faults[CHECKPOINT] = Fault(cut_after=9_000, method="GET")
    run(hub)
    check_complete(hub)
    assert hub.server.count("GET", CHECKPOINT) == 23


def test_without_ranges_a_file_is_fetched_anew(hub):
    hub.server.has_ranges = False
    hub.server.faults[CHECKPOINT] = Fault(times=2, cut_after=50_000, method="GET")
    run(hub)
    check_complete(hub)


def test_without_ranges_a_connection_that_always_breaks_is_given_up(hub):
    hub.server.has_ranges = False
    hub.server.faults[CHECKPOINT] = Fault(cut_after=50_000, method="GET")
    error = refuse(hub)
    assert CHECKPOINT in error.problem
    assert "goes on where it stopped" in error.hint


def test_what_came_before_an_error_is_used_by_the_next_pull(hub):
    hub.server.faults[CHECKPOINT] = Fault(times=1, cut_after=120_000, method="GET")
    retry_policy = replace(FAST, tries=1)
    with pytest.raises(WeightsError):
        pull_weights(PullArguments(), hub.catalog, retry_policy)
    [part] = places.sources_dir().glob("*.part")
    assert part.stat().st_size == 120_000
    run(hub)
    check_complete(hub)
    assert hub.server.sent_bytes[CHECKPOINT] == 200_000


def test_a_part_with_other_bytes_is_noticed_and_fetched_anew(hub, capsys):
    folder = places.sources_dir()
    folder.mkdir(parents=True)
    sha256 = hub.catalog.parts[0].forms[0].files[0].sha256
    (folder / f"{CHECKPOINT}.{sha256[:12]}.part").write_bytes(b"x" * 1000)
    run(hub)
    check_complete(hub)
    assert "fetching it anew" in capsys.readouterr().err


def test_wrong_bytes_of_the_right_length_are_kept_aside_and_the_next_origin_serves(hub, capsys):
    wrong = make_bytes("other", 150_000)
    (hub.published / "plain" / QFORMER).write_bytes(wrong)
    run(hub)
    assert (places.sources_dir() / QFORMER).read_bytes() == make_bytes(QFORMER, 150_000)
    assert (places.sources_dir() / f"{QFORMER}.wrong").read_bytes() == wrong
    assert f"kept as {QFORMER}.wrong" in capsys.readouterr().err


def test_wrong_bytes_everywhere_are_an_error_and_are_not_used(hub):
    (hub.published / "plain" / VISION).write_bytes(make_bytes("other", 300_000))
    error = refuse(hub)
    assert VISION in error.problem
    assert "SHA-256" in error.problem
    assert not (places.sources_dir() / VISION).exists()


def test_another_file_at_the_hub_is_refused_before_it_is_fetched(hub):
    (hub.published / "Tyrannosaurus/TinyGPT-V" / CHECKPOINT).write_bytes(make_bytes("b", 200_000))
    assert "another file by now" in refuse(hub).problem
    assert hub.server.count("GET", CHECKPOINT) == 0


@pytest.mark.parametrize("stated_bytes", [0, 17, -1, 9_999_999])
@pytest.mark.parametrize("form", ["fused", "split"])
def test_a_size_that_head_states_wrongly_does_not_count(hub, form, stated_bytes):
    """Seen in: huggingface_hub, issue 3307; some proxies and mirrors answer HEAD so."""
    if form == "split":
        (hub.published / "susnato/phi-2/pytorch_model.bin").unlink()
    small = ("config.json", "tokenizer.json", "model.safetensors.index.json")
    for name in (CHECKPOINT, QFORMER, VISION, "pytorch_model.bin", *small, *SHARDS):
        hub.server.faults[name] = Fault(stated_bytes=stated_bytes, method="HEAD")
    hub.server.faults[VISION] = Fault(times=2, cut_after=70_000)
    run(hub)
    for path in resolve_sources(places.sources_dir()).all_files:
        assert path.read_bytes() == hub.read(path.name)


def test_a_truncated_file_that_is_reported_whole_is_refused(hub):
    hub.server.faults[CHECKPOINT] = Fault(truncated_to=150_000, method="GET")
    assert "150000 bytes, not 200000" in refuse(hub).problem
    assert not (places.sources_dir() / CHECKPOINT).exists()


def test_a_truncated_file_of_unknown_size_is_refused(hub):
    hub.server.faults[VISION] = Fault(truncated_to=250_000)
    assert "SHA-256" in refuse(hub).problem


def test_an_endless_file_is_given_up(hub):
    hub.server.faults[VISION] = Fault(body=bytes(5_000_000))
    assert "sends more than" in refuse(hub).problem


@pytest.mark.parametrize("status", [401, 403])
def test_who_is_not_let_in_is_told_of_the_token(hub, status):
    hub.server.faults[CHECKPOINT] = Fault(status=status)
    error = refuse(hub)
    assert f"HTTP {status}" in error.problem
    assert "HF_TOKEN" in error.hint


def test_the_token_goes_to_the_hub_and_nowhere_else(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with HubServer({}, hub.published / "Tyrannosaurus/TinyGPT-V") as elsewhere:
        target = elsewhere.url.replace("127.0.0.1", "localhost") + f"/plain/{CHECKPOINT}"
        hub.server.faults[CHECKPOINT] = Fault(redirect=target)
        run(hub)
        check_complete(hub)
        assert elsewhere.tokens == [None]
    asked = dict(zip(((m, p) for m, p, _ in hub.server.log), hub.server.tokens, strict=True))
    assert {t for (_, p), t in asked.items() if "/resolve/" in p} == {"Bearer hf_secret"}
    assert {t for (_, p), t in asked.items() if p.startswith("/plain/")} == {None}


def test_a_file_that_is_gone_is_named_with_every_place_that_was_tried(hub):
    (hub.published / "plain" / QFORMER).unlink()
    (hub.published / "mirror/blip2" / QFORMER).unlink()
    error = refuse(hub)
    assert QFORMER in error.problem
    assert "/plain/" in error.problem
    assert "mirror/blip2 @ main" in error.problem
    assert error.problem.count("HTTP 404") == 2


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_server_that_is_busy_for_a_moment_is_asked_again(hub, status):
    hub.server.faults[CHECKPOINT] = Fault(times=2, status=status)
    hub.server.faults[VISION] = Fault(times=2, status=status)
    run(hub)
    check_complete(hub)


def test_retry_after_is_kept_to(hub):
    hub.server.faults[VISION] = Fault(times=1, status=429, headers={"Retry-After": "1"})
    start_s = time.monotonic()
    run(hub)
    assert time.monotonic() - start_s >= 1


def test_a_server_that_asks_for_an_hour_is_not_waited_for(hub):
    hub.server.faults[VISION] = Fault(status=429, headers={"Retry-After": "3600"})
    error = refuse(hub)
    assert "asks to wait 3600 s" in error.problem
    assert "a few minutes" in error.hint


def test_a_redirect_to_elsewhere_is_followed(hub):
    with HubServer({}, hub.published / "Tyrannosaurus/TinyGPT-V") as elsewhere:
        hub.server.faults[CHECKPOINT] = Fault(redirect=f"{elsewhere.url}/plain/{CHECKPOINT}")
        run(hub)
    check_complete(hub)


def test_a_redirect_to_another_file_is_noticed(hub):
    hub.server.faults[CHECKPOINT] = Fault(redirect=f"{hub.server.url}/plain/{VISION}")
    assert CHECKPOINT in refuse(hub).problem
    assert not (places.sources_dir() / CHECKPOINT).exists()


def test_a_redirect_in_circles_is_given_up(hub):
    url = f"{hub.server.url}/plain/{VISION}"
    hub.server.faults[VISION] = Fault(redirect=url)
    assert "circles" in refuse(hub).problem


def test_with_nothing_listening_there_is_an_error_within_seconds(hub, monkeypatch, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    point_at(monkeypatch, url, tmp_path)
    error = refuse(hub)
    assert "cannot be reached" in error.problem
    assert "HTTPS_PROXY" in error.hint


def test_a_server_that_says_nothing_is_given_up(hub, monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        point_at(monkeypatch, f"http://127.0.0.1:{mute.getsockname()[1]}", tmp_path)
        retry_policy = replace(FAST, tries=2, connect_s=0.3, read_s=0.3)
        with pytest.raises(WeightsError) as caught:
            pull_weights(PullArguments(), hub.catalog, retry_policy)
    assert "stopped answering" in caught.value.problem


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_offline_nothing_is_asked(hub, monkeypatch, how):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "variable")
    error = refuse(hub, offline=how == "flag")
    assert "switched off" in error.problem
    assert "--from DIR" in error.hint
    assert hub.server.log == []


def test_offline_is_enough_where_all_is_there(hub):
    run(hub)
    run(hub, offline=True)


def test_what_the_hubs_own_cache_holds_is_taken_without_a_network(hub, tmp_path):
    from huggingface_hub import hf_hub_download

    run(hub)
    for name in ("pytorch_model.bin", "config.json"):
        hf_hub_download("susnato/phi-2", name, cache_dir=constants.HF_HUB_CACHE)
        (places.sources_dir() / "phi-2" / name).unlink()
    hub.server.log.clear()
    run(hub, offline=True)
    check_complete(hub)
    assert hub.server.log == []


def test_a_disk_without_room_is_noticed_before_anything_is_fetched(hub, monkeypatch):
    monkeypatch.setattr(plan, "measure_free", lambda folder: 1000)
    with pytest.raises(DeviceError, match="files need"):
        run(hub)
    assert hub.server.log == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_disk_that_fills_up_is_told_of(hub):
    folder = places.sources_dir()
    folder.mkdir(parents=True)
    sha256 = hub.catalog.parts[0].forms[0].files[0].sha256
    (folder / f"{CHECKPOINT}.{sha256[:12]}.part").symlink_to("/dev/full")
    with pytest.raises(DeviceError, match="no space left") as caught:
        run(hub)
    assert "goes on where it stopped" in caught.value.hint


def test_a_wrong_file_in_its_place_is_kept_aside_and_replaced(hub, capsys):
    run(hub)
    (places.sources_dir() / VISION).write_bytes(b"something else")
    run(hub)
    check_complete(hub)
    assert (places.sources_dir() / f"{VISION}.wrong").read_bytes() == b"something else"
    assert "is not the file it is called after" in capsys.readouterr().err


def test_with_the_fused_file_gone_the_split_one_serves(hub, capsys):
    (hub.published / "susnato/phi-2/pytorch_model.bin").unlink()
    run(hub)
    files = resolve_sources(places.sources_dir())
    assert [path.name for path in files.phi] == list(SHARDS)
    for path in files.phi:
        assert path.read_bytes() == hub.read(path.name)
    assert "another form" in capsys.readouterr().err
    hub.server.log.clear()
    run(hub)
    assert hub.server.log == []


def test_a_damaged_shard_without_a_known_hash_is_noticed_by_the_hubs(hub):
    (hub.published / "susnato/phi-2/pytorch_model.bin").unlink()
    name = list(SHARDS)[1]
    hub.server.faults[name] = Fault(body=make_bytes("x", SHARDS[name]), method="GET")
    assert "SHA-256" in refuse(hub).problem
    assert not (places.sources_dir() / "phi-2" / name).exists()


def test_a_damaged_small_file_is_noticed_by_gits_name_for_it(hub):
    for repository in ("susnato/phi-2", "microsoft/phi-2"):
        assert len((hub.published / repository / "config.json").read_bytes()) <= 64
    content = json.dumps({"model_type": "phi", "hidden_size": 9}).encode()
    hub.server.faults["config.json"] = Fault(body=content, method="GET")
    assert "is not what the hub says it is" in refuse(hub).problem


def test_a_phi_of_the_users_own_is_left_alone(hub):
    phi = places.sources_dir() / "phi-2"
    phi.mkdir(parents=True)
    (phi / "model.safetensors").write_bytes(b"saved again")
    run(hub)
    assert (phi / "model.safetensors").read_bytes() == b"saved again"
    assert not (phi / "pytorch_model.bin").exists()
    assert hub.server.count("GET", "pytorch_model.bin") == 0
