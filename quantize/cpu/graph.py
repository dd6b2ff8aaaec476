"""Operators and tensors, named one after another, become an ONNX file and its numbers a data file.

Tensors go to disk as they come: the writer holds the graph, never the weights. How a rounding is
spelt in operators stands here (`linear`); which operators make up the network does not.

Source: com.microsoft.MatMulNBits and DynamicQuantizeMatMul in onnxruntime's ContribOperators.md.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from quantize.channelwise import round_channels
from quantize.groupwise import GroupedCodes, round_matrix
from quantize.plan import PAGE_BYTES, SMALL_ALIGN_BYTES
from quantize.recipe import FLOAT16_BITS, Recipe
from weights.reading.checkpoint import ReadTensor

OPSET = 21
IR_VERSION = 10
MICROSOFT = "com.microsoft"
_INLINE_BYTES = 1024  # below this a tensor stays in the graph, where the runtime can fold it
Attribute: TypeAlias = int | float | str | list[int]
FindCodes: TypeAlias = Callable[[str], GroupedCodes | None]  # by a matrix's canonical name


class DataFile:
    """A file of arrays that grows one by one; one or several graphs name places in it.

    Args:
        path: is made, or emptied.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")

    def append(self, values: np.ndarray) -> int:
        """Writes an array's bytes; a page or more starts on a page, less on a cache line.

        Args:
            values: in C order.

        Returns:
            Where they begin, in bytes from the file's start.
        """
        # Pages let the runtime map what is large. A page for each small array would be mostly
        # empty; with it, and groups of 128 in short rows, the miniature took 12.0 MB, not 10.5.
        align = PAGE_BYTES if values.nbytes >= PAGE_BYTES else SMALL_ALIGN_BYTES
        offset = -(-self._file.tell() // align) * align
        self._file.write(b"\0" * (offset - self._file.tell()))
        self._file.write(values.data.cast("B"))
        return offset

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class GraphWriter:
    """Writes an `.onnx` file, node by node; its tensors go into a data file.

    Args:
        path: the `.onnx` file.
        data: an open file in the same folder; several graphs may share it.
        recipe: how each matrix is rounded.
        read: returns a canonical tensor in float32.
        threads: to round with.
        find_codes: a matrix that was rounded before becomes its codes; None: each is rounded to the
            nearest when it is written.
    """

    def __init__(
        self,
        path: Path,
        data: DataFile,
        recipe: Recipe,
        read: ReadTensor,
        threads: int = 1,
        find_codes: FindCodes | None = None,
    ) -> None:
        self.path = path
        self.read = read
        self._data = data
        self._recipe = recipe
        self._threads = threads
        self._find_codes = find_codes
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def constant(self, name: str, values: np.ndarray) -> str:
        """Adds a tensor unless there is one of that name; returns the name."""
        if name in self._constants:
            return name
        values = np.asarray(values, order="C")
        tensor = TensorProto(name=name, dims=values.shape)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        if values.nbytes < _INLINE_BYTES:
            tensor.raw_data = values.tobytes()
        else:
            offset = self._data.append(values)
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": self._data.path.name, "offset": offset, "length": values.nbytes}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
        self._constants[name] = tensor
        return name

    def weight(self, name: str) -> str:
        """Adds a canonical tensor, kept in float32 or float16; returns its name in float32."""
        if self._recipe.rounding(name).bits != FLOAT16_BITS:
            return name if name in self._constants else self.constant(name, self.read(name).numpy())
        kept = f"{name}.half"
        if kept not in self._constants:
            self.constant(kept, self.read(name).half().numpy())
            # The runtime computes it once, when it opens the graph: no Cast is left in what runs.
            self.apply("Cast", [kept], name, to=TensorProto.FLOAT)
        return name

    def node(
        self, operator: str, inputs: list[str], outputs: list[str], **attributes: Attribute
    ) -> list[str]:
        """Adds a node, named as its first output; returns its outputs."""
        node = helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes)
        self._nodes.append(node)
        return outputs

    def apply(self, operator: str, inputs: list[str], output: str, **attributes: Attribute) -> str:
        """Adds a node with one output; returns its name."""
        return self.node(operator, inputs, [output], **attributes)[0]

    def split_in_three(self, x: str, output: str) -> list[str]:
        """Cuts the last axis into three equal parts."""
        parts = [f"{output}.{i}" for i in range(3)]
        return self.node("Split", [x], parts, axis=-1, num_outputs=3)

    def reshape(self, x: str, shape: tuple[int, ...], output: str) -> str:
        """Reshapes; 0 keeps a dimension, -1 takes what is left."""
        spelt = "shape." + "_".join(str(n) for n in shape)
        return self.apply("Reshape", [x, self.constant(spelt, np.array(shape, np.int64))], output)

    def layer_norm(self, x: str, tensors: str, eps: float) -> str:
        """LayerNorm over the last axis with `tensors`.weight and `tensors`.bias."""
        inputs = [x, self.weight(f"{tensors}.weight"), self.weight(f"{tensors}.bias")]
        return self.apply("LayerNormalization", inputs, f"{tensors}.out", axis=-1, epsilon=eps)

    def linear(self, x: str, tensors: str) -> str:
        """Computes x · Wᵀ + b with `tensors`.weight (N, K), rounded as told, and `tensors`.bias."""
        name = f"{tensors}.weight"
        bias, out = self.weight(f"{tensors}.bias"), f"{tensors}.out"
        rounding = self._recipe.rounding(name)
        if not rounding.has_codes:
            matrix = self.constant(name, self.read(name).T.numpy())
            return self.apply("Add", [self.apply("MatMul", [x, matrix], f"{out}.mul"), bias], out)
        if rounding.per_channel:
            rows = round_channels(self.read(name))
            stored = {
                f"{name}.codes": rows.codes.T.numpy(),  # (K, N)
                f"{name}.scales": rows.scales.numpy(),
                f"{name}.zero_points": np.zeros(len(rows.scales), np.int8),
            }
            inputs = [x, *(self.constant(*each) for each in stored.items()), bias]
            return self.apply("DynamicQuantizeMatMul", inputs, out, domain=MICROSOFT)
        grouped = self._find_codes(name) if self._find_codes is not None else None
        if grouped is None:
            grouped = round_matrix(self.read(name), rounding, self._threads)
        names = [f"{name}.{each}" for each in ("codes", "scales", "zero_points")]
        stored = dict(zip(names, to_matmul_nbits(grouped), strict=True))
        return self.apply(
            "MatMulNBits",
            [x, *(self.constant(*each) for each in stored.items()), "", bias],
            out,
            domain=MICROSOFT,
            N=len(grouped.codes),
            K=grouped.n_columns,
            bits=grouped.rounding.bits,
            block_size=grouped.rounding.group,
            # The fast kernels round activations to 8 bits by group. That is 0.6 % of one product's
            # norm, as much as the weights' own rounding to 8 bits.
            accuracy_level=1 if grouped.rounding.float_activations else 4,
        )

    def save(self, inputs: list[Any], outputs: list[Any]) -> None:
        """Writes the graph; the data file already holds its tensors.

        Args:
            inputs: value infos of what is fed.
            outputs: value infos of what is computed.
        """
        graph = helper.make_graph(
            self._nodes, self.path.stem, inputs, outputs, list(self._constants.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="tinyv"
        )
        onnx.save(model, self.path)


def to_matmul_nbits(rounded: GroupedCodes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lays a rounded matrix out for MatMulNBits.

    Args:
        rounded: a matrix at 4 or 8 bits.

    Returns:
        B (N, G, group · bits / 8) uint8, scales (N · G) float32, zero points (N · ⌈G · bits / 8⌉)
        uint8. Of two 4-bit codes in a byte, the lower column's is the lower nibble.
    """
    n_rows, n_groups = rounded.scales.shape
    codes, zero_points = rounded.codes, rounded.zero_points
    if rounded.rounding.bits == 4:
        codes = _to_nibbles(codes)
        zero_points = _to_nibbles(torch.nn.functional.pad(zero_points, (0, n_groups % 2)))
    return (
        codes.view(n_rows, n_groups, -1).numpy(),
        rounded.scales.flatten().numpy(),
        zero_points.flatten().numpy(),
    )


def _to_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """Packs 4-bit codes (N, 2n) into bytes (N, n), the lower nibble first."""
    return codes[:, ::2] | (codes[:, 1::2] << 4)
