"""A wheel carries the program and the miniature, not the laboratory and no test."""

import ast
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("tinyv_cli", "quantize", "weights")
LABORATORY = ("weights/training/", "weights/synthetic/")
OTHERS = {
    "tinyv_cli/backends/cpu/saturation.onnx",
    "tinyv_cli/batch/sheet.css",
    "weights/sources.toml",
    *(f"tinyv_cli/serving/page/page.{kind}" for kind in ("html", "css", "js")),
}
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
def test_a_wheel_holds_the_program_and_the_miniature_and_nothing_else(tmp_path):
    tree = tmp_path / "tree"
    for name in (*PACKAGES, "tests"):
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
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    program = {path.relative_to(ROOT).as_posix() for path in list_program()}
    assert names == program | {f"weights/demo/{name}" for name in CARRIED} | OTHERS
    assert {"tinyv_cli/variants/miniature.py", "weights/pulling/catalog.py"} <= names


def list_program() -> list[Path]:
    """The code outside the laboratory."""
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    return [path for path in files if not path.relative_to(ROOT).as_posix().startswith(LABORATORY)]


def test_the_program_does_not_import_the_laboratory():
    for path in list_program():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                line = ast.unparse(node)
                assert not re.search(r"weights\.(import )?(training|synthetic)", line), path
