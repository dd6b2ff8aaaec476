"""What a pull only shows or checks, and options that do not go together."""

import os
import shutil
from pathlib import Path

import pytest

from tests.light.pulling.hub_server import HubServer
from tests.light.pulling.toy_hub import CHECKPOINT, VISION, check_complete, refuse, run
from tests.light.weights.toy_sources import FUSED_FILES
from tinyv_cli.disk import places
from tinyv_cli.errors import UsageError


def test_a_dry_run_asks_nobody_and_writes_nothing(hub, capsys, tmp_path):
    run(hub, dry_run=True)
    out = capsys.readouterr().out
    assert "pytorch_model.bin" in out
    assert "missing" in out
    assert "to fetch: about 1.1 MB" in out
    assert hub.server.log == []
    assert not places.sources_dir().exists()


def test_verify_tells_right_from_wrong(hub, capsys):
    run(hub)
    run(hub, verify=True)
    assert "missing" not in capsys.readouterr().out
    path = places.sources_dir() / CHECKPOINT
    state = path.stat()
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    (places.sources_dir() / VISION).unlink()
    error = refuse(hub, verify=True)
    assert f"{CHECKPOINT} (wrong)" in error.problem
    assert f"{VISION} (missing)" in error.problem
    assert path.read_bytes() == content


def test_verify_notices_a_change_in_a_file_without_a_listed_hash(hub):
    run(hub)
    (places.sources_dir() / "phi-2/config.json").write_text(
        '{"model_type": "phi", "hidden_size": 7}'
    )
    assert "phi-2/config.json (wrong)" in refuse(hub, verify=True).problem


def test_options_that_do_not_go_together_are_refused(hub):
    for options in ({"variant": "a/b", "from_": "hub"}, {"variant": "a/b", "verify": True}):
        with pytest.raises(UsageError):
            run(hub, **options)
    with pytest.raises(UsageError):
        run(hub, force=True)


def test_there_is_no_stage_seven(hub):
    assert "stage 7" in refuse(hub, stage=7).problem


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
            shutil.copy(places.sources_dir() / name, mirror / name)
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
        assert "not a JSON" in refuse(hub, from_=f"{server.url}/plain").problem
