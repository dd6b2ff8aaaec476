"""Arrays become the bytes of a `.data` file, each at a place that can be mapped; knows no graph."""

from pathlib import Path
from typing import Self

import numpy as np

from quantize.plan import PAGE_BYTES, SMALL_ALIGN_BYTES


class DataFile:
    """A file that grows array by array; one or several graphs name places in it.

    Args:
        path: is made, or emptied.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")

    def append(self, values: np.ndarray) -> int:
        """Puts an array's bytes next; a page or more starts on a page, less on a cache line.

        Args:
            values: in C order.

        Returns:
            Where they begin, in bytes from the file's start.
        """
        align = PAGE_BYTES if values.nbytes >= PAGE_BYTES else SMALL_ALIGN_BYTES
        offset = -(-self._file.tell() // align) * align
        self._file.write(b"\0" * (offset - self._file.tell()))
        self._file.write(values.data.cast("B"))
        return offset

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
