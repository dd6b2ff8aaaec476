"""Whatever the environment says of the network, pull names what is wrong, or does without."""

import os
import subprocess
import sys

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.light.pulling.toy_hub import check_complete, run
from tests.light.toy_variant import write_variant
from tinyv_cli.app import main
from tinyv_cli.errors import UsageError

UNUSABLE = {
    "ALL_PROXY": "socks://127.0.0.1:1080",
    "SSL_CERT_FILE": "/nowhere/certificates.pem",
    "HF_TOKEN": "hf_…",
    "HF_HUB_DOWNLOAD_TIMEOUT": "abc",
    "HF_ENDPOINT": "nonsense",
    "NO_PROXY": "localhost,[::1]",
}


def refuse(hub):
    with pytest.raises(UsageError) as caught:
        run(hub)
    assert hub.server.log == []
    return caught.value


@pytest.mark.parametrize("name", ["ALL_PROXY", "SSL_CERT_FILE", "HF_TOKEN", "HF_ENDPOINT"])
def test_a_setting_that_cannot_be_used_is_named_before_anything_is_asked(hub, monkeypatch, name):
    monkeypatch.setenv(name, UNUSABLE[name])
    assert name in refuse(hub).problem


@pytest.mark.parametrize("token", ["hf_…", "hf_\x01", "hf_\udce9", "\ufeffhf_abc"])
@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_a_token_that_cannot_be_one_is_not_shown(hub, monkeypatch, name, token):
    monkeypatch.setenv(name, token)
    error = refuse(hub)
    assert error.problem.startswith(f"{name} cannot be used")
    assert token not in error.problem + error.hint


@pytest.mark.parametrize("kind", ["utf-16", "utf-8-sig", "folder"])
def test_a_file_of_a_token_that_cannot_be_read_is_named(hub, tmp_path, monkeypatch, kind):
    place = tmp_path / "token"
    if kind == "folder":
        place.mkdir()
    else:
        place.write_text("hf_abc", kind)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(place))
    assert str(place) in refuse(hub).problem


def test_hosts_without_proxy_that_are_not_understood_are_named(hub, monkeypatch):
    # Source: httpx 0.28.1, which huggingface_hub 1.0 brings along, raises this for [::1].
    def stumble():
        raise RuntimeError("Invalid port: ':1]'")

    monkeypatch.setenv("NO_PROXY", "localhost,[::1]")
    monkeypatch.setattr(huggingface_hub, "get_session", stumble)
    error = refuse(hub)
    assert error.problem == "NO_PROXY=localhost,[::1] cannot be used: Invalid port: ':1]'"


def test_what_is_there_needs_no_usable_setting(hub, monkeypatch, tmp_path, capsys):
    run(hub)
    variant = write_variant(tmp_path / "toy")
    for name, value in UNUSABLE.items():
        monkeypatch.setenv(name, value)
    run(hub)
    run(hub, verify=True)
    run(hub, from_=str(tmp_path / "home" / "sources"), to=str(tmp_path / "copy"))
    check_complete(hub, tmp_path / "copy")
    assert main(["pull", str(variant)]) == 0


def test_a_fresh_process_imports_the_hubs_library_only_where_it_is_asked(tmp_path):
    """In this one it has been imported, with settings that are good."""
    variant = write_variant(tmp_path / "toy")
    environment = {**os.environ, **UNUSABLE, "TINYV_HOME": str(tmp_path / "home")}
    program = "import sys; from tinyv_cli.app import main; sys.exit(main(sys.argv[1:]))"
    for origin, code in ((str(variant), 0), ("someone/toy", 2)):
        done = subprocess.run(
            [sys.executable, "-c", program, "pull", origin],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert len(done.stderr.splitlines()) == code
