"""Trained sources become the miniature's: rounded to float16, with the logs of their training.

`python -m weights.training.keep SOURCES DEMO` writes DEMO/sources, the logs with one line in 20 to
DEMO/log.jsonl and their curve to DEMO/loss.png. Only the last stage's checkpoint is kept.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from tinyv_cli.errors import InputError
from weights.reading.sources import (
    ARCHITECTURE_FILE,
    PHI_FOLDER,
    QFORMER_FILE,
    VISION_FILE,
    make_checkpoint_name,
    resolve_sources,
)
from weights.synthetic.module_command import open_console
from weights.training.curve import RUNS, draw_curves
from weights.training.learning.trainer import STATES_FOLDER

_EVERY = 20  # steps between two lines of the kept log


def keep_sources(sources: Path, demo: Path) -> Path:
    """Writes rounded sources, thinned logs and the curve of losses.

    Args:
        sources: all stages are trained.
        demo: the miniature's folder.

    Returns:
        The folder of kept sources.

    Raises:
        WeightsError: the sources are not complete.
        InputError: the folder holds sources already.
    """
    files = resolve_sources(sources)
    target = demo / "sources"
    if target.exists():
        raise InputError(f"{target} is there already", "remove it, or name another folder")
    shutil.copytree(files.folder / PHI_FOLDER, target / PHI_FOLDER)
    shutil.copy(files.folder / ARCHITECTURE_FILE, target)
    for name in (VISION_FILE, QFORMER_FILE, make_checkpoint_name(files.stage)):
        content = torch.load(files.folder / name, weights_only=True)
        torch.save(round_tensors(content), target / name)
    logs = files.folder / STATES_FOLDER
    (demo / "log.jsonl").write_text("".join(thin_logs(logs)), "utf-8")
    draw_curves(logs).savefig(demo / "loss.png", dpi=80)
    return target


def round_tensors(content: object) -> object:
    """Rounds every floating-point tensor in nested dictionaries to float16."""
    if isinstance(content, dict):
        return {key: round_tensors(value) for key, value in content.items()}
    if isinstance(content, torch.Tensor) and content.is_floating_point():
        return content.half()
    return content


def thin_logs(folder: Path) -> list[str]:
    """Reads one line in 20 of every run's log, with the run's name."""
    kept = []
    for name in RUNS:
        path = folder / f"{name}.log.jsonl"
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        kept += [json.dumps({"run": name} | json.loads(line)) + "\n" for line in lines[::_EVERY]]
    return kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Keeps what the command line asks for, and prints the folder's path.

    Args:
        arguments: instead of the process's own.

    Raises:
        SystemExit: something cannot be used.
    """
    parser = argparse.ArgumentParser(prog="python -m weights.training.keep", description=__doc__)
    parser.add_argument("sources", type=Path, metavar="SOURCES", help="all stages are trained")
    parser.add_argument("demo", type=Path, metavar="DEMO", help="weights/demo")
    parsed = parser.parse_args(arguments)
    with open_console() as console:
        console.write_line(str(keep_sources(parsed.sources, parsed.demo)))


if __name__ == "__main__":
    main()
