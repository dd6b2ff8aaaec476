"""A file of answers that came from elsewhere, a JSON object a line, becomes what was given.

A line is `{"index": 0, "answer": "a cat"}`: the record's place from 0, and the text as it was
generated, not cut. For choices that were ranked it is `{"index": 0, "losses": {"red": 1.2, …}}`, by
text, or a list in the order of the choices; for Hateful Memes losses of `yes` and `no`, or `p_yes`.
The ledger of an earlier run is such a file.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyv_cli.errors import InputError
from tinyv_cli.evaluation.published.benchmarks import Benchmark
from tinyv_cli.evaluation.published.loaders.json_rows import read_json_line_rows
from tinyv_cli.evaluation.published.records import Given, Record

FORM = '{"index": 0, "answer": "a cat"}'
_HINT = f"write one such object a line: `{FORM}`"


def read_given(path: Path, benchmark: Benchmark, records: Sequence[Record]) -> dict[int, Given]:
    """Reads answers, by the index of their record.

    Raises:
        InputError: the file cannot be read, or a line is no answer to one of the records.
    """
    by_index = {record.index: record for record in records}
    given: dict[int, Given] = {}
    for row in read_json_line_rows(path):
        index = row.values.get("index")
        try:
            if type(index) is not int or index not in by_index:
                raise ValueError(
                    f"its index is {index!r}, and the records are 0 to {max(by_index)}"
                )
            if index in given:
                raise ValueError(f"record {index} has an answer before it")
            given[index] = _to_given(row.values, by_index[index], benchmark)
        except ValueError as error:
            raise InputError(f"{row.place} is no answer: {error}", _HINT) from error
    if not given:
        raise InputError(f"{path} holds no answer", _HINT)
    return given


def _to_given(values: Mapping[str, Any], record: Record, benchmark: Benchmark) -> Given:
    """Reads one line; raises ValueError where it lacks what the benchmark's rules need."""
    text, losses = values.get("answer"), values.get("losses")
    if text is not None and not isinstance(text, str):
        raise ValueError("its 'answer' is no text")
    if losses is None and "p_yes" in values:
        losses = _to_losses(values["p_yes"])
    elif losses is not None:
        losses = _name_losses(losses, record, benchmark)
    if benchmark.ranks and losses is None:
        raise ValueError("it has no 'losses' of the choices")
    if not benchmark.ranks and text is None:
        raise ValueError("it has no 'answer'")
    return Given(text, losses)


def _to_losses(p_yes: object) -> dict[str, float]:
    """Makes losses of a probability of yes."""
    if type(p_yes) not in (int, float) or not 0 <= p_yes <= 1:  # type: ignore[operator]
        raise ValueError("its 'p_yes' is no number from 0 to 1")
    chances = {"yes": float(p_yes), "no": 1 - float(p_yes)}  # type: ignore[arg-type]
    return {word: -math.log(each) if each else math.inf for word, each in chances.items()}


def _name_losses(losses: object, record: Record, benchmark: Benchmark) -> dict[str, float]:
    """Gives each loss the text it is of."""
    if isinstance(losses, list):
        orders = (record.choices or benchmark.words, record.candidates)
        names = next((each for each in orders if len(each) == len(losses)), None)
        if names is None:
            raise ValueError(f"it has {len(losses)} losses, and there are {len(orders[0])} choices")
        losses = dict(zip(names, losses, strict=True))
    if not isinstance(losses, dict):
        raise ValueError("its 'losses' are neither a list nor by text")
    for name, loss in losses.items():
        if type(loss) not in (int, float) or not math.isfinite(loss):
            raise ValueError(f"its loss of '{name}' is no number")
    wanted = record.choices or benchmark.words
    missing = [each for each in wanted if each not in losses]
    if missing:
        raise ValueError(f"it has no loss of '{missing[0]}'")
    return losses
