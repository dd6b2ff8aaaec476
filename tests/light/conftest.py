"""What several light tests share."""

import pytest
from PIL import Image

from tests.light.chat.toy_chat import ToyRuntimes
from tests.light.devices.toy_cuda import put_driver
from tests.light.evaluation.toy_evaluation import Runtimes
from tests.light.toy_variant import write_picture, write_variant
from tests.light.training.question_reader import make_asked, make_examples
from tinyv_cli.backends import opening as backends
from tinyv_cli.disk import places
from tinyv_cli.variants import miniature


@pytest.fixture(scope="session", autouse=True)
def _no_miniature(tmp_path_factory):
    """Tests see no miniature unless they put one in its place."""
    nowhere = tmp_path_factory.mktemp("installation") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(miniature, "miniature_dir", lambda: nowhere)
        yield


@pytest.fixture(autouse=True)
def _no_driver(monkeypatch):
    """Tests see no graphics card unless they put one in its place."""
    put_driver(monkeypatch)


@pytest.fixture(scope="session")
def examples():
    """Scenes of each split with their questions; read it only."""
    return make_examples()


@pytest.fixture(scope="session")
def asked():
    """(scene, question) of each task, of all splits; read it only."""
    return make_asked()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with two pictures and a home with two variants."""
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TINYV_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "cat.png")
    Image.new("RGB", (9, 9), "blue").save(tmp_path / "dog.png")
    for bits in (4, 8):
        write_variant(places.variants_dir() / f"bits{bits}", bits=bits)
    return tmp_path


@pytest.fixture
def runtimes(monkeypatch):
    """What is opened instead of a backend."""
    made = Runtimes()
    monkeypatch.setattr(backends, "open_backend", made.open_backend)
    return made


@pytest.fixture
def toys(monkeypatch):
    """What a conversation opens instead: decoders that repeat its questions."""
    made = ToyRuntimes()
    monkeypatch.setattr(backends, "open_backend", made.open_backend)
    return made


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The toy sources on a server that HF_ENDPOINT names, and an empty home."""
    from tests.light.pulling.toy_hub import serve_hub

    with serve_hub(tmp_path, monkeypatch) as served:
        yield served
