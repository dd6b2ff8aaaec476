"""Figures of a file of questions become one document, or tables for people; computes none."""

from collections.abc import Mapping
from typing import Any

from tinyv_cli.console import to_table
from tinyv_cli.evaluation.figures import ALL, Distance, Figure, TaskFigures


def describe_figures(tasks: Mapping[str, TaskFigures], distance: Distance | None) -> dict[str, Any]:
    """Describes figures for `--json`; what needs a second variant is null without one."""
    rows = {
        name: {
            "n": figures.n,
            "accuracy": figures.accuracy.value,
            "low": figures.accuracy.low,
            "high": figures.accuracy.high,
            **_to_keys("agreement", figures.agreement),
            **_to_keys("same_text", figures.same_text),
        }
        for name, figures in tasks.items()
    }
    everything = rows.pop(ALL)
    return {
        "tasks": rows,
        "all": everything,
        **_to_keys("kl_nats", distance.kl_nats if distance else None),
        **_to_keys("top1_agreement", distance.top1_agreement if distance else None),
    }


def _to_keys(name: str, figure: Figure | None) -> dict[str, float | None]:
    """Makes the keys of a figure and its interval in a document."""
    values = (figure.value, figure.low, figure.high) if figure else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def to_tables(tasks: Mapping[str, TaskFigures], distance: Distance | None) -> str:
    """Formats figures for people: a line a task, then the distance of two variants."""
    header = ["task", "questions", "right", "95 %"]
    rows = [[name, str(each.n), *_to_share_cells(each.accuracy)] for name, each in tasks.items()]
    if distance is None:
        return to_table(header, rows)
    header += ["same answer", "95 %", "same text"]
    for row, each in zip(rows, tasks.values(), strict=True):
        row += [*_to_share_cells(each.agreement), _to_share_cells(each.same_text)[0]]
    kl = distance.kl_nats
    measured = [
        ["logits KL (nats)", f"{kl.value:.4f}", f"{kl.low:.4f}-{kl.high:.4f}"],
        ["same best token", *_to_share_cells(distance.top1_agreement)],
    ]
    tables = to_table(header, rows), to_table(["", "", "95 %"], measured)
    return "\n\n".join(tables)


def _to_share_cells(figure: Figure | None) -> list[str]:
    """Formats a share and its interval for a table."""
    if figure is None:
        return ["-", "-"]
    return [f"{100 * figure.value:.1f} %", f"{100 * figure.low:.1f}-{100 * figure.high:.1f} %"]
