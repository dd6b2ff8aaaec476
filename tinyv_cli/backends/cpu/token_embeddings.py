"""Token ids become rows of the embedding table, which stays on disk, mapped."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tinyv_cli.errors import WeightsError
from tinyv_cli.variants.manifest import MAKE_AGAIN


class TokenEmbeddings:
    """The embedding table on disk, read a row at a time.

    Args:
        table: (V, D) float32 rows, or (V, G · group) uint8 codes.
        scales: for codes, (V, G, 2) float32: a group's scale and offset, so that a weight is
            code · scale + offset. Groups are runs of columns.
        width: D.
    """

    def __init__(self, table: np.ndarray, scales: np.ndarray | None, width: int) -> None:
        self._table = table
        self._scales = scales
        self._width = width

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
        with np.errstate(all="ignore"):  # of damaged scales: what comes of it is refused later
            groups = rows.reshape(*scales.shape[:2], -1) * scales[..., :1] + scales[..., 1:]
        weights: np.ndarray = groups.reshape(len(chosen), -1)[:, : self._width]
        return weights


def open_token_embeddings(codes: Path, scales: Path | None, width: int) -> TokenEmbeddings:
    """Maps the table's files, whose types and shapes were checked with their variant's manifest.

    Args:
        codes: `.npy` of rows or codes.
        scales: `.npy` of scales and offsets, None where rows are float32.
        width: D.

    Raises:
        WeightsError: a file is not a NumPy array.
    """
    table = _map_array(codes)
    return TokenEmbeddings(table, None if scales is None else _map_array(scales), width)


def _map_array(path: Path) -> np.ndarray:
    """Maps a `.npy` file.

    Raises:
        WeightsError: it is none, or cannot be read.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a header is read as Python, and fails in as many ways
        raise WeightsError(f"{path} is not a NumPy array: {error}", MAKE_AGAIN) from error
