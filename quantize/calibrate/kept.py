"""Rounded layers are kept on disk while a variant is made, so that a killed process loses one."""

import shutil
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor

from tinyv_cli.disk.writing import make_folder, writing

_WAY_OUT = "make room there, or name another folder: `export TINYV_HOME=DIR`"
_KEY, _STATES = "key", "states-{}.safetensors"


class KeptLayers:
    """The layers of one rounding, in a folder of their own.

    Args:
        folder: made if need be; what another rounding left there is removed.
        key: of the rounding: sources, recipe, material, versions. Another key, another rounding.

    Raises:
        DeviceError: it cannot be written.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        mark = folder / _KEY
        with writing(folder, _WAY_OUT):
            if not mark.is_file() or mark.read_text("utf-8") != key:
                self.remove()
                make_folder(folder, _WAY_OUT)
                mark.write_text(key, "utf-8")

    def load(self, layer: int) -> dict[str, Tensor] | None:
        """Reads a layer's arrays; None where it is still to be rounded."""
        path = self._folder / f"layer-{layer}.safetensors"
        # The states come last: without them nothing follows on a layer.
        if not path.is_file() or self._find_states() < layer:
            return None
        arrays: dict[str, Tensor] = load_file(path)
        return arrays

    def load_states(self) -> dict[str, Tensor]:
        """Reads the streams' states behind the last layer."""
        states: dict[str, Tensor] = load_file(self._folder / _STATES.format(self._find_states()))
        return states

    def save(self, layer: int, arrays: dict[str, Tensor], states: dict[str, Tensor]) -> None:
        """Keeps a layer, and the states behind it instead of those behind the one before.

        Raises:
            DeviceError: there is no room.
        """
        with writing(self._folder, _WAY_OUT):
            for name, tensors in (
                (f"layer-{layer}.safetensors", arrays),
                (_STATES.format(layer), states),
            ):
                half = self._folder / "half"
                half.write_bytes(save({key: each.contiguous() for key, each in tensors.items()}))
                half.replace(self._folder / name)
            (self._folder / _STATES.format(layer - 1)).unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes everything that is kept."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _find_states(self) -> int:
        """Returns the last layer that states are kept behind, -1 where there is none."""
        found = self._folder.glob(_STATES.format("*"))
        return max((int(path.stem.rpartition("-")[2]) for path in found), default=-1)
