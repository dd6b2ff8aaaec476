"""What can be told without a weight is told before torch is loaded, which takes seconds.

Seen in: issue "what other people's reports broke", table E: 5 s of processor for `--bits 5`, a
missing folder, "exists already".
"""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.light.commands.test_command_quantize import write_sources
from tests.light.toy_variant import write_variant
from tinyv_cli.errors import ExitCode

ROOT = Path(__file__).resolve().parents[3]
BUDGET_S = 0.5  # of the processor; measured 0.26
PROGRAM = """
import sys
from tinyv_cli.app import main
code = main(sys.argv[1:])
heavy = {"torch", "transformers", "onnx", "onnxruntime", "safetensors", "bitsandbytes"}
print(*heavy & set(sys.modules))
sys.exit(code)
"""
SOURCES = ["--sources", "sources"]
REFUSED = [
    (["--bits", "6"], ExitCode.USAGE, "there is no recipe for 6 bits"),
    (["--bits", "32", "--target", "cuda"], ExitCode.USAGE, "no recipe for 32 bits with"),
    (["--target", "tpu"], ExitCode.USAGE, "there is no target tpu"),
    (["--vision-bits", "8"], ExitCode.USAGE, "is for a GPU's files only"),
    (["--vision-bits", "7", "--target", "all"], ExitCode.USAGE, "no vision side with 7 bits"),
    (["--sources", "nowhere"], ExitCode.WEIGHTS, "nowhere is not a folder"),
    (["--sources", "nowhere", "-o", "mine"], ExitCode.WEIGHTS, "nowhere is not a folder"),
    (["--sources", "nowhere", "--dry-run"], ExitCode.WEIGHTS, "nowhere is not a folder"),
    (["--sources", "file"], ExitCode.WEIGHTS, "file is not a folder"),
    (["--sources", "empty"], ExitCode.WEIGHTS, "empty lacks"),
    (["--sources", "variant"], ExitCode.WEIGHTS, "is a variant, not a folder of sources"),
    ([*SOURCES, "--stage", "9"], ExitCode.WEIGHTS, "there is no stage 9"),
    ([*SOURCES, "--stage", "2", "-o", "mine"], ExitCode.WEIGHTS, "lacks TinyGPT-V_for_Stage2.pth"),
    (SOURCES, ExitCode.WEIGHTS, "stage4-4bit exists already"),
    ([*SOURCES, "-o", "./variant"], ExitCode.WEIGHTS, "variant exists already"),
    ([*SOURCES, "-o", "./full", "--force"], ExitCode.USAGE, "full is not a variant, `--force`"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    write_sources(place / "sources", stages=(4,))
    write_variant(place / "variant")
    write_variant(place / "home" / "variants" / "stage4-4bit")
    for name in ("empty", "full"):
        (place / name).mkdir()
    (place / "file").touch()
    (place / "full" / "letter.txt").touch()
    # A package that is found and never read: whether quantising is installed does not matter here.
    for name in ("torch", "onnx", "safetensors", "bitsandbytes"):
        (place / "packages" / name).mkdir(parents=True)
        (place / "packages" / name / "__init__.py").write_text(
            "raise RuntimeError(__file__)", "utf-8"
        )
    return place


def read_used_s() -> float:
    """Processor time of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(("flags", "code", "said"), REFUSED, ids=lambda each: str(each)[:40])
def test_what_can_be_refused_without_torch_is_refused_before_it_is_loaded(place, flags, code, said):
    used_s, help_s = [], [0.0]
    while not used_s or (min(used_s) >= BUDGET_S and len(used_s) < 5):
        before = read_used_s()
        done = run(place, *flags)
        between = read_used_s()
        used_s.append(between - before)
        run(place, "--help")
        help_s.append(read_used_s() - between)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stdout == "\n"
    # A machine that is slow at the moment is slow at listing the options too.
    assert min(used_s) < max(BUDGET_S, 2.5 * min(help_s[1:]))


def test_what_is_not_refused_does_load_it(place):
    done = run(place, "--sources", "sources", "-o", "new")
    assert "__init__.py" in done.stderr


def run(place, *flags):
    environment = {
        "PATH": "",
        "HOME": str(place),
        "TINYV_HOME": str(place / "home"),
        "PYTHONPATH": f"{place / 'packages'}:{ROOT}",
    }
    words = [sys.executable, "-c", PROGRAM, "quantize", *flags]
    return subprocess.run(
        words, cwd=place, env=environment, capture_output=True, text=True, check=False
    )
