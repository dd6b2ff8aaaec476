"""Flips bits in a golden network's sources: each is refused by name, or the tensors stay right.

Run by hand: `python -m tests.damaged_sources 1000` flips as many in every file, one at a time, and
`… 1000 tokenizer` in those files alone whose names hold that word. Nothing is quantised: what a
variant is made from is read, as `tinyv quantize` reads it.
"""

import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest.mock import patch

import torch

from tests.golden import CASES, GOLDEN
from tinyv_cli.errors import WeightsError
from weights.reading import checkpoint, containers
from weights.reading.checkpoint import open_weights
from weights.reading.sources import SourceFiles, resolve_sources
from weights.reading.tokenizer_json import read_tokenizer_json


def read_sources(folder: Path) -> tuple[dict[str, torch.Tensor], str, object]:
    """Reads all that a variant is made from: tensors, tokenizer, and the numbers."""
    files = resolve_sources(folder)
    with open_weights(files) as weights:
        text = read_tokenizer_json(files, weights.spec.language.vocab_size)
        tensors = {name: weights.read(name) for name in weights.names}
        return tensors, text, (weights.spec, weights.lora_alpha)


@contextmanager
def reading_others_once(path: Path) -> Iterator[None]:
    """Unpickles every file but one a single time, and works out a spec's shapes a single time.

    The damaged file is read as ever; a flip takes a third of the time.
    """
    read_torch = containers._read_torch
    read_whole_file = cache(read_torch)

    def read(wanted: Path, label: str) -> object:
        return (read_torch if wanted == path else read_whole_file)(wanted, label)

    shapes = cache(checkpoint.expected_shapes)
    with (
        patch.object(checkpoint, "expected_shapes", shapes),
        patch.object(containers, "_read_torch", read),
    ):
        yield


def count_outcomes(files: SourceFiles, path: Path, n_flips: int, seed: int = 0) -> Counter[str]:
    """Flips one bit at a time in one file.

    Returns:
        Number of runs that were `right`, `refused` (`in the hint`: the file is named there alone;
        `another file named`: one that it does not fit), `unnamed` (refused without a file's name),
        `changed` (other tensors, texts or numbers without a word) or ended in an exception.
    """
    right = read_sources(files.folder)
    whole, chance = path.read_bytes(), random.Random(f"{seed} {path.name}")
    outcomes: Counter[str] = Counter()
    with reading_others_once(path):
        for _ in range(n_flips):
            changed = bytearray(whole)
            changed[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
            path.unlink()  # a mapping of the old file stays whole
            path.write_bytes(changed)
            outcomes[name_outcome(files.folder, path, right)] += 1
    path.write_bytes(whole)
    return outcomes


def name_outcome(
    folder: Path, path: Path, right: tuple[dict[str, torch.Tensor], str, object]
) -> str:
    """Reads sources in which one file may be damaged; returns what this counts as."""
    try:
        found = read_sources(folder)
    except WeightsError as error:
        if path.name in error.problem:
            return "refused"
        if path.name in error.hint:
            return "refused in the hint"
        others = {each.name for each in folder.rglob("*") if each.is_file()}
        return "another file named" if any(map(error.problem.__contains__, others)) else "unnamed"
    except BaseException as error:  # noqa: BLE001 - any other is what is looked for
        return f"{type(error).__name__}: {str(error)[:80]}"
    same = found[1:] == right[1:] and found[0].keys() == right[0].keys()
    same = same and all(torch.equal(found[0][name], right[0][name]) for name in right[0])
    return "right" if same else "changed"


def main(n_flips: int, word: str = "") -> None:
    """Prints a line for every file of both golden networks."""
    torch.set_num_threads(1)
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(GOLDEN / case, folder, dirs_exist_ok=True)
            files = resolve_sources(Path(folder))
            for path in (each for each in files.all_files if word in each.name):
                start = time.monotonic()
                outcomes = dict(count_outcomes(files, path, n_flips))
                seconds, peak = time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF)
                print(  # noqa: T201
                    f"{case}/{files.label(path)} {outcomes}, {seconds:.0f} s, "
                    f"{peak.ru_maxrss / 1e6:.1f} GB at the most",
                    flush=True,
                )


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
