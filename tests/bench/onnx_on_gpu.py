"""The CPU's decoder graph in float16 becomes a step on a GPU by onnxruntime; for measuring alone.

Codes are random: only shapes, types and addresses are those of an answer. One graph in one session,
all inputs and outputs bound to memory of the device, and the step recorded as a CUDA graph.
Positions that are not there yet are passed over by their number alone, so that the length which the
host gives is that of the whole cache: it is recorded with the step.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from quantize.cpu.decoder_graph import write_decoder
from quantize.cpu.graph import DataFile, GraphWriter
from quantize.groupwise import GroupedCodes
from quantize.recipe import RECIPES
from tinyv_cli.backends.cpu.quiet_onnxruntime import ort
from tinyv_cli.model.tinygptv import make_empty_model
from tinyv_cli.spec import ModelSpec

CUDA = "CUDAExecutionProvider"
RECIPE = RECIPES[4]
_PRECISE = "rotary."  # Range has no float16


def find_missing_runtime(is_cuda: bool) -> str | None:
    """Why nothing can be measured; None where it can."""
    if is_cuda and CUDA not in ort.get_available_providers():
        return f"onnxruntime {ort.__version__} has no {CUDA}: `pip install onnxruntime-gpu`"
    return None


class NarrowGraph(GraphWriter):
    """A graph whose numbers, inputs and outputs are of another float type than float32."""

    def __init__(self, *arguments: Any, dtype: np.dtype, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._dtype = dtype
        kinds = {np.dtype(np.float16): TensorProto.FLOAT16, np.dtype(np.float32): TensorProto.FLOAT}
        self._kind = kinds[dtype]

    def constant(self, name: str, values: np.ndarray) -> str:
        is_wide = values.dtype == np.float32 and not name.startswith(_PRECISE)
        return super().constant(name, values.astype(self._dtype) if is_wide else values)

    def apply(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        if operator not in ("Cos", "Sin"):
            return super().apply(operator, inputs, output, **attributes)
        wide = super().apply(operator, inputs, f"{output}.wide", **attributes)
        return super().apply("Cast", [wide], output, to=self._kind)

    def save(self, inputs: list[Any], outputs: list[Any]) -> None:
        for each in (*inputs, *outputs):
            if each.type.tensor_type.elem_type == TensorProto.FLOAT:
                each.type.tensor_type.elem_type = self._kind
        super().save(inputs, outputs)


def write_random_decoder(folder: Path, spec: ModelSpec, dtype: np.dtype) -> Path:
    """Writes the graph and its numbers."""
    shapes = {name: t.shape for name, t in make_empty_model(spec).state_dict().items()}
    generator = torch.Generator().manual_seed(0)

    def read(name: str) -> torch.Tensor:
        return torch.full(shapes[name], float("norm" in name and name.endswith("weight")))

    def make_codes(name: str) -> GroupedCodes:
        n_rows, n_columns = shapes[name]
        rounding = RECIPE.rounding(name).fit(n_columns)
        n_groups, n_codes = -(-n_columns // rounding.group), 2**rounding.bits
        codes = torch.randint(
            n_codes, (n_rows, n_groups * rounding.group), dtype=torch.uint8, generator=generator
        )
        scales = torch.full((n_rows, n_groups), 1 / (n_codes * n_columns**0.5))
        zero_points = torch.full((n_rows, n_groups), n_codes // 2, dtype=torch.uint8)
        return GroupedCodes(codes, scales, zero_points, rounding, n_columns)

    language = spec.language
    with DataFile(folder / "decoder.data") as data:
        graph = NarrowGraph(
            folder / "decoder.onnx", data, RECIPE, read, find_codes=make_codes, dtype=dtype
        )
        write_decoder([graph], [range(language.n_layers)], language, lambda: None)
    return graph.path


class OnnxStep:
    """A step of one sequence, with keys and values of the whole context on the device.

    Args:
        path: of the graph.
        spec: the model's numbers.
        dtype: of the graph.
        number: of the GPU; None for the CPU.
    """

    def __init__(self, path: Path, spec: ModelSpec, dtype: np.dtype, number: int | None) -> None:
        language = spec.language
        place = ("cpu", 0) if number is None else ("cuda", number)
        options = ort.SessionOptions()
        provider: Any = "CPUExecutionProvider"
        if number is not None:
            provider = (CUDA, {"device_id": number, "enable_cuda_graph": "1"})
        session = ort.InferenceSession(str(path), options, providers=[provider])
        if number is not None and session.get_providers()[0] != CUDA:
            raise RuntimeError(f"onnxruntime opened the decoder on {session.get_providers()}")
        self._session, self._binding = session, session.io_binding()

        def put(array: np.ndarray, *where: Any) -> Any:
            return ort.OrtValue.ortvalue_from_numpy(array, *(where or place))

        self._embeddings = put(np.zeros((1, 1, language.width), dtype))
        self._last_position = put(np.zeros(1, np.int32))
        self._total = put(np.array(language.context_length, np.int32), "cpu", 0)
        self._logits = put(np.zeros((1, language.vocab_size), dtype))
        shape = (1, language.n_heads, language.context_length, language.head_width)
        names = [f"{kind}.{i}" for i in range(language.n_layers) for kind in ("key", "value")]
        self._cache = {name: put(np.zeros(shape, dtype)) for name in names}
        bound = {"embeddings": self._embeddings, "last_positions": self._last_position}
        for name, value in {**bound, "total_length": self._total}.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._cache.items():
            self._binding.bind_ortvalue_input(f"past_{name}", value)
            self._binding.bind_ortvalue_output(f"present_{name}", value)
        self._binding.bind_ortvalue_output("logits", self._logits)
        shape = (language.context_length, 1, 1, language.width)
        self._tokens = np.random.default_rng(0).standard_normal(shape, np.float32).astype(dtype)

    def run(self, position: int) -> np.ndarray:
        """Computes a token at a position, always the same one; returns its logits, (1, V)."""
        self._embeddings.update_inplace(self._tokens[position])
        self._last_position.update_inplace(np.array([position], np.int32))
        self._session.run_with_iobinding(self._binding)
        logits: np.ndarray = self._logits.numpy()
        return logits
