"""Files that someone saved again become parts of the list, told by the names of their tensors.

Only opens what `weights.reading.containers` opens: nothing but tensors is ever unpickled. Whether
all tensors are there, of the right shape, is for `weights.reading.checkpoint`, once all files are.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from tinyv_cli.errors import WeightsError
from weights.reading.checkpoint import open_weights
from weights.reading.containers import open_tensor_file
from weights.reading.naming import DISTRIBUTED_PREFIX, PROJECTION_WEIGHT
from weights.reading.sources import (
    PHI_FOLDER,
    QFORMER_FILE,
    SINGLE_FILES,
    VISION_FILE,
    make_checkpoint_name,
    resolve_sources,
)

# The first of these that a file holds tells what it is; a checkpoint can hold a Q-Former too.
_PHI_MARKS = frozenset({"model.embed_tokens.weight", "transformer.embd.wte.weight"})
_MARKS = (
    (frozenset({PROJECTION_WEIGHT}), "checkpoint"),
    (frozenset({"query_tokens", "ln_vision.weight"}), QFORMER_FILE),
    (frozenset({"cls_token", "patch_embed.proj.weight"}), VISION_FILE),
)
_TORCH_SUFFIXES = (".pth", ".pt", ".bin")


def find_by_tensors(paths: Iterable[Path], stage: int) -> dict[str, Path]:
    """Tells which files hold the tensors of which source.

    Args:
        paths: files of tensors; those that are none of ours, or damaged, are passed over.
        stage: of the checkpoint that is wanted; one that is named after another is passed over.

    Returns:
        Path in a folder of sources → file. Of several that could serve, the first.
    """
    found: dict[str, Path] = {}
    for path in paths:
        target = _tell(path, stage)
        if target is not None:
            found.setdefault(target, path)
    return found


def check_tensors(folder: Path, stage: int) -> None:
    """Accounts for every tensor of every file in a folder of sources.

    Raises:
        WeightsError: a tensor is unknown, missing or misshapen.
    """
    open_weights(resolve_sources(folder, stage)).close()


def _tell(path: Path, stage: int) -> str | None:
    """Where a file belongs in a folder of sources."""
    try:
        names = _read_names(path)
    except WeightsError:
        return None
    if names & _PHI_MARKS and _is_whole_phi(names):
        return f"{PHI_FOLDER}/{SINGLE_FILES[0 if path.suffix == '.safetensors' else 1]}"
    if path.suffix not in _TORCH_SUFFIXES:
        return None
    for marks, target in _MARKS:
        if marks <= names:
            return _name_checkpoint(path, stage) if target == "checkpoint" else target
    return None


def _read_names(path: Path) -> set[str]:
    suffix = ".pth" if path.suffix == ".pt" else path.suffix
    if suffix not in (*_TORCH_SUFFIXES, ".safetensors"):
        return set()
    file = open_tensor_file(path, path.name)
    try:
        return {name.removeprefix(DISTRIBUTED_PREFIX) for name in file.shapes}
    finally:
        file.close()


def _is_whole_phi(names: set[str]) -> bool:
    """Shards alone are no source; a whole file holds the head too, with Phi-2's bias."""
    return bool(names & {"lm_head.bias", "lm_head.linear.bias"})


def _name_checkpoint(path: Path, stage: int) -> str | None:
    named = re.search(r"stage[-_ ]?(\d)", path.name, re.IGNORECASE)
    return None if named and int(named[1]) != stage else make_checkpoint_name(stage)
