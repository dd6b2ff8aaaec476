"""A wheel carries the miniature."""

import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[3]
CARRIED = (
    "sources/phi-2/config.json",
    "sources/phi-2/model.safetensors",
    "sources/TinyGPT-V_for_Stage4.pth",
    "sources/architecture.json",
    "variant/manifest.json",
    "variant/decoder.data",
)


def read_setuptools_version():
    try:
        return int(version("setuptools").partition(".")[0])
    except PackageNotFoundError:
        return 0


@pytest.mark.skipif(read_setuptools_version() < 77, reason="builds with setuptools 77 or later")
def test_a_wheel_carries_the_miniature(tmp_path):
    tree = tmp_path / "tree"
    for name in ("tinyv_cli", "quantize", "weights"):
        shutil.copytree(
            ROOT / name, tree / name, ignore=shutil.ignore_patterns("demo", "__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in CARRIED:
        path = tree / "weights" / "demo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    code = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, check=True)
    [wheel] = tree.glob("*.whl")
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"weights/demo/{name}" for name in CARRIED} <= names
    assert "tinyv_cli/variants/miniature.py" in names
