"""Figures become one document and a table, beside an earlier document's; measures nothing."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeGuard

from tinyv_cli.benchmark.measure import Measured
from tinyv_cli.benchmark.spread import Spread
from tinyv_cli.console import to_size, to_table
from tinyv_cli.disk.reading import read_bytes
from tinyv_cli.disk.typed_json import read_object, to_dataclass
from tinyv_cli.errors import InputError, describe_os_error

PREFILL_LENGTH = 128  # what `prefill_tok_s` is of, or the length nearest to it
DECODE_DEPTH = 64  # what `decode_tok_s` is of, or the depth nearest to it
HOW_TO_KEEP_ONE = "keep one with `tinyv bench --json > FILE`"

_BYTES_PER_GB = 1e9
_SAME = 0.005  # ratios that round to 1.00


@dataclass(frozen=True)
class Headline:
    """The figures that every document has; medians, but for `read_gb_s`.

    Attributes:
        load_s: opening the decoder.
        encode_s: a picture to image tokens, once the vision side is open.
        prefill_tok_s: positions a second of a prompt of `PREFILL_LENGTH`.
        decode_tok_s: tokens a second behind `DECODE_DEPTH` positions.
        first_token_s: from a question about a new picture to the first token.
        peak_rss_bytes: of the process; None where it cannot be found out.
        bytes_per_token: that decoding one token reads.
        achieved_gb_s: `bytes_per_token` times `decode_tok_s`, in 10⁹ bytes a second.
        read_gb_s: the best that this machine reads with as many threads.
    """

    load_s: float
    encode_s: float
    prefill_tok_s: float
    decode_tok_s: float
    first_token_s: float
    peak_rss_bytes: int | None
    bytes_per_token: int
    achieved_gb_s: float
    read_gb_s: float


@dataclass(frozen=True)
class Line:
    """One line of the table: a figure's name, where a document has it, and how it is shown."""

    label: str
    name: str
    key: str | None = None  # length or depth

    @property
    def more_is_better(self) -> bool:
        """Returns whether the larger of two values is the better one."""
        return self.name.endswith(("tok_s", "gb_s"))

    def find(self, document: Mapping[str, Any]) -> float | None:
        """Finds the value in a document of this or an earlier run; None where there is none.

        Documents of other versions may have measured more, or less.
        """
        value: object = self.find_spread(document).get("median")
        if self.key is None:
            value = document.get(self.name, value)
        return value if _is_figure(value) else None

    def find_spread(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """Finds the figure's details in a document; empty where there are none."""
        found: object = document
        for step in ("details", self.name, *([] if self.key is None else [self.key])):
            found = found.get(step) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    def show(self, value: object) -> str:
        """Formats a value for a cell."""
        if not _is_figure(value):
            return "-"
        if self.name.endswith("_bytes") or self.name.startswith("bytes_"):
            return to_size(int(value))
        return f"{value:.1f}" if self.more_is_better else f"{value:.3f}"

    def to_row(self, document: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> list[str]:
        """Makes the cells; beside an earlier document also its value, their ratio and the better.

        Whatever lies within the spread of this run counts as the same.
        """
        now, spread = self.find(document), self.find_spread(document)
        cells = [self.label, *map(self.show, (now, spread.get("min"), spread.get("max")))]
        cells.append(str(spread.get("repeats", "-")))
        if earlier is None:
            return cells
        then = self.find(earlier)
        ratio = _to_ratio(now, then)
        if then is not None and spread and spread["min"] <= then <= spread["max"]:
            better = "same"
        elif ratio is None:
            better = "-"
        elif abs(ratio - 1) < _SAME:
            better = "same"
        else:
            better = "now" if (ratio > 1) == self.more_is_better else "then"
        return [*cells, self.show(then), "-" if ratio is None else f"{ratio:.2f}", better]


def make_bench_document(
    measured: Measured,
    start_s: Spread,
    read_gb_s: Spread,
    bytes_per_token: Mapping[int, int],
    step_bytes: Mapping[int, int],
) -> dict[str, Any]:
    """Joins figures in what `--json` prints: the headline, and the rest in `details`.

    Args:
        measured: of the variant.
        start_s: of the program.
        read_gb_s: of the machine.
        bytes_per_token: by the depths that were measured.
        step_bytes: that a step reads, by the answers at once that were measured.
    """
    length = find_nearest(measured.prefill_tok_s, PREFILL_LENGTH)
    depth = find_nearest(measured.decode_tok_s, DECODE_DEPTH)
    decode_tok_s = measured.decode_tok_s[depth].median
    achieved_gb_s = bytes_per_token[depth] * decode_tok_s / _BYTES_PER_GB
    headline = Headline(
        load_s=measured.load_s.median,
        encode_s=measured.encode_s.median,
        prefill_tok_s=measured.prefill_tok_s[length].median,
        decode_tok_s=decode_tok_s,
        first_token_s=measured.first_token_s.median,
        peak_rss_bytes=measured.peak_rss_bytes,
        bytes_per_token=bytes_per_token[depth],
        achieved_gb_s=achieved_gb_s,
        read_gb_s=read_gb_s.max,
    )
    details = asdict(measured) | {
        "start_s": asdict(start_s),
        "read_gb_s": asdict(read_gb_s),
        "prefill_tok_s": _to_text_keys(measured.prefill_tok_s),
        "decode_tok_s": _to_text_keys(measured.decode_tok_s),
        "parallel_tok_s": _to_text_keys(measured.parallel_tok_s),
        "parallel_share": {
            str(n): step_bytes[n] * each.median / n / _BYTES_PER_GB / read_gb_s.max
            for n, each in measured.parallel_tok_s.items()
        },
        "prefill_length": length,
        "decode_depth": depth,
        "achieved_share": achieved_gb_s / read_gb_s.max,
    }
    del details["peak_rss_bytes"]
    return asdict(headline) | {"details": details}


def find_nearest(figures: Mapping[int, Spread], wanted: int) -> int:
    """Returns the length or depth nearest to the one wanted; of two as near, the shorter one."""
    return min(figures, key=lambda each: (abs(each - wanted), each))


def read_earlier(path: Path) -> dict[str, Any]:
    """Reads the document of an earlier run; untrusted: the headline's figures are validated.

    Raises:
        InputError: the file cannot be read, or is no such document.
    """
    try:
        content = read_bytes(path)
    except OSError as error:
        problem = f"cannot read {path}: {describe_os_error(error)}"
        raise InputError(problem, HOW_TO_KEEP_ONE) from error
    try:
        document = read_object(content)
        for name, value in asdict(to_dataclass(Headline, document)).items():
            if value is not None and not _is_figure(value):
                raise ValueError(f"{name} is {value}")
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is no document of `tinyv bench`: {error}", HOW_TO_KEEP_ONE
        ) from error
    return document


def compare(document: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, float | None]:
    """Divides each figure of the headline by the earlier one; None where one is missing."""
    lines = [Line(name, name) for name in Headline.__dataclass_fields__]
    return {line.name: _to_ratio(line.find(document), line.find(earlier)) for line in lines}


def list_differences(document: Mapping[str, Any], earlier: Mapping[str, Any]) -> list[str]:
    """Lists in what an earlier run differs from this one: variant, machine, versions."""

    def collect(each: Mapping[str, Any]) -> dict[str, object]:
        machine = each.get("machine")
        return {"model": each.get("model"), **(machine if isinstance(machine, dict) else {})}

    now, then = collect(document), collect(earlier)
    return [f"{name} {then.get(name)}" for name in now if then.get(name) != now[name]]


def to_report(document: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> str:
    """Makes the table for people.

    Args:
        document: as `make_bench_document` makes it.
        earlier: adds what was measured then, now divided by then, and which is better: the same
            where the earlier value lies within this run's spread.
    """
    header = ["", "median", "min", "max", "repeats"]
    if earlier is not None:
        header += ["then", "now/then", "better"]
    details = document["details"]
    lines = [
        Line("start (s)", "start_s"),
        Line("load (s)", "load_s"),
        Line("first picture (s)", "first_encode_s"),
        Line("picture (s)", "encode_s"),
        *(Line(f"prompt of {n} (tokens/s)", "prefill_tok_s", n) for n in details["prefill_tok_s"]),
        *(Line(f"decoding at {n} (tokens/s)", "decode_tok_s", n) for n in details["decode_tok_s"]),
        *(
            Line(f"{n} at once (tokens/s together)", "parallel_tok_s", n)
            for n in details["parallel_tok_s"]
        ),
        Line("first token (s)", "first_token_s"),
        Line("answer (s)", "total_s"),
        Line("peak memory", "peak_rss_bytes"),
        Line("read for a token", "bytes_per_token"),
        Line("read when decoding (GB/s)", "achieved_gb_s"),
        Line("memory, best pass (GB/s)", "read_gb_s"),
    ]
    share, tokens = details["achieved_share"], ", ".join(map(str, details["answer_tokens"]))
    notes = [
        f"decoding reads at {100 * share:.0f} % of what this machine can read",
        f"the memory's speed is that of reading {to_size(details['read_array_bytes'])}",
        f"tokens of the answers: {tokens}",
    ]
    notes += [
        f"{n} at once read at {100 * share:.0f} %" for n, share in details["parallel_share"].items()
    ]
    rows = [line.to_row(document, earlier) for line in lines]
    return "\n".join([to_table(header, rows), *notes])


def _to_ratio(now: float | None, then: float | None) -> float | None:
    """Divides now by then; None where one of them is missing."""
    return None if now is None or then is None else now / then


def _to_text_keys(figures: Mapping[int, Spread]) -> dict[str, dict[str, Any]]:
    """Keys figures by text, as JSON does."""
    return {str(key): asdict(spread) for key, spread in figures.items()}


def _is_figure(value: object) -> TypeGuard[float]:
    """Returns whether this is a number that can be measured: finite and above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and value > 0
