"""What a pull only shows or checks, and options that do not go together."""

import os

import pytest

from tests.light.pulling.toy_hub import CHECKPOINT, VISION, refuse, run
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
