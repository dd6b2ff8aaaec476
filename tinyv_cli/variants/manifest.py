"""manifest.json becomes a checked description of a variant, and back; reads no other file.

A manifest is untrusted: every value's type, every number's sign and every path is validated before
anything else uses it.
"""

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from tinyv_cli.disk.typed_json import read_object, to_dataclass
from tinyv_cli.errors import WeightsError, describe_os_error
from tinyv_cli.spec import ModelSpec

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
MAKE_AGAIN = "make the variant again: `tinyv quantize --sources DIR --force`"

_DEVICE_ROLES = {"cpu": "decoder", "cuda": "cuda-language"}  # whatever else it needs comes with it
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """One file as it should be: where in its folder, how long, with which hash, for what."""

    path: str
    size_bytes: int
    sha256: str
    role: str


@dataclass(frozen=True)
class MeasuredErrors:
    """A variant's distance from full precision, measured when it was made.

    Attributes:
        image_token_cosine_mean: cosine between image tokens, mean over tokens, 1 is identical.
        image_token_cosine_min: the worst of them.
        logits_kl_nats: mean divergence of the next token's distribution, in nats, 0 is identical.
        top1_agreement: share of positions with the same best token, 0 to 1.
    """

    image_token_cosine_mean: float
    image_token_cosine_min: float
    logits_kl_nats: float
    top1_agreement: float


