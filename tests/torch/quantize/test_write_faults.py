"""Whatever is refused while a variant is written, it is told in two lines with a path.

Seen in: issue "what other people's reports broke", table F: EIO and EACCES at 53 of 53 writes of
`tinyv quantize` were tracebacks.
"""

import errno
import shutil
import sys

import pytest

from quantize import language_side
from quantize.measure import compare
from quantize.measure.probes import PROBES
from tests.faults import KINDS, Disk, watched
from tinyv_cli.app import main
from tinyv_cli.errors import ExitCode

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="open files are named by /proc")


@pytest.fixture
def quantize(tiny_sources, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    # So little is measured and calibrated that a variant takes a second; every file is written.
    monkeypatch.setattr(compare, "PROBES", PROBES[:3])
    monkeypatch.setattr(language_side, "_POSITIONS_A_COLUMN", 1)
    words = ["quantize", "--sources", str(tiny_sources), "-o", str(tmp_path / "made"), "-q"]

    def run(*flags, **refusal):
        with watched(Disk(tmp_path, **refusal)) as disk:
            code = main([*words, *flags, "--threads", "1"])
        return code, disk.asked

    return run


def test_each_refusal_is_named_and_leaves_nothing(quantize, tmp_path, capsys):
    made = tmp_path / "made"
    code, asked = quantize()
    assert code == ExitCode.OK
    assert len(asked) > 30
    last = {each: number for number, each in enumerate(asked)}
    first = {each: number for number, each in reversed(list(enumerate(asked)))}
    numbers = sorted({*first.values(), *last.values()})  # of a file's 34 writes the two ends
    n_told = 0
    for number in numbers:
        what, place = asked[number]
        shutil.rmtree(made)
        shutil.rmtree(tmp_path / "home")
        capsys.readouterr()
        kind = KINDS[number % len(KINDS)]
        code, _ = quantize(refused=number, code=kind)
        err = capsys.readouterr().err
        case = (what, place, errno.errorcode[kind], err)
        assert code in (ExitCode.OK, ExitCode.DEVICE), case
        if code == ExitCode.OK:  # stamps can be done without, and so can a sync of a folder
            assert (made / "manifest.json").exists(), case
            continue
        n_told += 1
        problem, hint = err.splitlines()
        assert problem.startswith("error: "), case
        assert hint.startswith("hint:  "), case
        assert str(tmp_path) in problem, case
        assert not made.exists(), case
        assert [each.name for each in tmp_path.iterdir() if each.name != "home"] == [], case
        made.mkdir()
    assert n_told > len(numbers) / 2
