"""Flips bits in a golden network's sources: each is refused by name, or the tensors stay right.

Run by hand: `python -m tests.damaged_sources 1000` flips as many in every file, one at a time.
"""

import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch

from tests.golden import CASES, GOLDEN
from tinyv_cli.errors import WeightsError
from weights.reading.checkpoint import open_weights
from weights.reading.sources import SourceFiles, resolve_sources
from weights.reading.tokenizer_json import read_tokenizer_json


def read_sources(folder: Path) -> tuple[dict[str, torch.Tensor], str, object]:
    """Reads all that a variant is made from."""
    files = resolve_sources(folder)
    with open_weights(files) as weights:
        text = read_tokenizer_json(files, weights.spec.language.vocab_size)
        return {name: weights.read(name) for name in weights.names}, text, weights.spec


def count_outcomes(files: SourceFiles, path: Path, n_flips: int, seed: int = 0) -> Counter[str]:
    """Flips one bit at a time in one file.

    Returns:
        Number of runs that were `right`, `refused`, `unnamed` (refused without the file's name),
        `changed` (other tensors, texts or numbers without a word) or ended in an exception.
    """
    tensors, text, spec = read_sources(files.folder)
    whole, chance = path.read_bytes(), random.Random(f"{seed} {path.name}")
    outcomes: Counter[str] = Counter()
    for _ in range(n_flips):
        changed = bytearray(whole)
        changed[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.unlink()  # a mapping of the old file stays whole
        path.write_bytes(changed)
        try:
            found, found_text, found_spec = read_sources(files.folder)
        except WeightsError as error:
            outcomes["refused" if path.stem in error.problem else "unnamed"] += 1
        except BaseException as error:  # noqa: BLE001 - any other is what is looked for
            outcomes[f"{type(error).__name__}: {str(error)[:80]}"] += 1
        else:
            same = all(torch.equal(tensors[name], found[name]) for name in tensors)
            outcomes[
                "right" if same and found_text == text and found_spec == spec else "changed"
            ] += 1
    path.write_bytes(whole)
    return outcomes


def main(n_flips: int) -> None:
    """Prints a line for every file of both golden networks."""
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(GOLDEN / case, folder, dirs_exist_ok=True)
            files = resolve_sources(Path(folder))
            for path in files.all_files:
                print(  # noqa: T201
                    case, files.label(path), dict(count_outcomes(files, path, n_flips)), flush=True
                )


if __name__ == "__main__":
    main(int(sys.argv[1]))
