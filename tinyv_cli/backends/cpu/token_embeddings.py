"""Token ids become rows of the embedding table, which stays on disk, mapped."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tinyv_cli.errors import WeightsError


class TokenEmbeddings:
    """The embedding table on disk, read a row at a time.

    Args:
        table: (V, D) float32 rows, or (V, G · group) uint8 codes.
        scales: for codes, (V, G, 2) float32: a group's scale and offset, so that a weight is
            code · scale + offset. Groups are runs of columns.
        width: D.

    Raises:
        WeightsError: the tables do not fit each other or the width.
    """

    def __init__(self, table: np.ndarray, scales: np.ndarray | None, width: int) -> None:
        self._table = table
        self._scales = scales
        self._width = width
        if scales is None:
            fits = table.shape[1:] == (width,)
        else:
            fits = scales.shape[::2] == (len(table), 2) and table.shape[1] % scales.shape[1] == 0
        if not fits:
            raise _damaged(f"the token embeddings {table.shape} do not fit a width of {width}")

    def rows(self, ids: Sequence[int]) -> np.ndarray:
        """Looks tokens up.

        Args:
            ids: T token ids below V.

        Returns:
            (T, D) float32.
        """
        chosen = np.asarray(ids, np.int64)
        rows = self._table[chosen]
        if self._scales is None:
            return np.asarray(rows, np.float32)
        scales = self._scales[chosen]  # (T, G, 2)
        groups = rows.reshape(*scales.shape[:2], -1) * scales[..., :1] + scales[..., 1:]
        weights: np.ndarray = groups.reshape(len(chosen), -1)[:, : self._width]
        return weights


def open_token_embeddings(codes: Path, scales: Path | None, width: int) -> TokenEmbeddings:
    """Maps the table's files.

    Args:
        codes: `.npy` of rows or codes.
        scales: `.npy` of scales and offsets, None where rows are float32.
        width: D.

    Raises:
        WeightsError: a file is not a NumPy array, or the two do not fit.
    """
    try:
        table = np.load(codes, mmap_mode="r")
        scale_table = None if scales is None else np.load(scales, mmap_mode="r")
    except ValueError as error:
        raise _damaged(f"{codes} is not a NumPy array") from error
    return TokenEmbeddings(table, scale_table, width)


def _damaged(problem: str) -> WeightsError:
    return WeightsError(problem, "make the variant again with `tinyv quantize --force`")
