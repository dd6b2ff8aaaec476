"""Rows that have no line yet become units for one worker each; a reader of Ray's loads no more."""

from collections.abc import Callable, Collection, Iterable
from functools import partial

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from tinyv_cli.batch.cluster.sources import Source


class PendingRows(Datasource):  # type: ignore[misc]
    """The rows that have no line yet, in units for one worker each.

    Args:
        source: of all rows.
        pending: names of those wanted.
        n_rows: of a unit, at most.
    """

    def __init__(self, source: Source, pending: Collection[str], n_rows: int) -> None:
        super().__init__()
        names = [name for name in source.words if name in pending]
        self._tasks = [
            _make_task(
                partial(_make_unit, {name: source.words[name] for name in names[i : i + n_rows]}),
                len(names[i : i + n_rows]),
            )
            for i in range(0, len(names), n_rows)
        ]
        for group in source.groups:
            wanted = frozenset(name for name in group.names if name in pending)
            if wanted:
                self._tasks.append(_make_task(partial(group.read, wanted, n_rows), len(wanted)))

    def __len__(self) -> int:
        return len(self._tasks)

    def estimate_inmemory_data_size(self) -> int | None:
        """Returns None: how long pictures are is not known before they are read."""
        return None

    def get_read_tasks(self, parallelism: int, **_: object) -> list[ReadTask]:
        """Returns a task a unit, whatever number is asked for."""
        return self._tasks


def _make_task(read: Callable[[], Iterable[pa.Table]], n_rows: int) -> ReadTask:
    """Makes what Ray calls to read a unit, or the units of a row group."""
    return ReadTask(read, BlockMetadata(n_rows, None, None, None))


def _make_unit(words: dict[str, str]) -> list[pa.Table]:
    """Makes the rows of pictures that a worker opens by their words."""
    return [pa.table({"path": list(words), "word": list(words.values())})]
