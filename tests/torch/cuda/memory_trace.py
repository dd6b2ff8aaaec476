"""A network on the meta device becomes the memory that it works in; computes nothing.

The meta device stands for a GPU: tensors there have shapes and bytes, and no numbers that could
be asked for. Attention is counted as a GPU computes it, in one kernel without score matrices.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from bitsandbytes.functional import QuantState
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tinyv_cli.backends.cuda.torch_device import TorchDevice
from tinyv_cli.backends.cuda.torch_modules import (
    Int8Embedding,
    Int8Linear,
    Int8WeightLinear,
    Nf4Linear,
)
from tinyv_cli.backends.cuda.torch_weights import NF4_BLOCK, finish_language, make_empty_language
from tinyv_cli.model.phi import PhiLanguage
from tinyv_cli.spec import LanguageSpec


class MetaGpu(TorchDevice):
    """The meta device with the dtype of a GPU, and without its streams and graphs."""

    def __init__(self) -> None:
        super().__init__("meta")
        self.dtype = torch.float16


def make_language(
    spec: LanguageSpec, bits: int, gpu: MetaGpu, *, has_int8_products: bool = True
) -> PhiLanguage:
    """The language model as a variant of 4 or 8 bits is loaded; its embeddings are zeros."""
    language = make_empty_language(spec)
    for name, module in list(language.named_modules()):
        if isinstance(module, nn.Linear):
            own_bits = 8 if name == "lm_head" else bits
            new = make_linear(module, own_bits, gpu)
            if own_bits == 8 and not has_int8_products:
                new = Int8WeightLinear(new.codes, new.scales, module.bias.to(gpu.dtype))
            language.set_submodule(name, new)
    table = torch.zeros(language.embed_tokens.weight.shape, dtype=torch.int8)
    language.set_submodule("embed_tokens", Int8Embedding(table, torch.zeros(len(table))))
    return finish_language(language, language.state_dict(), gpu.dtype)


def make_linear(linear: nn.Linear, bits: int, gpu: MetaGpu) -> nn.Module:
    n_rows, n_columns = shape = linear.weight.shape
    bias = linear.bias.to(gpu.dtype)
    if bits == 8:
        return Int8Linear(make_empty(*shape, dtype=torch.int8), make_empty(n_rows), bias)
    n_blocks = n_rows * n_columns // NF4_BLOCK
    # Not by bitsandbytes' own function: it would keep a table on the meta device for later callers.
    scales = QuantState(
        make_empty(-(-n_blocks // 256)), code=make_empty(256), blocksize=256, dtype=torch.float32
    )
    state = QuantState(
        make_empty(n_blocks, dtype=torch.uint8),
        shape=shape,
        code=make_empty(16),
        blocksize=NF4_BLOCK,
        quant_type="nf4",
        dtype=gpu.dtype,
        offset=torch.empty((), device="meta"),
        state2=scales,
    )
    codes = make_empty(n_rows * n_columns // 2, 1, dtype=torch.uint8)
    return Nf4Linear(codes, state, bias)


def make_empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


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


class Started(TorchDispatchMode):
    """Counts what is started on the GPU: everything but views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None) -> Any:
        out = function(*args, **(kwargs or {}))
        self.names.add(str(function))
        given = {storage._cdata for storage in list_storages((args, kwargs))}
        is_view = not function._schema.is_mutable and all(
            storage._cdata in given for storage in list_storages(out)
        )
        self.count += not is_view
        return out


@contextmanager
def count_started() -> Iterator[Started]:
    """Counts what is started inside, attention as one kernel."""
    with torch.no_grad(), FusedAttention(), Started() as started:
        yield started


@contextmanager
def trace_peak() -> Iterator[Peak]:
    """Counts what is made inside; what was there before is not known and not counted."""
    with torch.no_grad(), FusedAttention(), Peak() as peak:
        yield peak
