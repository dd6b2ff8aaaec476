"""A manifest's numbers are compared with those that its files hold; no weight is read.

A manifest is believed in nothing: planned memory, the picture's size and the context all depend on
its numbers. Those that no file tells (epsilons, the first projection) have limits of their own.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path

from tinyv_cli.spec import LanguageSpec, ModelSpec
from tinyv_cli.variants.headers import Contents, read_array, read_graph, read_tensors

# Number of the manifest → tensor that tells it, and which of its dimensions.
_TOLD_BY = {
    "vision": {
        "vision.patch_px": ("vision.embeddings.patch_embedding.weight", 2),
        "vision.width": ("vision.embeddings.patch_embedding.bias", 0),
        "vision.mlp_width": ("vision.layers.0.mlp.fc1.bias", 0),
        "qformer.mlp_width": ("qformer.bert.encoder.layer.0.intermediate_query.dense.bias", 0),
    },
    "language": {
        "language.width": ("language.final_layernorm.bias", 0),
        "language.mlp_width": ("language.layers.0.mlp.fc1.bias", 0),
        "language.vocab_size": ("language.lm_head.bias", 0),
    },
}
_KINDS = {"<f4": "float32", "|u1": "uint8"}
_LAYERS = {
    "vision.n_layers": re.compile(r"vision\.layers\.\d+\.mlp\.fc1\.bias"),
    "qformer.n_layers": re.compile(
        r"qformer\.bert\.encoder\.layer\.\d+\.intermediate_query\.dense\.bias"
    ),
    "language.n_layers": re.compile(r"language\.layers\.\d+\.mlp\.fc1\.bias"),
}
_HEADS = {
    "vision.n_heads": "vision.layers.0.self_attn.out",
    "qformer.n_heads": "qformer.bert.encoder.layer.0.attention.out",
    "language.n_heads": "language.layers.0.attention.out",
}


def check_contents(spec: ModelSpec, parts: Mapping[str, Sequence[Path]]) -> None:
    """Compares a model's numbers with the files that hold it.

    A graph that cannot be parsed at all is passed over: the runtime says why when it is opened.

    Args:
        spec: the numbers, each within its limits.
        parts: files by part: `vision`, `decoder`, `embeddings` (the table, then its scales),
            `cuda-vision` and `cuda-language`; and `data`, which graphs may take numbers from.

    Raises:
        ValueError: they differ; the message says in what.
        OSError: a file cannot be read.
    """
    for part, paths in parts.items():
        if part == "embeddings":
            _check_embeddings(spec.language, paths)
        elif part != "data" and paths:
            held = _read_part(paths, read_tensors if part.startswith("cuda") else read_graph)
            if held is not None:
                side = "vision" if "vision" in part else "language"
                _check_part(spec, side, held, paths[0].name, is_graph=not part.startswith("cuda"))
                strays = held.data_files - {path.name for path in parts.get("data", ())}
                if strays:
                    problem = f"{paths[0].name} takes numbers from {min(strays)!r}"
                    raise ValueError(f"{problem}, which is none of its files")


def _read_part(paths: Sequence[Path], read: Callable[[Path, Contents], None]) -> Contents | None:
    """Reads what all files of a part hold; None where one cannot be parsed."""
    held = Contents()
    try:
        for path in paths:
            read(path, held)
    except ValueError:
        return None
    return held


def _check_part(spec: ModelSpec, side: str, held: Contents, name: str, *, is_graph: bool) -> None:
    """Compares the numbers of one side with what its files hold."""
    shapes = held.shapes
    try:
        found = {key: shapes[tensor][axis] for key, (tensor, axis) in _TOLD_BY[side].items()}
        if side == "vision":
            _, n_queries, width = shapes["queries" if is_graph else "qformer.query_tokens"]
            n_tokens = shapes["vision.embeddings.position_embedding"][1]
            found["vision.image_px"] = found["vision.patch_px"] * math.isqrt(n_tokens - 1)
            found |= {"qformer.n_queries": n_queries, "qformer.width": width}
        elif is_graph:
            found["language.context_length"] = int(held.scalars["rotary.end"])
            found["language.rotary_width"] = 2 * shapes["rotary.frequencies"][1]
        heads = {key: op for key, op in _HEADS.items() if is_graph and _is_of(key, side)}
        found |= {key: held.heads[operator] for key, operator in heads.items()}
    except (KeyError, IndexError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} does not hold what a variant has: {error}") from error
    for key, pattern in _LAYERS.items():
        if _is_of(key, side):
            found[key] = sum(pattern.fullmatch(tensor) is not None for tensor in shapes)
    for key, number in found.items():
        said = attrgetter(key)(spec)
        if said != number:
            raise ValueError(f"spec.{key} is {said}, {name} holds {number}")


def _is_of(key: str, side: str) -> bool:
    """Checks whether a number belongs to a side; the Q-Former is part of the vision side."""
    return key.startswith("language.") == (side == "language")


def _check_embeddings(spec: LanguageSpec, paths: Sequence[Path]) -> None:
    """Compares the table of token embeddings with the vocabulary and the width.

    Args:
        spec: has both.
        paths: of the table, and of its scales where it holds codes.
    """
    arrays = []
    for path in paths:
        try:
            arrays.append(read_array(path))
        except ValueError as error:
            raise ValueError(f"{path.name} is damaged: {error}") from error
    kind, shape = arrays[0]
    fits = kind == "<f4" and shape == (spec.vocab_size, spec.width)
    if len(arrays) > 1:
        scales_kind, scales = arrays[1]
        fits = (kind, scales_kind) == ("|u1", "<f4") and len(shape) == 2 and len(scales) == 3
        fits = fits and shape[0] == scales[0] == spec.vocab_size and scales[2] == 2
        fits = fits and scales[1] > 0 and shape[1] % scales[1] == 0
        fits = fits and 0 <= shape[1] - spec.width < shape[1] // scales[1]
    if not fits:
        names = [path.name for path in paths]
        held = " and ".join(f"{_KINDS[kind]} {list(shape)}" for kind, shape in arrays)
        raise ValueError(
            f"{' and '.join(names)} hold {held}, no embeddings of {spec.vocab_size} tokens and a "
            f"width of {spec.width}"
        )
