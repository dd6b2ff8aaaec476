"""The logs of training become one picture of their losses.

`python -m weights.training.curve SOURCES` draws every run logged in SOURCES/training, in the order
of training, to SOURCES/training/loss.png.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tinyv_cli.errors import InputError
from weights.synthetic.module_command import open_console
from weights.training.learning.trainer import STATES_FOLDER

RUNS = ("seeing", "speaking", "stage1", "stage2", "stage3", "stage4")
_N_SMOOTHED = 50  # steps that one point of the line is the mean of


def read_losses(log: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads steps and losses of a log that a `Trainer` wrote; a broken last line is passed over."""
    lines = log.read_text("utf-8").splitlines(keepends=True)
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return np.array([e["step"] for e in entries]), np.array([e["loss"] for e in entries])


def draw_curves(folder: Path) -> Figure:
    """Draws a panel a run: each step's loss pale, their running mean above it.

    Args:
        folder: where runs keep their logs.

    Raises:
        InputError: there is no log.
    """
    logs = {name: folder / f"{name}.log.jsonl" for name in RUNS}
    found = {name: log for name, log in logs.items() if log.is_file()}
    if not found:
        raise InputError(
            f"{folder} holds no log", "train first: `python -m weights.training --help`"
        )
    figure = Figure(figsize=(4 * len(found), 3.2), layout="constrained")
    for i, (name, log) in enumerate(found.items(), 1):
        steps, losses = read_losses(log)
        panel = figure.add_subplot(1, len(found), i)
        panel.plot(steps, losses, color="#9db4c8", linewidth=0.6)
        width = min(_N_SMOOTHED, len(losses))
        mean = np.convolve(losses, np.full(width, 1 / width), mode="valid")
        panel.plot(steps[width - 1 :], mean, color="#1f4e79", linewidth=1.6)
        panel.set_title(name)
        panel.set_xlabel("step")
        panel.set_ylabel("loss (nats)" if i == 1 else "")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws what the command line asks for, and prints the picture's path.

    Args:
        arguments: instead of the process's own.

    Raises:
        SystemExit: there is no log.
    """
    parser = argparse.ArgumentParser(prog="python -m weights.training.curve", description=__doc__)
    parser.add_argument("sources", type=Path, metavar="SOURCES")
    parsed = parser.parse_args(arguments)
    with open_console() as console:
        folder = parsed.sources / STATES_FOLDER
        target = folder / "loss.png"
        draw_curves(folder).savefig(target, dpi=110)
        console.write_line(str(target))


if __name__ == "__main__":
    main()
