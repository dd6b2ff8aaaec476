"""Operators and tensors, named one after another, become an ONNX file and its data file.

Tensors go to disk as they come: the writer holds the graph, never the weights. It knows how a
rounding is spelt in operators (`linear`), and nothing of the network.
"""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from quantize.groupwise import round_matrix
from quantize.packing import to_matmul_nbits
from quantize.plan import PAGE_BYTES, SMALL_ALIGN_BYTES
from quantize.recipe import FLOAT16_BITS, Recipe

OPSET = 21
IR_VERSION = 10
MICROSOFT = "com.microsoft"
_INLINE_BYTES = 1024  # below this a tensor stays in the graph, where the runtime can fold it

ReadTensor: TypeAlias = Callable[[str], torch.Tensor]
Attribute: TypeAlias = int | float | str | list[int]


class GraphWriter:
    """Writes `name.onnx` and `name.data`, node by node.

    Args:
        path: the `.onnx` file; the data file stands beside it with the suffix `.data`.
        recipe: how each matrix is rounded.
        read: gives a canonical tensor in float32.
        threads: to round with.
    """

    def __init__(self, path: Path, recipe: Recipe, read: ReadTensor, threads: int = 1) -> None:
        self.path = path
        self.data_path = path.with_suffix(".data")
        self.read = read
        self._recipe = recipe
        self._threads = threads
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._data = self.data_path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._data.close()

    def constant(self, name: str, values: np.ndarray) -> str:
        """Adds a tensor once; a second call with the same name gives the first back."""
        if name in self._constants:
            return name
        values = np.asarray(values, order="C")
        tensor = TensorProto(name=name, dims=values.shape)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        if values.nbytes < _INLINE_BYTES:
            tensor.raw_data = values.tobytes()
        else:
            self._append(tensor, values)
        self._constants[name] = tensor
        return name

    def weight(self, name: str) -> str:
        """Adds a canonical tensor, kept in float32 or float16, and gives it in float32."""
        if self._recipe.rounding(name).bits != FLOAT16_BITS:
            return name if name in self._constants else self.constant(name, self.read(name).numpy())
        kept, wide = f"{name}.half", name
        if kept not in self._constants:
            self.constant(kept, self.read(name).half().numpy())
            self.apply("Cast", [kept], wide, to=TensorProto.FLOAT)
        return wide

    def node(
        self, operator: str, inputs: list[str], outputs: list[str], **attributes: Attribute
    ) -> list[str]:
        """Adds a node, named as its first output, and gives its outputs back."""
        node = helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes)
        self._nodes.append(node)
        return outputs

    def apply(self, operator: str, inputs: list[str], output: str, **attributes: Attribute) -> str:
        """Adds a node with one output and gives its name."""
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
        matrix = self.read(name)
        rounding = self._recipe.rounding(name)
        if not rounding.has_codes:
            product = self.apply("MatMul", [x, self.constant(name, matrix.T.numpy())], f"{out}.mul")
            return self.apply("Add", [product, bias], out)
        n_rows, n_columns = matrix.shape
        rounded = round_matrix(matrix, rounding, self._threads)
        codes, scales, zero_points = to_matmul_nbits(rounded)
        inputs = [
            x,
            self.constant(f"{name}.codes", codes),
            self.constant(f"{name}.scales", scales),
            self.constant(f"{name}.zero_points", zero_points),
            "",
            bias,
        ]
        return self.apply(
            "MatMulNBits",
            inputs,
            out,
            domain=MICROSOFT,
            N=n_rows,
            K=n_columns,
            bits=rounding.bits,
            block_size=rounded.rounding.group,
            accuracy_level=4,  # activations are rounded to 8 bits by group: the fast kernels
        )

    def save(self, inputs: list[Any], outputs: list[Any]) -> None:
        """Writes the graph; the data file is already complete.

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
        self._data.flush()
        onnx.save(model, self.path)

    def _append(self, tensor: TensorProto, values: np.ndarray) -> None:
        """Puts the numbers next into the data file and their place into the tensor."""
        align = PAGE_BYTES if values.nbytes >= PAGE_BYTES else SMALL_ALIGN_BYTES
        offset = -(-self._data.tell() // align) * align
        self._data.write(b"\0" * (offset - self._data.tell()))
        self._data.write(values.data.cast("B"))
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": self.data_path.name, "offset": offset, "length": values.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
