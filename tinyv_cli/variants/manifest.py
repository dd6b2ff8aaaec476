"""manifest.json becomes a checked description of a variant, and back.

A manifest is untrusted: every value's type, every number's range and every path is validated before
anything else uses it, and the numbers are compared with what the files hold.
"""

import json
import re
import shlex
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from tinyv_cli.disk.reading import read_bytes
from tinyv_cli.disk.typed_json import read_object, to_dataclass
from tinyv_cli.errors import WeightsError, describe_os_error
from tinyv_cli.spec import ModelSpec
from tinyv_cli.variants.contents import check_contents

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
MAKE_AGAIN = "make the variant again: `tinyv quantize --sources DIR --force`"

_DEVICE_ROLES = {"cpu": "decoder", "cuda": "cuda-language"}  # whatever else it needs comes with it
_SHA256 = re.compile(r"[0-9a-f]{64}")
# What numbers of the model may be at most; the others a million.
_LARGEST = {"stage": 4, "n_layers": 1000, "image_px": 4096, "rope_base": 1e12}
_LARGEST_EPSILON = 1.0
_LARGEST_BITS = 32
_LARGEST_FILE_BYTES = 1 << 60
CALIBRATED, NEAREST = ROUNDINGS = ("calibrated", "nearest")
# Of what was measured; cosines and shares end at 1.
_LARGEST_FIGURES = {
    **dict.fromkeys(("logits_kl_nats", "logits_kl_low", "logits_kl_high"), 1e3),
    "n_positions": 10**9,
}
_SLACK = 1e-3  # for a cosine of rounded numbers
_SHOWN_DIGITS = 20


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
        n_positions: that both are means over; like what follows None in older manifests.
        logits_kl_low: the least divergence that is likely, at 95 %.
        logits_kl_high: the largest.
        top1_low: the least agreement that is likely, at 95 %.
        top1_high: the largest.
    """

    image_token_cosine_mean: float
    image_token_cosine_min: float
    logits_kl_nats: float
    top1_agreement: float
    n_positions: int | None = None
    logits_kl_low: float | None = None
    logits_kl_high: float | None = None
    top1_low: float | None = None
    top1_high: float | None = None


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

    @property
    def rounding(self) -> str | None:
        """How the language model was rounded, one of `ROUNDINGS`, where its recipe tells."""
        rounding = self.recipe.get("rounding")
        return rounding if rounding in ROUNDINGS else None

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
                    f"{name} has format {_shorten(version)}, made by a newer tinyv; "
                    f"this one reads {FORMAT_VERSION}",
                    "update tinyv: `pip install --upgrade tinyv`",
                )
            if isinstance(version, int) and version < FORMAT_VERSION:
                raise ValueError(
                    f"format_version is {_shorten(version)}, the first one is {FORMAT_VERSION}"
                )
            manifest = to_dataclass(cls, values)
            _check_values(manifest)
            manifest.to_json()  # what is nested too deep to be written could not be compared later
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


def read_variant(folder: Path, *, is_copied: bool = False) -> Variant:
    """Reads a folder's manifest and checks that every file is there, inside, with the right size.

    Args:
        folder: of the variant.
        is_copied: whether the files will be copied and their hashes checked; then they may be links
            to what the hub's cache holds.

    Raises:
        WeightsError: the folder or a file is missing, unreadable, of the wrong size or outside the
            folder, or the manifest is not valid.
    """
    hint = "`tinyv list` shows the variants there are"
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder", hint)
    try:
        text = read_bytes(folder / MANIFEST_NAME)
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
        places = [folder.resolve(), *(_list_blob_folders(folder) if is_copied else ())]
        if not any(map(path.resolve().is_relative_to, places)):
            # As the hub's cache has them. A variant is checked once and stays as it is; what a link
            # leads to may change.
            raise WeightsError(
                f"{path} is a link that leads out of its folder",
                f"copy and check the variant: `tinyv pull {shlex.quote(str(folder))}`",
            )
        if size_bytes != entry.size_bytes:
            problem = (
                f"{path} has {size_bytes} bytes, its manifest says {_shorten(entry.size_bytes)}"
            )
            raise WeightsError(problem, MAKE_AGAIN)
    variant = Variant(folder.absolute(), folder.absolute().name, manifest)
    _check_files(variant)
    return variant


def _list_blob_folders(folder: Path) -> list[Path]:
    """Lists where the hub's cache keeps the content of a snapshot's files.

    Source: huggingface_hub 2.4, `file_download.py` and `utils/_shared_blobs.py`:
    `CACHE/models--OWNER--NAME/snapshots/REVISION` leads to `blobs` beside it, or of the cache.
    """
    whole = folder.resolve()
    snapshots = next((each for each in whole.parents if each.name == "snapshots"), None)
    if snapshots is None:
        return []
    return [snapshots.parent / "blobs", snapshots.parent.parent / "blobs"]


def _check_files(variant: Variant) -> None:
    """Compares the manifest's numbers with its files.

    Raises:
        WeightsError: they differ, or a file cannot be read.
    """
    by_role = {entry.role: variant.folder / entry.path for entry in variant.manifest.files}
    roles = {part: list_graph_roles(part, by_role) for part in ("vision", "decoder")}
    roles |= {role: [role] for role in ("cuda-vision", "cuda-language") if role in by_role}
    roles["data"] = [role for role in ("vision-data", "decoder-data") if role in by_role]
    if "embeddings" in by_role:
        scales = [role for role in ("embeddings-scales",) if role in by_role]
        roles["embeddings"] = ["embeddings", *scales]
    parts = {part: [by_role[role] for role in found] for part, found in roles.items()}
    try:
        check_contents(variant.manifest.spec, parts)
    except OSError as error:
        raise make_read_error(Path(error.filename or variant.folder), error) from error
    except ValueError as error:
        problem = f"{variant.folder / MANIFEST_NAME} does not fit its files: {error}"
        raise WeightsError(problem, MAKE_AGAIN) from error


def make_read_error(path: Path, error: OSError) -> WeightsError:
    """Returns the error for a file that is there and cannot be opened."""
    problem = f"{path} cannot be read: {describe_os_error(error)}"
    return WeightsError(problem, "check the permissions of the folder")


def _check_values(manifest: Manifest) -> None:
    """Raises ValueError for values that have the right type and are impossible all the same."""
    _check_spec(manifest.spec)
    if not 1 <= manifest.bits <= _LARGEST_BITS:
        raise ValueError(f"bits is {_shorten(manifest.bits)}")
    errors = manifest.errors
    if errors is not None:
        for name, figure in asdict(errors).items():
            if figure is not None and abs(figure) > _LARGEST_FIGURES.get(name, 1 + _SLACK):
                raise ValueError(f"errors.{name} is {_shorten(figure)}")
    for stop_id in manifest.stop_ids:
        if not 0 <= stop_id < manifest.spec.language.vocab_size:
            raise ValueError(f"stop id {_shorten(stop_id)} is not in the vocabulary")
    for text in (manifest.template, manifest.made_by):  # which are shown as they stand
        if not text.isprintable():
            raise ValueError(f"{text[:_SHOWN_DIGITS]!r} cannot be printed")
    for entry in (*manifest.files, *manifest.sources):
        path = PurePosixPath(entry.path)
        # A colon is a Windows drive or a second stream of a file; a backslash is a separator there.
        foreign = any(char in ':\\"' or not char.isprintable() for char in entry.path)
        if foreign or path.is_absolute() or ".." in path.parts or str(path) != entry.path:
            raise ValueError(f"path {entry.path!r} is not a plain path inside the folder")
        if entry.path in (".", MANIFEST_NAME):
            raise ValueError(f"path {entry.path!r} cannot be a file of it")
        if not 0 <= entry.size_bytes <= _LARGEST_FILE_BYTES:
            raise ValueError(f"size of {entry.path} is {_shorten(entry.size_bytes)}")
        if not _SHA256.fullmatch(entry.sha256):
            raise ValueError(f"sha256 of {entry.path} is not 64 hexadecimal digits")
    # Some file systems take `A` and `a` for one file.
    _check_once((entry.path.casefold() for entry in manifest.files), "path")
    _check_once((entry.role for entry in manifest.files), "role")


def _check_spec(spec: ModelSpec) -> None:
    """Raises ValueError for a number of the model that no network has."""

    def check_range(numbers: dict[str, Any], prefix: str) -> None:
        for name, number in numbers.items():
            if isinstance(number, dict):
                check_range(number, f"{prefix}{name}.")
                continue
            usual = _LARGEST_EPSILON if name.endswith("eps") else 1_000_000
            if not 0 < number <= _LARGEST.get(name, usual):
                raise ValueError(f"{prefix}{name} is {_shorten(number)}")

    check_range(asdict(spec), "spec.")
    vision, qformer, language = spec.vision, spec.qformer, spec.language
    for name, side in (("vision", vision), ("qformer", qformer), ("language", language)):
        if side.width % side.n_heads:
            raise ValueError(f"spec.{name} has {side.n_heads} heads for a width of {side.width}")
    if vision.image_px % vision.patch_px:
        raise ValueError(f"spec.vision has patches of {vision.patch_px} in {vision.image_px} px")
    if language.rotary_width % 2 or language.rotary_width > language.head_width:
        raise ValueError(
            f"spec.language rotates {language.rotary_width} of {language.head_width} channels"
        )
    if qformer.n_queries >= language.context_length:
        raise ValueError(f"spec.qformer.n_queries is {qformer.n_queries}, more than the context")


def _shorten(number: float) -> str:
    """Writes a number for a message: one out of range may have hundreds of digits."""
    text = str(number)
    return text if len(text) <= _SHOWN_DIGITS else f"{text[:_SHOWN_DIGITS]}…"


def _check_once(names: Iterable[str], what: str) -> None:
    """Raises ValueError for a name that occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} '{name}' occurs twice")
        seen.add(name)
