"""A variant's portable graph becomes one with its weights as this processor wants them, on disk.

onnxruntime rearranges the weights of a graph when it opens it. Saved rearranged, they are mapped
instead of allocated: DESIGN.md has what that gains. The copy fits one processor and one release of
the runtime; it lives in `packed/` inside the variant, is never the only copy, and is made again
where it does not fit. Knows files and the runtime, not the network.
"""

import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkdtemp

import psutil

from tinyv_cli.backends.onnx_sessions import RUNTIME, save_packed
from tinyv_cli.errors import WeightsError
from tinyv_cli.hashes import check_hashes, hash_file, remember_hashes
from tinyv_cli.manifest import FileEntry, Variant
from tinyv_cli.memory import PACKED_SHARE
from tinyv_cli.miniature import is_brought_along

FOLDER = "packed"
_RECORD = "packed.json"
_BUILDING = ".building-"
_WORTH_TELLING_BYTES = 100_000_000  # less than this is packed before anybody notices
_WORTH_A_PROCESS_BYTES = 100_000_000  # less than this need not be given back at once


@dataclass(frozen=True)
class PackedPart:
    """The packed copy of one part of a variant.

    Args:
        variant: what it is a copy of.
        role: `vision` or `decoder`, the role of the portable graph.
    """

    variant: Variant
    role: str

    @property
    def folder(self) -> Path:
        """Where the copy for this machine belongs."""
        return self.variant.folder / FOLDER / f"{self.role}-{describe_machine()}"

    @property
    def graph(self) -> Path:
        """The packed graph."""
        return self.folder / f"{self.role}.onnx"

    @property
    def origin(self) -> list[str]:
        """Hashes of the portable files that the copy is made from."""
        roles = (self.role, f"{self.role}-data")
        return [entry.sha256 for entry in self.variant.manifest.files if entry.role in roles]

    def is_current(self) -> bool:
        """Whether the copy is there, whole, and made from the variant as it is."""
        try:
            check_hashes(self.folder, self._read_record())
        except (OSError, ValueError, KeyError, TypeError, WeightsError):
            return False
        return True

    def remember(self) -> None:
        """Notes that the copy is whole, for a variant that was moved after it was packed."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, WeightsError):
            remember_hashes(self.folder, self._read_record())

    def _read_record(self) -> list[FileEntry]:
        """What the copy consists of.

        Raises:
            OSError, ValueError, KeyError, TypeError: there is no record, or it makes no sense.
        """
        record = json.loads((self.folder / _RECORD).read_text("utf-8"))
        if record["origin"] != self.origin:
            raise ValueError("packed from other weights")
        files = [FileEntry(**entry) for entry in record["files"]]
        if any(Path(entry.path).name != entry.path for entry in files):
            raise ValueError("a file outside the folder")
        return files

    def build(self, threads: int) -> None:
        """Makes the copy beside its place and renames it, so that nobody sees half of one.

        Raises:
            OSError: the folder cannot be written, or the disk is full; nothing is left behind.
            WeightsError: the runtime cannot read the portable graph.
            DeviceError: memory does not suffice.
        """
        building = self._start_building()
        try:
            self._save(building / self.graph.name, threads)
            building.chmod(0o755)  # mkdtemp keeps others out, who may read the variant
            files = [
                FileEntry(path.name, path.stat().st_size, hash_file(path), self.role)
                for path in sorted(building.iterdir())
            ]
            record = {"origin": self.origin, "files": [asdict(entry) for entry in files]}
            (building / _RECORD).write_text(json.dumps(record, indent=1), "utf-8")
            self._move_in(building)
            remember_hashes(self.folder, files)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        self._remove_others()

    def _save(self, target: Path, threads: int) -> None:
        """Lets the runtime write the copy; large ones in a process that then gives memory back."""
        source = self.variant.path(self.role)
        if self.variant.path(f"{self.role}-data").stat().st_size < _WORTH_A_PROCESS_BYTES:
            save_packed(source, target, threads)
        else:
            from tinyv_cli.backends.apart import run_apart  # slow to import, and rarely needed

            run_apart(save_packed, source, target, threads)

    def _start_building(self) -> Path:
        """Makes a folder of this process, and drops those that killed processes left.

        Raises:
            OSError: the folder cannot be written, or the disk has no room for the copy.
        """
        home = self.folder.parent
        home.mkdir(exist_ok=True)
        for left_over in home.glob(f"{_BUILDING}*"):
            owner = left_over.name.removeprefix(_BUILDING).partition("-")[0]
            if not (owner.isdecimal() and psutil.pid_exists(int(owner))):
                shutil.rmtree(left_over, ignore_errors=True)
        needed_bytes = PACKED_SHARE * self.variant.path(f"{self.role}-data").stat().st_size
        if shutil.disk_usage(home).free < needed_bytes:  # the runtime would not say why it failed
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(home))
        return Path(mkdtemp(prefix=f"{_BUILDING}{os.getpid()}-", dir=home))

    def _move_in(self, building: Path) -> None:
        """Renames the finished copy; a good one that another process made meanwhile stays."""
        with contextlib.suppress(OSError):
            building.rename(self.folder)
            return
        if not self.is_current():
            self.folder.rename(building.with_name(f"{building.name}-old"))
            building.rename(self.folder)
            shutil.rmtree(building.with_name(f"{building.name}-old"), ignore_errors=True)

    def _remove_others(self) -> None:
        """Drops the copies of this part that fit another machine or release."""
        for other in self.folder.parent.glob(f"{self.role}-*"):
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)


def resolve_graph(variant: Variant, role: str, threads: int, notify: Callable[[str], None]) -> Path:
    """Finds the graph to open: the packed one, made first where it is missing, or the portable one.

    The miniature that comes with tinyv has only portable ones: its folder belongs to the
    installation, and its tensors are too small for packing to gain anything.

    Args:
        variant: a variant whose files have been checked.
        role: `vision` or `decoder`.
        threads: threads to pack with.
        notify: takes one line when weights are packed, or cannot be kept packed.

    Raises:
        WeightsError: the runtime cannot read the portable graph.
    """
    if is_brought_along(variant.folder):
        return variant.path(role)
    packed = PackedPart(variant, role)
    if packed.is_current():
        return packed.graph
    try:
        packed.build(threads)
    except OSError as error:
        if variant.path(f"{role}-data").stat().st_size >= _WORTH_TELLING_BYTES:
            reason = (error.strerror or str(error)).lower()
            notify(f"packing the {role} weights at every start: {packed.folder.parent}: {reason}")
        return variant.path(role)
    notify(f"packed the {role} weights of {variant.name} for this machine, once")
    return packed.graph


def describe_machine() -> str:
    """Names what packed weights depend on: architecture, instruction sets and runtime."""
    instructions = hashlib.sha256(_read_instructions().encode()).hexdigest()[:8]
    return f"{platform.machine()}-{instructions}-{RUNTIME}"


def _read_instructions() -> str:
    """The processor's instruction sets as Linux lists them, else its name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith(("flags", "Features")):
                return " ".join(sorted(line.partition(":")[2].split()))
    return platform.processor()
