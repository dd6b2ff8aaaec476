"""The toys on a hub of this computer, and pulls from it."""

import time
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download

from tests.light.pulling.hub_server import HubServer
from tests.light.weights.toy_sources import (
    FAST,
    FUSED_FILES,
    ToyHub,
    publish,
    write_catalog,
)
from tinyv_cli.commands.fetching.pull import pull_weights
from tinyv_cli.disk import places
from tinyv_cli.errors import WeightsError
from tinyv_cli.options.pull import PullArguments
from weights.reading.sources import resolve_sources

CHECKPOINT = "TinyGPT-V_for_Stage4.pth"


VISION = "eva_vit_g.pth"


QFORMER = "blip2_pretrained_flant5xxl.pth"


@contextmanager
def serve_hub(tmp_path, monkeypatch):
    """The toys on a server that HF_ENDPOINT names, and an empty home."""
    published = tmp_path / "published"
    publish(published)
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    repositories = {f"{p.parent.name}/{p.name}": p for p in published.glob("*/*") if p.is_dir()}
    with HubServer(repositories, published / "plain") as server:
        point_at(monkeypatch, server.url, tmp_path)
        write_catalog(tmp_path / "list.toml", published, server.url)
        yield ToyHub(server, tmp_path / "list.toml", published)


def point_at(monkeypatch, url, tmp_path):
    """Sets what huggingface_hub makes of its variables when it is imported."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    if hasattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE"):  # a copy of its own, below 1.0
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def run(hub, **options):
    pull_weights(PullArguments(**options), hub.catalog, FAST)


def refuse(hub, **options):
    start_s = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        run(hub, **options)
    # Below 1.0 the hub's own library asks six times before it gives up, and cannot be told not to.
    limit_s = 60 if huggingface_hub.__version__.startswith("0.") else 10
    assert time.monotonic() - start_s < limit_s
    assert caught.value.hint
    return caught.value


def check_complete(hub, folder=None):
    folder = folder or places.sources_dir()
    for name in FUSED_FILES:
        assert (folder / name).read_bytes() == hub.read(Path(name).name), name
    assert resolve_sources(folder).stage == 4
    assert not list(folder.rglob("*.part"))
