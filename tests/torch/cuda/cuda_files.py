"""Random numbers become the CUDA files of a variant, in the layout that the workshop writes."""

from dataclasses import replace
from pathlib import Path

import torch
from bitsandbytes.functional import QuantState, quantize_4bit
from safetensors.torch import save_file

from tests.torch.weights.random_weights import make_read
from tinyv_cli.backends.cuda.torch_weights import make_empty_language
from tinyv_cli.model.tinygptv import make_empty_model
from tinyv_cli.spec import ModelSpec, make_tiny_spec
from tinyv_cli.variants.manifest import FileEntry, Manifest, Variant

Tensors = dict[str, torch.Tensor]
HEAD, TABLE = "language.lm_head.weight", "language.embed_tokens.weight"
PATHS = {role: f"{role}.safetensors" for role in ("cuda-language", "cuda-vision")}


def make_small_spec() -> ModelSpec:
    """Tiny, but with rows of whole blocks of 64, as the real network has them."""
    tiny = make_tiny_spec(3)
    return replace(tiny, language=replace(tiny.language, width=320, n_heads=4))


def to_nf4(matrix: torch.Tensor, nested: bool) -> tuple[torch.Tensor, QuantState]:
    return quantize_4bit(matrix, blocksize=64, quant_type="nf4", compress_statistics=nested)


def to_rows(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 codes, and the largest magnitude of each row."""
    largest = matrix.abs().amax(1)
    return torch.round(matrix * (127 / largest[:, None])).to(torch.int8), largest


def make_language_tensors(spec: ModelSpec, bits: int = 4, nested: bool = True) -> Tensors:
    read, tensors = make_read(spec), {}
    for short_name, parameter in make_empty_language(spec.language).state_dict().items():
        name = f"language.{short_name}"
        values = read(name)
        if parameter.ndim == 1:
            tensors[name] = values
        elif name == TABLE:
            codes, largest = to_rows(values)
            tensors |= {name: codes, f"{name}.scales": largest / 127}
        elif bits == 8 or name == HEAD:
            codes, largest = to_rows(values)
            tensors |= {name: codes, f"{name}.SCB": largest}
        else:
            packed, state = to_nf4(values, nested)
            parts = {f"{name}.{key}": part for key, part in state.as_dict(packed=True).items()}
            tensors |= {name: packed} | parts
    return tensors


def make_vision_tensors(spec: ModelSpec, bits: int = 16) -> Tensors:
    read, names = make_read(spec), make_empty_model(spec).state_dict()
    tensors = {name: read(name).half() for name in names if not name.startswith("language.")}
    if bits == 8:
        for name in [name for name in tensors if name.endswith(("fc1.weight", "qkv.weight"))]:
            codes, largest = to_rows(tensors[name].float())
            tensors |= {name: codes, f"{name}.scales": largest / 127}
    return tensors


def write_variant(folder: Path, spec: ModelSpec, bits: int, vision_bits: int = 16) -> Variant:
    """A variant of CUDA files alone, as far as a backend looks at it."""
    folder.mkdir()
    save_file(make_language_tensors(spec, bits), folder / PATHS["cuda-language"])
    save_file(make_vision_tensors(spec, vision_bits), folder / PATHS["cuda-vision"])
    files = tuple(
        FileEntry(path, (folder / path).stat().st_size, "0" * 64, role)
        for role, path in PATHS.items()
    )
    manifest = Manifest(
        format_version=1,
        bits=bits,
        spec=spec,
        template="stage3",
        stop_ids=(),
        recipe={},
        sources=(),
        files=files,
        errors=None,
        made_by="a test",
    )
    return Variant(folder, folder.name, manifest)
