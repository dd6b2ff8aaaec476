"""Variants that tests share: made once, from golden sources, through the public functions."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from quantize.pipeline import QuantizeOptions, make_variant
from tests.golden import GOLDEN
from tests.torch.quantize.tiny_sources import write_tiny
from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.backends.backend import Backend, BackendOptions
from tinyv_cli.backends.opening import open_backend
from tinyv_cli.progress import show_nothing
from tinyv_cli.variants import miniature
from tinyv_cli.variants.manifest import Variant, read_variant


@dataclass(frozen=True)
class GoldenCase:
    """A golden folder, read."""

    folder: Path
    facts: dict[str, Any]
    tensors: dict[str, np.ndarray]

    @property
    def turns(self) -> list[dict[str, Any]]:
        return self.facts["turns"]

    @property
    def picture(self) -> Image.Image:
        return Image.open(self.folder / "image.png").convert("RGB")


def read_golden_case(name: str) -> GoldenCase:
    folder = GOLDEN / name
    facts = json.loads((folder / "expected.json").read_text("utf-8"))
    return GoldenCase(folder, facts, load_file(folder / "expected.safetensors"))


@dataclass(frozen=True)
class OpenVariant:
    """A variant with everything that an answer needs."""

    variant: Variant
    backend: Backend
    tokenizer: Tokenizer


def open_variant(variant: Variant) -> OpenVariant:
    backend = open_backend(variant, BackendOptions(threads=1))
    return OpenVariant(variant, backend, Tokenizer(variant.path("tokenizer")))


@pytest.fixture(scope="session")
def variants_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TINYV_HOME of the shared variants."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Small networks are faster so, and on busy cores many times faster."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_home(variants_home: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYV_HOME", str(variants_home))
        patch.delenv("TINYV_MODEL", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_miniature(tmp_path_factory: pytest.TempPathFactory):
    """Tests see no miniature unless they put one in its place."""
    nowhere = tmp_path_factory.mktemp("installation") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(miniature, "miniature_dir", lambda: nowhere)
        yield


@pytest.fixture(scope="session")
def tiny_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small sources of stage 3; read it only."""
    folder = tmp_path_factory.mktemp("tiny") / "sources"
    return write_tiny(folder, stage=3)


@pytest.fixture(scope="session")
def tiny_model(tiny_sources: Path, variants_home: Path) -> Path:
    """The folder of a variant of them at 4 bits; read it only."""
    folder = variants_home / "variants" / "tiny-4"
    make_variant(QuantizeOptions(tiny_sources, folder, threads=1), show_nothing)
    return folder


@pytest.fixture(scope="session")
def golden_variant(variants_home: Path) -> Callable[[str, int], Variant]:
    """Gives the variant of a golden case at some bits, made when first asked for."""

    def make(case: str, bits: int) -> Variant:
        folder = variants_home / "variants" / f"{case}-{bits}"
        if not folder.exists():
            options = QuantizeOptions(GOLDEN / case, folder, bits, threads=1, quick=True)
            make_variant(options, show_nothing)
        return read_variant(folder)

    return make
