"""Operators and tensors, named one after another, become an ONNX file, their numbers a data file.

Tensors go to disk as they come: the writer holds the graph, never the weights. It knows how a
rounding is spelt in operators (`linear`), and nothing of the network.
"""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper

from quantize.channelwise import round_channels
from quantize.cpu.data_file import DataFile
from quantize.cpu.packing import to_matmul_nbits
from quantize.groupwise import round_matrix
from quantize.recipe import FLOAT16_BITS, Recipe
from weights.reading.checkpoint import ReadTensor

OPSET = 21
IR_VERSION = 10
MICROSOFT = "com.microsoft"
_INLINE_BYTES = 1024  # below this a tensor stays in the graph, where the runtime can fold it
Attribute: TypeAlias = int | float | str | list[int]


class GraphWriter:
    """Writes an `.onnx` file, node by node; its tensors go into a data file.

    Args:
        path: the `.onnx` file.
        data: an open file in the same folder; several graphs may share it.
        recipe: how each matrix is rounded.
        read: gives a canonical tensor in float32.
        threads: to round with.
    """

    def __init__(
        self, path: Path, data: DataFile, recipe: Recipe, read: ReadTensor, threads: int = 1
    ) -> None:
        self.path = path
        self.read = read
        self._data = data
        self._recipe = recipe
        self._threads = threads
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

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
        rounding = self._recipe.rounding(name)
        if not rounding.has_codes:
            matrix = self.constant(name, self.read(name).T.numpy())
            product = self.apply("MatMul", [x, matrix], f"{out}.mul")
            return self.apply("Add", [product, bias], out)
        if rounding.per_channel:
            return self._multiply_per_channel(x, name, bias, out)
        return self._multiply_grouped(x, name, bias, out)

    def _multiply_per_channel(self, x: str, name: str, bias: str, out: str) -> str:
        """X · Wᵀ + b with one scale an output channel, and one for all activations."""
        rounded = round_channels(self.read(name))
        codes = self.constant(f"{name}.codes", rounded.codes.T.numpy())  # (K, N)
        scales = self.constant(f"{name}.scales", rounded.scales.numpy())
        zero_points = np.zeros(len(rounded.scales), np.int8)
        inputs = [x, codes, scales, self.constant(f"{name}.zero_points", zero_points), bias]
        return self.apply("DynamicQuantizeMatMul", inputs, out, domain=MICROSOFT)

    def _multiply_grouped(self, x: str, name: str, bias: str, out: str) -> str:
        """X · Wᵀ + b with scales and zero points by group, of weights and of activations."""
        matrix = self.read(name)
        rounded = round_matrix(matrix, self._recipe.rounding(name), self._threads)
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
            N=matrix.shape[0],
            K=matrix.shape[1],
            bits=rounded.rounding.bits,
            block_size=rounded.rounding.group,
            accuracy_level=4,  # activations are rounded to 8 bits by group: the fast kernels
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

    def _append(self, tensor: TensorProto, values: np.ndarray) -> None:
        """Puts the numbers next into the data file and their place into the tensor."""
        offset = self._data.append(values)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": self._data.path.name, "offset": offset, "length": values.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