@dataclass(frozen=True)
class Manifest:
    """The description of a variant, as its `manifest.json` holds it.

    Attributes:
        bits: bits a weight of the language model's matrices has, 32 for full precision.
        template: name of the prompt template it answers with.
        stop_ids: token ids that end an answer.
        recipe: which tensors have how many bits, as the quantiser wrote it.
        sources: files it was made from, relative to their folder.
        files: files it consists of, relative to its own folder; the manifest is not among them.
        errors: None where they were not measured.
        made_by: program and version.
    """

    format_version: int
    bits: int
    spec: ModelSpec
    template: str
    stop_ids: tuple[int, ...]
    recipe: dict[str, Any]
    sources: tuple[FileEntry, ...]
    files: tuple[FileEntry, ...]
    errors: MeasuredErrors | None
    made_by: str

    @property
    def size_bytes(self) -> int:
        """Sums the bytes of all files."""
        return sum(entry.size_bytes for entry in self.files)

    def count_bytes(self, *roles: str) -> int:
        """Sums the bytes of the files of these roles; a role without a file counts nothing."""
        return sum(entry.size_bytes for entry in self.files if entry.role in roles)

    def to_json(self) -> str:
        """Returns the text of `manifest.json`, ASCII, with a final newline."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, name: str = MANIFEST_NAME) -> "Manifest":
        """Reads what `to_json` wrote; unknown keys are ignored.

        Args:
            text: the file's content, UTF-8 where it is bytes.
            name: how errors call the file.

        Raises:
            WeightsError: not JSON, a newer format, a key missing or of the wrong type, a negative
                number, a path that leaves its folder, a path or a role that occurs twice.
        """
        try:
            values = read_object(text)
            version = values.get("format_version")
            # Before any other key, so that a newer format is told apart from a damaged file.
            if isinstance(version, int) and version > FORMAT_VERSION:
                raise WeightsError(
                    f"{name} has format {version}, made by a newer tinyv; "
                    f"this one reads {FORMAT_VERSION}",
                    "update tinyv: `pip install --upgrade tinyv`",
                )
            if isinstance(version, int) and version < FORMAT_VERSION:
                raise ValueError(f"format_version is {version}, the first one is {FORMAT_VERSION}")
            manifest = to_dataclass(cls, values)
            _check_values(manifest)
        except (ValueError, RecursionError) as error:
            raise WeightsError(f"{name} is not a valid manifest: {error}", MAKE_AGAIN) from error
        return manifest


@dataclass(frozen=True)
class Variant:
    """A folder of files that run, and its manifest.

    Attributes:
        folder: absolute.
        name: the folder's name, as `-m` takes it.
    """

    folder: Path
    name: str
    manifest: Manifest

    def path(self, role: str) -> Path:
        """Returns the path of the file with a role.

        Raises:
            WeightsError: no file has this role.
        """
        for entry in self.manifest.files:
            if entry.role == role:
                return self.folder / entry.path
        raise WeightsError(f"variant {self.name} has no file with the role '{role}'", MAKE_AGAIN)

    def has(self, role: str) -> bool:
        """Checks whether a file has this role."""
        return any(entry.role == role for entry in self.manifest.files)

    @property
    def devices(self) -> tuple[str, ...]:
        """Lists what it has files for: `cpu`, `cuda` or both, in this order."""
        return tuple(device for device, role in _DEVICE_ROLES.items() if self.has(role))

    def graphs(self, part: str) -> list[Path]:
        """Lists the paths of a part's graphs, in the order in which they run.

        Raises:
            WeightsError: there is none.
        """
        roles = list_graph_roles(part, {entry.role for entry in self.manifest.files})
        return [self.path(role) for role in roles or [part]]


def make_graph_role(part: str, index: int) -> str:
    """Names the role of one of a part's graphs: `decoder`, then `decoder-2`, and so on.

    Args:
        part: `vision` or `decoder`.
        index: among the part's graphs in the order in which they run, from 0.
    """
    return part if index == 0 else f"{part}-{index + 1}"


def list_graph_roles(part: str, roles: Collection[str]) -> list[str]:
    """Picks the roles that are graphs of a part, in the order in which they run."""
    wanted = (make_graph_role(part, index) for index in range(len(roles)))
    return list(takewhile(roles.__contains__, wanted))


def read_variant(folder: Path) -> Variant:
    """Reads a folder's manifest and checks that every file is there, inside, with the right size.

    Raises:
        WeightsError: the folder or a file is missing, unreadable, of the wrong size or outside the
            folder, or the manifest is not valid.
    """
    hint = "`tinyv list` shows the variants there are"
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder", hint)
    try:
        text = (folder / MANIFEST_NAME).read_bytes()
    except FileNotFoundError as error:
        problem = f"{folder} is not a variant: it has no {MANIFEST_NAME}"
        if (folder / "phi-2").is_dir() or any(folder.glob("*.pth")):
            hint = f"make a variant of these sources: `tinyv quantize --sources {folder}`"
        raise WeightsError(problem, hint) from error
    except OSError as error:
        raise make_read_error(folder / MANIFEST_NAME, error) from error
    manifest = Manifest.from_json(text, str(folder / MANIFEST_NAME))
    for entry in manifest.files:
        path = folder / entry.path
        try:
            size_bytes = path.stat().st_size
        except FileNotFoundError as error:
            raise WeightsError(f"{path} is missing", MAKE_AGAIN) from error
        except OSError as error:
            raise make_read_error(path, error) from error
        if not path.is_file():
            raise WeightsError(f"{path} is not a file", MAKE_AGAIN)
        if not path.resolve().is_relative_to(folder.resolve()):
            raise WeightsError(f"{path} is a link that leads out of its folder", MAKE_AGAIN)
        if size_bytes != entry.size_bytes:
            problem = f"{path} has {size_bytes} bytes, its manifest says {entry.size_bytes}"
            raise WeightsError(problem, MAKE_AGAIN)
    return Variant(folder.absolute(), folder.absolute().name, manifest)


def make_read_error(path: Path, error: OSError) -> WeightsError:
    """Returns the error for a file that is there and cannot be opened."""
    problem = f"{path} cannot be read: {describe_os_error(error)}"
    return WeightsError(problem, "check the permissions of the folder")


def _check_values(manifest: Manifest) -> None:
    """Raises ValueError for values that have the right type and are impossible all the same."""
    _check_positive(asdict(manifest.spec), "spec.")
    if manifest.bits < 1:
        raise ValueError(f"bits is {manifest.bits}")
    for stop_id in manifest.stop_ids:
        if not 0 <= stop_id < manifest.spec.language.vocab_size:
            raise ValueError(f"stop id {stop_id} is not in the vocabulary")
    for entry in (*manifest.files, *manifest.sources):
        path = PurePosixPath(entry.path)
        # A colon is a Windows drive or a second stream of a file; a backslash is a separator there.
        foreign = any(char in ':\\"' or not char.isprintable() for char in entry.path)
        if foreign or path.is_absolute() or ".." in path.parts or str(path) != entry.path:
            raise ValueError(f"path {entry.path!r} is not a plain path inside the folder")
        if entry.path in (".", MANIFEST_NAME):
            raise ValueError(f"path {entry.path!r} cannot be a file of it")
        if entry.size_bytes < 0:
            raise ValueError(f"size of {entry.path} is {entry.size_bytes}")
        if not _SHA256.fullmatch(entry.sha256):
            raise ValueError(f"sha256 of {entry.path} is not 64 hexadecimal digits")
    # Some file systems take `A` and `a` for one file.
    _check_once((entry.path.casefold() for entry in manifest.files), "path")
    _check_once((entry.role for entry in manifest.files), "role")


def _check_positive(numbers: dict[str, Any], prefix: str) -> None:
    """Raises ValueError for a number of the model that is zero or less."""
    for name, number in numbers.items():
        if isinstance(number, dict):
            _check_positive(number, f"{prefix}{name}.")
        elif number <= 0:
            raise ValueError(f"{prefix}{name} is {number}")


def _check_once(names: Iterable[str], what: str) -> None:
    """Raises ValueError for a name that occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} '{name}' occurs twice")
        seen.add(name)
