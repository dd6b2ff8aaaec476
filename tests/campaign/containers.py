"""Damages the sources of golden networks, and reads them: `python -m tests.campaign.containers`.

Zip archives are damaged in their bytes, their records and their pickles' opcodes, foreign objects
among them; safetensors in their headers; texts in their structure. Each file in its turn is damaged
`_STRETCH` times. Nothing may be run or written, each refusal names a file, and where a checksum
exists, no tensor may change in silence.
"""

import io
import pickletools
import shutil
import struct
import sys
import warnings
import zipfile
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import torch

from tests.campaign.damage import attempts
from tests.campaign.damage.attempts import Attack, FaultError
from tests.campaign.damage.mutations import mutate, mutate_json
from tests.damaged_sources import name_outcome, read_sources, reading_others_once
from tests.golden import CASES, GOLDEN
from weights.reading.sources import resolve_sources

_STRETCH = 25
_LAYOUTS = ("one tokenizer", "tokenizer in parts")
_ZIPPED = (".pth", ".bin")
_NAMES = (
    *("../../outside", "/tmp/outside", "archive/../../outside", "", "x" * 300, "archive/data/0"),
    *("archive/data.pkl", "archive/byteorder", "archive/version", "archive/.data/x"),
)
# Module and name; what is no tensor may not be looked up, still less called.
_GLOBALS = (
    *("posix system", "os system", "builtins exec", "builtins eval", "builtins open"),
    *("builtins getattr", "builtins __import__", "subprocess Popen", "shutil rmtree"),
    *("torch.hub load", "torch load", "torch.serialization load", "copyreg _reconstructor"),
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch FloatStorage"),
    *("collections OrderedDict", "collections Counter", "torch HalfStorage", "torch Size"),
    *("torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_qtensor", "torch device"),
    *("torch._utils _rebuild_device_tensor_from_numpy", "numpy._core.multiarray _reconstruct"),
    *("torch._utils _rebuild_meta_tensor_no_storage", "torch.nn.parameter Parameter"),
    *("torch.storage UntypedStorage", "torch._tensor _rebuild_from_type_v2"),
    "__builtin__ bytearray",
)  # fmt: skip
_OPCODES = [each.code.encode("latin-1") for each in pickletools.opcodes]


