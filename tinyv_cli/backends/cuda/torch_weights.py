"""A variant's CUDA files become the network on a device; nothing is quantised here.

Matrices stay as they were saved. All else keeps its numbers, too, but for what a GPU computes in
float16: biases, the norms inside branches and the vision side. Token embeddings stay in the mapped
file: a token needs one row of them.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from tinyv_cli.backends.cuda.torch_device import has_int8_products
from tinyv_cli.backends.cuda.torch_modules import (
    LARGEST_CODE,
    Int8Embedding,
    Int8Linear,
    Int8WeightLinear,
    NarrowingNorm,
    Nf4Linear,
)
from tinyv_cli.backends.cuda.torch_tensors import MAKE_AGAIN, ExpectedTensor, MappedTensors
from tinyv_cli.devices.quiet_bitsandbytes import QuantState
from tinyv_cli.errors import WeightsError
from tinyv_cli.model.phi import PhiLanguage
from tinyv_cli.model.tinygptv import TinyGptV, make_empty_model
from tinyv_cli.spec import LanguageSpec, ModelSpec

NF4_BLOCK = 64  # neighbours of a row that share a scale
_NESTED_BLOCK = 256  # scales that share a scale, where they are quantised themselves
_STATE = "quant_state.bitsandbytes__nf4"  # bitsandbytes' name for what is no tensor, as JSON
_PREFIX = "language."
_EMBEDDINGS = "language.embed_tokens.weight"
_SCALES = f"{_EMBEDDINGS}.scales"
_WIDE_NORMS = ("input_layernorm", "final_layernorm")  # those of hidden states


def load_language(path: Path, spec: LanguageSpec, device: str, dtype: torch.dtype) -> PhiLanguage:
    """Loads the language model.

    Args:
        path: of the file with the role `cuda-language`.
        spec: the model's numbers.
        device: where it goes.
        dtype: of activations.

    Returns:
        The network with quantised modules in place of its matrices and of its embeddings.

    Raises:
        WeightsError: the file is not a safetensors file, or a tensor is missing, surplus or not
            what it should be.
    """
    language = make_empty_language(spec)

    def stays(name: str) -> bool:
        # A step needs one row of the embeddings; bitsandbytes reads its JSON on the host.
        return name in (_EMBEDDINGS, _SCALES) or name.endswith(_STATE)

    with MappedTensors(path, device, stays) as file:
        file.check(_list_expected(language, file.names))
        for name, module in list(language.named_modules()):
            if isinstance(module, nn.Linear):
                language.set_submodule(name, _read_linear(file, f"{_PREFIX}{name}", module, dtype))
        embeddings = Int8Embedding(file.read(_EMBEDDINGS), file.read(_SCALES))
        language.set_submodule("embed_tokens", embeddings)
        rest = {name: file.read(f"{_PREFIX}{name}") for name in language.state_dict()}
    return finish_language(language, rest, dtype)


def make_empty_language(spec: LanguageSpec) -> PhiLanguage:
    """Builds the language model on the meta device."""
    with torch.device("meta"):
        return PhiLanguage(spec).eval().requires_grad_(False)


def finish_language(
    language: PhiLanguage, tensors: dict[str, Tensor], dtype: torch.dtype
) -> PhiLanguage:
    """Puts in what is not quantised; hidden states become float32 and branches `dtype`.

    Args:
        language: with its matrices and embeddings in place.
        tensors: the others, by their names in its `state_dict`.
        dtype: of activations.

    Returns:
        The same network.
    """
    for name, module in list(language.named_modules()):
        if isinstance(module, nn.LayerNorm) and name.endswith(_WIDE_NORMS):
            language.set_submodule(name, NarrowingNorm(module, dtype))
    cast = {
        name: tensor if name.rpartition(".")[0].endswith(_WIDE_NORMS) else tensor.to(dtype)
        for name, tensor in tensors.items()
    }
    language.load_state_dict(cast, strict=True, assign=True)
    return language.eval().requires_grad_(False)


def load_vision_side(path: Path, spec: ModelSpec, device: str, dtype: torch.dtype) -> TinyGptV:
    """Loads what turns pixels into image tokens.

    Args:
        path: of the file with the role `cuda-vision`.
        spec: the model's numbers.
        device: where it goes.
        dtype: of weights that are not rounded to codes, and of activations.

    Returns:
        The network, of which `encode` works; its language model has no memory.

    Raises:
        WeightsError: as `load_language`.
    """
    model = make_empty_model(spec)
    parts = {"vision": model.vision, "qformer": model.qformer, "projection": model.projection}
    with MappedTensors(path, device) as file:
        expected: dict[str, ExpectedTensor] = {}
        for name, tensor in model.state_dict().items():
            shape, scales = tuple(tensor.shape), f"{name}.scales"
            if name.startswith(_PREFIX):
                continue
            if len(shape) == 2 and scales in file.names:
                expected[name] = ExpectedTensor(shape, ("I8",))
                expected[scales] = ExpectedTensor(shape[:1], ("F32",))
            else:
                expected[name] = ExpectedTensor(shape, ("F16", "F32"))
        file.check(expected)
        for prefix, part in parts.items():
            for name, module in list(part.named_modules()):
                matrix = f"{prefix}.{name}.weight"
                if isinstance(module, nn.Linear) and f"{matrix}.scales" in file.names:
                    codes, row_scales = file.read(matrix), file.read(f"{matrix}.scales")
                    bias = file.read(f"{prefix}.{name}.bias").to(dtype)
                    part.set_submodule(name, Int8WeightLinear(codes, row_scales, bias))
            tensors = {name: file.read(f"{prefix}.{name}").to(dtype) for name in part.state_dict()}
            part.load_state_dict(tensors, strict=True, assign=True)
    return model


def _list_expected(language: PhiLanguage, names: frozenset[str]) -> dict[str, ExpectedTensor]:
    """Lists the tensors that a file of the language model has to hold.

    Args:
        language: on the meta device.
        names: that the file has; by them a matrix is known to be in int8 or NF4.
    """
    expected: dict[str, ExpectedTensor] = {}
    for short_name, tensor in language.state_dict().items():
        name, shape = f"{_PREFIX}{short_name}", tuple(tensor.shape)
        scales = _SCALES if name == _EMBEDDINGS else f"{name}.SCB"
        if len(shape) == 1:
            expected[name] = ExpectedTensor(shape, ("F32",))
        elif name == _EMBEDDINGS or scales in names:
            expected[name] = ExpectedTensor(shape, ("I8",))
            expected[scales] = ExpectedTensor(shape[:1], ("F32",))
        else:
            is_nested = f"{name}.nested_absmax" in names
            n_blocks = math.ceil(math.prod(shape) / NF4_BLOCK)
            largest = ExpectedTensor((n_blocks,), ("U8" if is_nested else "F32",))
            expected[name] = ExpectedTensor((math.ceil(math.prod(shape) / 2), 1), ("U8",))
            expected[f"{name}.absmax"] = largest
            expected[f"{name}.quant_map"] = ExpectedTensor((16,), ("F32",))
            expected[f"{name}.{_STATE}"] = ExpectedTensor(None, ("U8",))
            if is_nested:
                n_nested = math.ceil(n_blocks / _NESTED_BLOCK)
                expected[f"{name}.nested_absmax"] = ExpectedTensor((n_nested,), ("F32",))
                expected[f"{name}.nested_quant_map"] = ExpectedTensor((256,), ("F32",))
    return expected


def _read_linear(
    file: MappedTensors, name: str, linear: nn.Linear, dtype: torch.dtype
) -> nn.Module:
    """Reads a matrix as it is rounded, with its bias.

    Raises:
        WeightsError: what bitsandbytes saved with it is damaged, or of another matrix.
    """
    matrix, bias = f"{name}.weight", file.read(f"{name}.bias")
    if f"{matrix}.SCB" in file.names:
        codes, largest = file.read(matrix), file.read(f"{matrix}.SCB")
        if has_int8_products(file.device):
            return Int8Linear(codes, largest, bias.to(torch.float16))
        return Int8WeightLinear(codes, largest / LARGEST_CODE, bias.to(dtype))
    start = len(matrix) + 1
    parts = {each[start:]: file.read(each) for each in file.names if each.startswith(f"{matrix}.")}
    try:
        state = QuantState.from_dict(parts, parts["absmax"].device)
        found = (tuple(state.shape), state.blocksize, state.quant_type)
        nested_block = state.state2.blocksize if state.nested else _NESTED_BLOCK
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        problem = f"{matrix}.{_STATE} in {file.path} is damaged"
        raise WeightsError(problem, MAKE_AGAIN) from error
    expected = (tuple(linear.weight.shape), NF4_BLOCK, "nf4")
    if found != expected or nested_block != _NESTED_BLOCK:
        problem = f"{matrix} in {file.path} is {found}, expected {expected}"
        raise WeightsError(problem, MAKE_AGAIN)
    return Nf4Linear(file.read(matrix), state, bias.to(dtype))
