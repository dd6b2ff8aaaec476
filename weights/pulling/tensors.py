"""Files that someone saved again become parts of the list, by the names of their tensors.

Only opens what `weights.reading.containers` opens: nothing but tensors is ever unpickled. Whether
all tensors are there, of the right shape, is for `weights.reading.checkpoint`, once all files are.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from tinyv_cli.errors import WeightsError
from weights.reading.containers import open_tensor_file
from weights.reading.naming import DISTRIBUTED_PREFIX, PROJECTION_WEIGHT
from weights.reading.sources import (
    PHI_FOLDER,
    QFORMER_FILE,
    SINGLE_FILES,
    VISION_FILE,
    make_checkpoint_name,
)

_PHI_MARKS = frozenset({"model.embed_tokens.weight", "transformer.embd.wte.weight"})
_PHI_ENDS = frozenset({"lm_head.bias", "lm_head.linear.bias"})
_VISION_MARKS = frozenset({"cls_token", "patch_embed.proj.weight"})
_QFORMER_MARKS = frozenset({"query_tokens", "ln_vision.weight"})
_TORCH_SUFFIXES = (".pth", ".pt", ".bin")


def find_by_tensors(paths: Iterable[Path], stage: int) -> dict[str, Path]:
    """Finds out which files hold the tensors of which source.

    Args:
        paths: files of tensors; those that are none of ours, or damaged, are passed over.
        stage: of the checkpoint that is wanted; one that is named after another is passed over.

    Returns:
        Path in a folder of sources → file. Of several that could serve, the first.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if path.suffix not in (*_TORCH_SUFFIXES, ".safetensors"):
            continue
        try:
            file = open_tensor_file(path, path.name)
        except WeightsError:
            continue
        names = {name.removeprefix(DISTRIBUTED_PREFIX) for name in file.shapes}
        file.close()
        named = re.search(r"stage[-_ ]?(\d)", path.name, re.IGNORECASE)
        # Shards alone are not a source; a whole file holds the head too, with Phi-2's bias.
        if names & _PHI_MARKS and names & _PHI_ENDS:
            single = SINGLE_FILES[0 if path.suffix == ".safetensors" else 1]
            found.setdefault(f"{PHI_FOLDER}/{single}", path)
        elif path.suffix == ".safetensors":
            continue
        elif PROJECTION_WEIGHT in names:  # asked first: a checkpoint can hold a Q-Former too
            if named is None or int(named[1]) == stage:
                found.setdefault(make_checkpoint_name(stage), path)
        elif names >= _QFORMER_MARKS:
            found.setdefault(QFORMER_FILE, path)
        elif names >= _VISION_MARKS:
            found.setdefault(VISION_FILE, path)
    return found
