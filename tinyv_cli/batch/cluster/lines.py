"""Lines of a batch become columns of fixed types, and lines again."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

_TEXTS, _SHARES, _PIXELS = pa.string(), pa.list_(pa.float64()), pa.list_(pa.int64())
_TIMES = ("read", "encode", "prefill", "decode", "total")

# Fixed, since a block without any failure would else have no type for `error`.
SCHEMA = pa.schema(
    [
        ("path", _TEXTS),
        ("answer", _TEXTS),
        (
            "boxes",
            pa.list_(pa.struct([("label", _TEXTS), ("box", _SHARES), ("pixels", _PIXELS)])),
        ),
        ("finish_reason", _TEXTS),
        ("timings", pa.struct([(name, pa.float64()) for name in _TIMES])),
        ("error", pa.struct([("problem", _TEXTS), ("hint", _TEXTS)])),
        ("model", _TEXTS),
        ("toy", pa.bool_()),
        ("drawing", pa.bool_()),
    ]
)


def to_table(lines: Iterable[dict[str, Any]]) -> pa.Table:
    """Makes a table with a row a line; what a line does not say is null."""
    return pa.Table.from_pylist(list(lines), schema=SCHEMA)


def to_lines(table: pa.Table) -> list[dict[str, Any]]:
    """Makes the lines that a table was made of."""
    return [
        {key: value for key, value in row.items() if value is not None} for row in table.to_pylist()
    ]
