"""The public files are fetched from a real server on loopback, whatever it does on the way."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.light.hub_server import Fault, HubServer
from tests.light.toy_sources import (
    FAST,
    FUSED_FILES,
    SHARDS,
    ToyHub,
    make_bytes,
    publish,
    write_catalog,
)
from tinyv_cli import home
from tinyv_cli.commands.pull import pull_weights
from tinyv_cli.errors import DeviceError, UsageError, WeightsError
from tinyv_cli.options.pull import PullArguments
from weights.pulling import plan
from weights.pulling.catalog import read_catalog
from weights.sources import STAGES, resolve_sources

CHECKPOINT = "TinyGPT-V_for_Stage4.pth"
VISION = "eva_vit_g.pth"
QFORMER = "blip2_pretrained_flant5xxl.pth"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The toys on a server that HF_ENDPOINT names, and an empty home."""
    published = tmp_path / "published"
    publish(published)
    for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    repositories = {f"{p.parent.name}/{p.name}": p for p in published.glob("*/*") if p.is_dir()}
    with HubServer(repositories, published / "plain") as server:
        point_at(monkeypatch, server.url, tmp_path)
        write_catalog(tmp_path / "list.toml", published, server.url)
        yield ToyHub(server, tmp_path / "list.toml", published)


def point_at(monkeypatch, url, tmp_path):
    """What huggingface_hub makes of its variables when it is imported."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def run(hub, **options):
    pull_weights(PullArguments(**options), hub.catalog, FAST)


def refuse(hub, **options):
    start_s = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        run(hub, **options)
    assert time.monotonic() - start_s < 10
    assert caught.value.hint
    return caught.value


def check_complete(hub, folder=None):
    folder = folder or home.sources_dir()
    for name in FUSED_FILES:
        assert (folder / name).read_bytes() == hub.read(Path(name).name), name
    assert resolve_sources(folder).stage == 4
    assert not list(folder.rglob("*.part"))


def test_the_list_that_comes_with_tinyv_has_all_stages_and_the_hashes_that_are_known():
    catalog = read_catalog()
    for stage in STAGES:
        paths = [p.forms[0].files[0].path for p in catalog.list_parts(stage)]
        assert paths[0] == f"TinyGPT-V_for_Stage{stage}.pth"
        assert paths[1:] == [QFORMER, VISION, *FUSED_FILES[3:]]
    pinned = [file for file in catalog.list_files() if file.sha256]
    assert len(pinned) == 7
    assert all(file.origins for file in catalog.list_files())
    certain = {o.label for f in pinned for o in f.origins if o.certain}
    assert certain == {"Tyrannosaurus/TinyGPT-V @ main", "susnato/phi-2 @ f3d2d295eea9"}


@pytest.mark.parametrize(
    "line",
    [
        'path = "../out"\norigins = [{ url = "https://a/b" }]',
        'path = "/abs"\norigins = [{ url = "https://a/b" }]',
        'path = "a"\norigins = [{ url = "file:///etc/passwd" }]',
        'path = "a"\norigins = [{ certain = true }]',
        'path = "a"\nsha256 = "abc"\norigins = [{ url = "https://a/b" }]',
        'path = "a"\ncolour = 1\norigins = [{ url = "https://a/b" }]',
        'path = "a"\norigins = []',
    ],
)
def test_a_list_that_cannot_be_is_refused(tmp_path, line):
    path = tmp_path / "list.toml"
    path.write_text(f'[[part]]\nname = "a"\n[[part.form]]\n[[part.form.file]]\n{line}\n')
    with pytest.raises(WeightsError):
        read_catalog(path)


def test_everything_is_fetched_and_the_folder_is_the_one_line_on_stdout(hub, capsys):
    run(hub)
    check_complete(hub)
    assert capsys.readouterr().out == f"{home.sources_dir()}\n"
    assert not [path for _, path, _ in hub.server.log if "/api/" in path]


def test_what_is_there_and_right_is_not_fetched_again(hub):
    run(hub)
    hub.server.log.clear()
    run(hub)
    assert hub.server.log == []


def test_a_file_that_was_lost_is_fetched_alone(hub):
    run(hub)
    (home.sources_dir() / VISION).unlink()
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
    patience = FAST.__class__(tries=1, timeouts=FAST.timeouts)
    with pytest.raises(WeightsError):
        pull_weights(PullArguments(), hub.catalog, patience)
    [part] = home.sources_dir().glob("*.part")
    assert part.stat().st_size == 120_000
    run(hub)
    check_complete(hub)
    assert hub.server.sent_bytes[CHECKPOINT] == 200_000


def test_a_part_with_other_bytes_is_noticed_and_fetched_anew(hub, capsys):
    folder = home.sources_dir()
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
    assert (home.sources_dir() / QFORMER).read_bytes() == make_bytes(QFORMER, 150_000)
    assert (home.sources_dir() / f"{QFORMER}.wrong").read_bytes() == wrong
    assert f"kept as {QFORMER}.wrong" in capsys.readouterr().err


def test_wrong_bytes_everywhere_are_an_error_and_are_not_used(hub):
    (hub.published / "plain" / VISION).write_bytes(make_bytes("other", 300_000))
    error = refuse(hub)
    assert VISION in error.problem
    assert "SHA-256" in error.problem
    assert not (home.sources_dir() / VISION).exists()


def test_another_file_at_the_hub_is_refused_before_it_is_fetched(hub):
    (hub.published / "Tyrannosaurus/TinyGPT-V" / CHECKPOINT).write_bytes(make_bytes("b", 200_000))
    assert "another file by now" in refuse(hub).problem
    assert hub.server.count("GET", CHECKPOINT) == 0


def test_a_truncated_file_that_is_reported_whole_is_refused(hub):
    hub.server.faults[CHECKPOINT] = Fault(truncated_to=150_000, method="GET")
    assert "150000 bytes, not 200000" in refuse(hub).problem
    assert not (home.sources_dir() / CHECKPOINT).exists()


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
    assert not (home.sources_dir() / CHECKPOINT).exists()


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
        quick = FAST.timeouts.__class__(connect_s=0.3, read_s=0.3)
        patience = FAST.__class__(tries=2, first_wait_s=0.01, timeouts=quick)
        with pytest.raises(WeightsError) as caught:
            pull_weights(PullArguments(), hub.catalog, patience)
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
        (home.sources_dir() / "phi-2" / name).unlink()
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
    folder = home.sources_dir()
    folder.mkdir(parents=True)
    sha256 = hub.catalog.parts[0].forms[0].files[0].sha256
    (folder / f"{CHECKPOINT}.{sha256[:12]}.part").symlink_to("/dev/full")
    with pytest.raises(DeviceError, match="no room left") as caught:
        run(hub)
    assert "goes on where it stopped" in caught.value.hint


def test_a_wrong_file_in_its_place_is_kept_aside_and_replaced(hub, capsys):
    run(hub)
    (home.sources_dir() / VISION).write_bytes(b"something else")
    run(hub)
    check_complete(hub)
    assert (home.sources_dir() / f"{VISION}.wrong").read_bytes() == b"something else"
    assert "is not the file it is called after" in capsys.readouterr().err


def test_with_the_fused_file_gone_the_split_one_serves(hub, capsys):
    (hub.published / "susnato/phi-2/pytorch_model.bin").unlink()
    run(hub)
    files = resolve_sources(home.sources_dir())
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
    assert not (home.sources_dir() / "phi-2" / name).exists()


def test_a_damaged_small_file_is_noticed_by_gits_name_for_it(hub):
    for repository in ("susnato/phi-2", "microsoft/phi-2"):
        assert len((hub.published / repository / "config.json").read_bytes()) <= 64
    content = json.dumps({"model_type": "phi", "hidden_size": 9}).encode()
    hub.server.faults["config.json"] = Fault(body=content, method="GET")
    assert "is not what the hub says it is" in refuse(hub).problem


def test_a_phi_of_the_users_own_is_left_alone(hub):
    phi = home.sources_dir() / "phi-2"
    phi.mkdir(parents=True)
    (phi / "model.safetensors").write_bytes(b"saved again")
    run(hub)
    assert (phi / "model.safetensors").read_bytes() == b"saved again"
    assert not (phi / "pytorch_model.bin").exists()
    assert hub.server.count("GET", "pytorch_model.bin") == 0


def test_from_hub_asks_no_other_place(hub):
    shutil.copy(hub.published / "plain" / VISION, hub.published / "mirror/blip2" / VISION)
    assert VISION in refuse(hub, from_="hub").problem
    assert not [path for _, path, _ in hub.server.log if path.startswith("/plain/")]


def test_from_a_url_takes_all_from_there(hub, tmp_path):
    run(hub)
    mirror = tmp_path / "mirror"
    with HubServer({}, mirror) as server:
        (mirror).mkdir()
        for name in FUSED_FILES:
            (mirror / name).parent.mkdir(exist_ok=True)
            shutil.copy(home.sources_dir() / name, mirror / name)
        hub.server.log.clear()
        run(hub, from_=f"{server.url}/plain/", to=str(tmp_path / "there"))
        check_complete(hub, tmp_path / "there")
    assert hub.server.log == []


def test_a_page_instead_of_a_file_is_no_config(hub, tmp_path):
    (tmp_path / "mirror").mkdir()
    with HubServer({}, tmp_path / "mirror") as server:
        for name in FUSED_FILES:
            (tmp_path / "mirror" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "mirror" / name).write_bytes(hub.read(Path(name).name))
        (tmp_path / "mirror/phi-2/config.json").write_text("<html>log in first</html>")
        assert "no JSON" in refuse(hub, from_=f"{server.url}/plain").problem


def test_a_dry_run_asks_nobody_and_writes_nothing(hub, capsys, tmp_path):
    run(hub, dry_run=True)
    out = capsys.readouterr().out
    assert "pytorch_model.bin" in out
    assert "missing" in out
    assert "to fetch: about 1.1 MB" in out
    assert hub.server.log == []
    assert not home.sources_dir().exists()


def test_verify_tells_right_from_wrong(hub, capsys):
    run(hub)
    run(hub, verify=True)
    assert "missing" not in capsys.readouterr().out
    path = home.sources_dir() / CHECKPOINT
    state = path.stat()
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    (home.sources_dir() / VISION).unlink()
    error = refuse(hub, verify=True)
    assert f"{CHECKPOINT} (wrong)" in error.problem
    assert f"{VISION} (missing)" in error.problem
    assert path.read_bytes() == content


def test_verify_notices_a_change_in_a_file_without_a_listed_hash(hub):
    run(hub)
    (home.sources_dir() / "phi-2/config.json").write_text('{"model_type": "phi", "hidden_size": 7}')
    assert "phi-2/config.json (wrong)" in refuse(hub, verify=True).problem


def test_options_that_do_not_go_together_are_refused(hub):
    for options in ({"variant": "a/b", "from_": "hub"}, {"variant": "a/b", "verify": True}):
        with pytest.raises(UsageError):
            run(hub, **options)
    with pytest.raises(UsageError):
        run(hub, force=True)


def test_there_is_no_stage_seven(hub):
    assert "stage 7" in refuse(hub, stage=7).problem


PROGRAM = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
from tinyv_cli.commands.pull import pull_weights
from tinyv_cli.options.pull import PullArguments
from weights.pulling.catalog import read_catalog
pull_weights(PullArguments(), read_catalog(Path(sys.argv[1])))
assert not {"torch", "transformers", "onnxruntime", "safetensors"} & set(sys.modules)
"""


