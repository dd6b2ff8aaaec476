"""`tinyv export` refuses in one line what cannot be made, before torch is loaded."""

import sys

import pytest

from quantize.export import request
from tests.light.commands.test_command_quantize import write_sources
from tinyv_cli.app import main
from tinyv_cli.errors import ExitCode


@pytest.fixture
def _place(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(sys.modules, "quantize.export.pipeline", None)  # with which torch comes
    monkeypatch.chdir(tmp_path)
    write_sources(tmp_path / "s", stages=(3, 4))


@pytest.fixture
def _packages(monkeypatch):
    """The packages for exporting, as far as anybody looks for them."""
    monkeypatch.setattr(request, "find_spec", lambda name: name)


def refuse(capsys, *words):
    code = main(["export", *words])
    out, err = capsys.readouterr()
    assert out == ""
    return code, err


@pytest.mark.usefixtures("_place")
@pytest.mark.parametrize("package", request.PACKAGES)
def test_without_its_packages_it_says_how_to_install_them(capsys, monkeypatch, package):
    monkeypatch.setattr(request, "find_spec", lambda name: None if name == package else name)
    assert refuse(capsys, "-o", "out", "--sources", "s") == (
        ExitCode.USAGE,
        f"error: exporting needs {package}, which is not installed\n"
        "hint:  install what exporting needs: `pip install 'tinyv[export]'`\n",
    )


@pytest.mark.usefixtures("_place", "_packages")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["-o", "out", "--dtype", "int8"], ExitCode.USAGE, "use `--dtype` with float32, float16"),
        (["-o", "out", "--opset", "13"], ExitCode.USAGE, "use `--opset` with 14 to 20"),
        (["-o", "out", "--opset", "21"], ExitCode.USAGE, "use `--opset` with 14 to 20"),
        (["-o", "out", "--stage", "2"], ExitCode.WEIGHTS, "TinyGPT-V_for_Stage2.pth"),
        (["-o", "s"], ExitCode.WEIGHTS, "s exists already\nhint:  name another folder: `-o DIR`"),
        (["-o", "s/eva_vit_g.pth/out"], ExitCode.DEVICE, "eva_vit_g.pth/out"),
        ([], ExitCode.USAGE, "hint:  name one: `-o vision`"),
    ],
)
def test_what_cannot_be_made_is_refused_with_a_way_out(capsys, words, code, said):
    found, err = refuse(capsys, "--sources", "s", *words)
    assert found == code
    assert said in err
