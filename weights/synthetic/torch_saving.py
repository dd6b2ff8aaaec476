"""Tensors in memory become a PyTorch file, as a whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

import torch

from tinyv_cli.disk.whole_file import open_whole
from tinyv_cli.disk.writing import writing


def save_whole(path: Path, content: Mapping[str, object]) -> None:
    """Saves what `torch.load` reads again; a file that stands there is replaced as a whole.

    Raises:
        DeviceError: it cannot be written; the place is as it was.
    """
    with writing(path), open_whole(path) as file:
        try:
            torch.save(dict(content), file)
        except RuntimeError as error:  # torch goes on after a failed write, and fails in its words
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
