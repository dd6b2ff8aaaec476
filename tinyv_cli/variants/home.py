"""A name becomes a variant, among those on this computer and the miniature."""

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from tinyv_cli.disk import paths
from tinyv_cli.disk.places import variants_dir
from tinyv_cli.disk.reading import read_bytes
from tinyv_cli.disk.typed_json import read_object
from tinyv_cli.errors import UsageError, WeightsError
from tinyv_cli.variants import miniature
from tinyv_cli.variants.manifest import MANIFEST_NAME, Variant, make_read_error, read_variant

_SUFFIXES = (".onnx", ".data", ".npy", ".safetensors")  # of the files that variants are made of
HOW_TO_MAKE_ONE = "make one: `tinyv pull && tinyv quantize --bits 4`"


@dataclass(frozen=True)
class DamagedVariant:
    """A folder among the variants that cannot be read, and why."""

    folder: Path
    name: str
    error: WeightsError


def is_bare_name(name_or_path: str) -> bool:
    """Checks for a name, no path: it has no separator and is not a dot."""
    separators = {"/", "\\", os.sep}
    return name_or_path not in {"", ".", ".."} and not separators & set(name_or_path)


def resolve_folder(name_or_path: str) -> Path:
    """Returns the folder that a variant of this name or path has or would have."""
    if is_bare_name(name_or_path):
        return variants_dir() / name_or_path
    return paths.expand(name_or_path)


def resolve_variant(name_or_path: str | None) -> Variant:
    """Finds and reads the variant that is meant.

    Args:
        name_or_path: a name under `variants_dir()`, else a folder, else `miniature`; None is
            `TINYV_MODEL`, where that is not set the newest variant, and where there is none the
            miniature.

    Raises:
        WeightsError: there is none, or it cannot be read.
    """
    wanted = name_or_path or os.environ.get("TINYV_MODEL")
    if not wanted:
        return _read_newest()
    folder = resolve_folder(wanted)
    # A name that is nowhere among the variants may still be a folder right here.
    if not paths.is_folder(folder) and paths.is_file(Path(wanted) / MANIFEST_NAME):
        folder = Path(wanted)
    if paths.exists(folder):
        return read_variant(folder)
    if wanted == miniature.NAME and (own := miniature.read_miniature()):
        return own
    names = [each.name for each in list_named_variants()]
    hint = f"`tinyv list` shows the variants, or {HOW_TO_MAKE_ONE}" if names else HOW_TO_MAKE_ONE
    if not is_bare_name(wanted):
        raise WeightsError(f"there is no folder {wanted}", hint)
    if close := get_close_matches(wanted, names, n=1):
        hint = f"did you mean `-m {close[0]}`?"
    raise WeightsError(f"there is no variant '{wanted}' in {variants_dir()}", hint)


def check_replaceable(folder: Path, flag: str) -> None:
    """Checks that a folder may give way to a variant: it is empty, or a variant and nothing else.

    Args:
        folder: exists.
        flag: the option that names another one.

    Raises:
        UsageError: it holds what is not ours, which is never removed.
    """
    problem = "is not a variant"
    if folder.is_dir():
        paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
        names = {path.relative_to(folder).as_posix() for path in paths}
        usual = {name for name in names if name.endswith(_SUFFIXES) or name == "tokenizer.json"}
        try:
            values = read_object(read_bytes(folder / MANIFEST_NAME))
            is_ours = isinstance(values.get("format_version"), int)
            entries = values.get("files")
        except (OSError, ValueError, RecursionError):  # a damaged variant may be replaced, too
            is_ours, entries = MANIFEST_NAME in names and bool(usual), None
        listed = entries if isinstance(entries, list) else []
        known = {str(each.get("path")) for each in listed if isinstance(each, dict)}
        foreign = sorted(names - known - usual - {MANIFEST_NAME})
        if not names or (is_ours and not foreign):
            return
        if is_ours:
            problem = f"holds what is no part of a variant: {', '.join(foreign[:3])}"
    raise UsageError(
        f"{folder} {problem}, `--force` does not replace it", f"name another folder with `{flag}`"
    )


def list_variants() -> list[Variant | DamagedVariant]:
    """Reads all variants of the user's own by name, those that cannot be read included.

    Raises:
        WeightsError: the folder of variants itself cannot be read.
    """
    found: list[Variant | DamagedVariant] = []
    for folder in _list_folders():
        try:
            found.append(read_variant(folder))
        except WeightsError as error:
            found.append(DamagedVariant(folder, folder.name, error))
    return found


def list_names() -> list[str]:
    """Lists the names that `-m` takes, without reading what they name.

    Raises:
        WeightsError: the folder of variants itself cannot be read.
    """
    own = [each.name for each in _list_folders()]
    is_ready = miniature.find_ready_variant() is not None
    return own if miniature.NAME in own or not is_ready else [*own, miniature.NAME]


def count_variants() -> int:
    """Counts the variants of the user's own, without reading any.

    Raises:
        WeightsError: the folder of variants itself cannot be read.
    """
    return len(_list_folders())


def list_newer(variant: Variant) -> list[str]:
    """Lists the variants of the user's own that were made after one, the last first.

    Where that one was taken as the newest, they are those that cannot be read.

    Raises:
        WeightsError: the folder of variants itself cannot be read.
    """
    made_ns = _find_made_ns(variant.folder)
    folders = sorted(_list_folders(), key=_find_made_ns, reverse=True)
    return [each.name for each in folders if _find_made_ns(each) > made_ns]


def list_named_variants() -> list[Variant | DamagedVariant]:
    """Reads all that `-m` takes by name: the user's own, then the miniature if none has its name.

    Raises:
        WeightsError: the folder of variants itself cannot be read.
    """
    own = list_variants()
    folder = miniature.find_ready_variant()
    if folder is None or miniature.NAME in {each.name for each in own}:
        return own
    try:
        ready = miniature.read_miniature()
    except WeightsError as error:
        return [*own, DamagedVariant(folder, miniature.NAME, error)]
    return [*own, ready] if ready else own


def _read_newest() -> Variant:
    """Reads the variant made last that is not damaged; where there is none, the miniature.

    Raises:
        WeightsError: all there are are damaged; what is wrong with the one made last.
    """
    damage: WeightsError | None = None
    for folder in sorted(_list_folders(), key=_find_made_ns, reverse=True):
        try:
            return read_variant(folder)
        except WeightsError as error:
            damage = damage or error
    if damage is not None:
        raise damage
    own = miniature.read_miniature()
    if own is None:
        raise WeightsError(f"there is no variant in {variants_dir()}", HOW_TO_MAKE_ONE)
    return own


def _list_folders() -> list[Path]:
    """Lists the folders of the user's own variants by name, without those still being written."""
    try:
        folders = sorted(each for each in variants_dir().iterdir() if each.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise make_read_error(variants_dir(), error) from error
    return [folder for folder in folders if not folder.name.startswith(".")]


def _find_made_ns(folder: Path) -> int:
    """Returns when a variant was made; 0 where it has no manifest."""
    try:
        return (folder / MANIFEST_NAME).stat().st_mtime_ns
    except OSError:
        return 0