def start(hub, tmp_path):
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.server.url,
        "HF_HOME": str(tmp_path / "hf"),
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(hub.catalog_path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_after_a_kill_or_ctrl_c_the_next_pull_goes_on_without_torch(hub, tmp_path, sent):
    hub.server.faults["pytorch_model.bin"] = Fault(slow_s=0.5)
    first = start(hub, tmp_path)
    wait_for(lambda: hub.server.sent_bytes["pytorch_model.bin"] >= 131_072, first)
    time.sleep(0.2)
    first.send_signal(sent)
    first.communicate(timeout=10)
    [part] = (home.sources_dir() / "phi-2").glob("*.part")
    had = part.stat().st_size
    assert 0 < had < 400_000
    hub.server.faults.clear()
    hub.server.log.clear()
    second = start(hub, tmp_path)
    out, err = second.communicate(timeout=30)
    assert second.returncode == 0, err
    assert out == f"{home.sources_dir()}\n"
    asked = [(p.rpartition("/")[2], r) for m, p, r in hub.server.log if m == "GET"]
    assert asked == [("pytorch_model.bin", f"bytes={had}-")]
    check_complete(hub)


def test_two_at_once_both_end_well_and_fetch_each_file_once(hub, tmp_path):
    hub.server.faults["pytorch_model.bin"] = Fault(slow_s=0.2)
    both = [start(hub, tmp_path) for _ in range(2)]
    ended = [process.communicate(timeout=30) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    check_complete(hub)
    assert hub.server.count("GET", "pytorch_model.bin") == 1
    assert sum("waiting for it" in err for _, err in ended) == 1


def wait_for(condition, process):
    end_s = time.monotonic() + 20
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end_s
        time.sleep(0.02)
