"""A network on the meta device becomes the memory it works in at its peak; computes nothing.

The meta device stands for a card: tensors there have shapes and bytes, and no numbers that could
be asked for. Attention is counted as a card computes it, in one kernel without score matrices.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tinyv_cli.backends.torch_device import TorchDevice


class MetaCard(TorchDevice):
    """The meta device with the dtype of a card, and without its streams and graphs."""

    def __init__(self) -> None:
        super().__init__("meta")
        self.dtype = torch.float16
        self.lock = nullcontext()


class Peak(TorchDispatchMode):
    """Counts the bytes that live at once, of what is made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.now_bytes = self.peak_bytes = 0
        self._live: set[int] = set()

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None) -> Any:
        given = {storage._cdata for storage in list_storages((args, kwargs))}
        out = function(*args, **(kwargs or {}))
        for storage in list_storages(out):
            if storage._cdata not in given:  # else a view, or changed in place
                self._add(storage)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        place, n_bytes = storage._cdata, storage.nbytes()
        if place in self._live:
            return
        self._live.add(place)
        self.now_bytes += n_bytes
        self.peak_bytes = max(self.peak_bytes, self.now_bytes)
        weakref.finalize(storage, self._drop, place, n_bytes)

    def _drop(self, place: int, n_bytes: int) -> None:
        self._live.discard(place)
        self.now_bytes -= n_bytes


def list_storages(tree: Any) -> list[torch.UntypedStorage]:
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    return [tensor.untyped_storage() for tensor in tensors if tensor.is_meta]


class FusedAttention(TorchFunctionMode):
    """Attention whose only new tensor is its result."""

    def __torch_function__(self, function, _types, args=(), kwargs=None) -> Any:
        if function is scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return function(*args, **(kwargs or {}))


@contextmanager
def trace_peak() -> Iterator[Peak]:
    """Counts what is made inside; what was there before is not known and not counted."""
    with torch.no_grad(), FusedAttention(), Peak() as peak:
        yield peak