class Containers(Attack):
    """The sources of both golden networks, with the tokenizer in either form."""

    def __init__(self, seed, folder):
        super().__init__(seed, folder)
        self._targets = []  # sources folder, file in it
        self._sound = {}
        for case in CASES:
            for layout in _LAYOUTS:
                place = folder / f"{case} {layout}"
                shutil.copytree(GOLDEN / case, place, copy_function=shutil.copyfile)
                place.chmod(0o755)
                (place / "phi-2").chmod(0o755)
                if layout == _LAYOUTS[1]:
                    (place / "phi-2" / "tokenizer.json").unlink()
                files = resolve_sources(place)
                changed = files.all_files if layout == _LAYOUTS[0] else files.tokenizer_files
                self._targets += [(place, path) for path in changed]
                self._sound |= {path: path.read_bytes() for path in changed}
        self._right = {}
        self._context = ExitStack()
        self._at = None

    def warm_up(self):
        """Puts all files as they were (the last worker may have died at one), reads them."""
        torch.set_num_threads(1)
        warnings.simplefilter("ignore", UserWarning)  # of names that stand twice in an archive
        for path, content in self._sound.items():
            _write(path, content)
        self._find_right(self._targets[0][0])  # torch makes a folder when it is first used

    def _find_right(self, place):
        """Reads sound sources, once."""
        if place not in self._right:
            self._right[place] = read_sources(place)
        return self._right[place]

    def _pick(self, number):
        return self._targets[number // _STRETCH % len(self._targets)]

    def make(self, number):
        """Makes the content of the damaged file.

        Returns:
            It, and whether its own checksums were made right again.
        """
        chance, path = self.make_chance(number), self._pick(number)[1]
        content, others = self._sound[path], list(self._sound.values())
        if path.suffix == ".json" and chance.random() < 0.8:
            return mutate_json(content, chance), True
        if path.suffix in _ZIPPED and chance.random() < 0.6:
            return damage_archive(content, chance), True
        if path.suffix == ".safetensors" and chance.random() < 0.7:
            return damage_header(content, chance), True
        return mutate(content, chance, others), path.suffix not in _ZIPPED

    def attempt(self, number):
        """Reads all that a variant is made from, of which one file is damaged."""
        place, path = self._pick(number)
        right = self._find_right(place)
        if self._at != path:
            self._context.close()
            self._context.enter_context(reading_others_once(path))
            self._at = path
        content, is_made_right = self.make(number)
        _write(path, content)
        try:
            outcome = name_outcome(place, path, right)
        finally:
            _write(path, self._sound[path])
        if outcome == "changed" and is_made_right:
            return f"changed, without a checksum that is wrong ({path.suffix})"
        if outcome not in ("right", "refused", "refused in the hint", "another file named"):
            raise FaultError(f"{path.name}: {outcome}")
        return f"{outcome} ({path.suffix})"

    def keep(self, number, folder):
        """Writes the damaged file."""
        (folder / self._pick(number)[1].name).write_bytes(self.make(number)[0])


def _write(path, content):
    """Writes a file anew: a mapping of the old one stays whole."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def damage_archive(content, chance):
    """Damages a record of an archive, or which there are; the archive's checksums are right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = [[record.filename, archive.read(record)] for record in archive.infolist()]
    pickled = next(i for i, (name, _) in enumerate(records) if name.endswith("data.pkl"))
    at = chance.randrange(len(records))
    way = chance.randrange(10)
    if way <= 4:
        records[pickled][1] = damage_pickle(records[pickled][1], chance)
    elif way == 5:
        records[pickled][1] = mutate(records[pickled][1], chance)
    elif way == 6:
        records[at][1] = mutate(records[at][1], chance)
    elif way == 7:
        records[at][0] = chance.choice(_NAMES)
    elif way == 8:
        records.pop(at)
    else:
        records.insert(chance.randrange(len(records)), list(records[at]))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in records:
            record = zipfile.ZipInfo(name)
            if chance.random() < 0.002:
                record.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(record, data)
    return stream.getvalue()


def damage_pickle(content, chance):
    """Damages a pickle in its opcodes: exchanged, left out, put in, or with other arguments."""
    found = [(code, argument, place) for code, argument, place in pickletools.genops(content)]
    places = [place for _, _, place in found] + [len(content)]
    parts = [content[start:end] for start, end in pairwise(places)]
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(parts))
        looked_up = [i for i, part in enumerate(parts) if part.startswith(b"c")]
        way = chance.randrange(8)
        if way == 0 and looked_up:
            parts[chance.choice(looked_up)] = _look_up(chance)
        elif way == 1:
            parts[at] += make_call(chance)
        elif way == 2:
            parts[at] = chance.choice(parts)
        elif way == 3:
            parts.pop(at)
        elif way == 4:
            parts.insert(at, chance.choice(_OPCODES) + chance.randbytes(chance.randrange(5)))
        elif way == 5:
            numbers = [i for i, part in enumerate(parts) if part[:1] in (b"K", b"M", b"J", b"\x8a")]
            number = chance.choice((0, 1, -1, 2**31 - 1, -(2**31), chance.randrange(1 << 31)))
            if numbers:
                parts[chance.choice(numbers)] = b"J" + struct.pack("<i", number)
        elif way == 6:
            texts = [i for i, part in enumerate(parts) if part[:1] == b"X"]
            text = chance.choice(
                (b"", b"cpu", b"cuda:0", b"meta", b"../x", b"\xff\xfe", b"0", b"x" * 999)
            )
            if texts:
                parts[chance.choice(texts)] = b"X" + struct.pack("<I", len(text)) + text
        else:
            parts[at] = mutate(parts[at], chance)
    return b"".join(parts)


def _look_up(chance):
    return b"c" + chance.choice(_GLOBALS).replace(" ", "\n").encode() + b"\n"


def make_call(chance):
    """Makes opcodes that call something with a command, and drop what comes of it."""
    command = b"touch /tmp/tinyv-campaign-was-here"
    text = b"X" + struct.pack("<I", len(command)) + command
    return _look_up(chance) + b"(" + text + b"tR" + chance.choice((b"0", b"0", b""))


def damage_header(content, chance):
    """Damages a safetensors file's header in its structure; the length before it is right."""
    n_bytes = int.from_bytes(content[:8], "little")
    header = mutate_json(content[8 : 8 + n_bytes], chance)
    return len(header).to_bytes(8, "little") + header + content[8 + n_bytes :]


if __name__ == "__main__":
    if not Path(GOLDEN).is_dir():
        sys.exit("golden cases are not beside the repository (../shared/golden)")
    sys.exit(attempts.main(Containers, __doc__, 1000))
