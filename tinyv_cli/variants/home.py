"""A name becomes a variant's folder; knows where things lie on this computer, not their format."""

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from tinyv_cli.disk.places import variants_dir
from tinyv_cli.errors import WeightsError
from tinyv_cli.variants import miniature
from tinyv_cli.variants.manifest import MANIFEST_NAME, Variant, make_read_error, read_variant

HOW_TO_MAKE_ONE = "make one: `tinyv pull && tinyv quantize --bits 4`"


@dataclass(frozen=True)
class DamagedVariant:
    """A folder among the variants that cannot be read, and why."""

    folder: Path
    name: str
    error: WeightsError


def is_bare_name(name_or_path: str) -> bool:
    """Tells a variant's name from a path: a name has no separator and is not a dot."""
    separators = {"/", "\\", os.sep}
    return name_or_path not in {"", ".", ".."} and not separators & set(name_or_path)


def resolve_folder(name_or_path: str) -> Path:
    """Folder that a variant of this name or path has or would have; it may not exist."""
    if is_bare_name(name_or_path):
        return variants_dir() / name_or_path
    return Path(name_or_path).expanduser()


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
    if not folder.is_dir() and (Path(wanted) / MANIFEST_NAME).is_file():
        folder = Path(wanted)
    if folder.exists():
        return read_variant(folder)
    brought = miniature.read_miniature() if wanted == miniature.NAME else None
    if brought is None:
        raise _make_unknown_error(wanted)
    return brought


def list_variants() -> list[Variant | DamagedVariant]:
    """All variants of the user's own by name, those that cannot be read included.

    Raises:
        WeightsError: the folder of variants itself cannot be read.
    """
    try:
        folders = sorted(each for each in variants_dir().iterdir() if each.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise make_read_error(variants_dir(), error) from error
    # A dot starts the name of a folder that is still being written.
    return [_read_or_tell(each) for each in folders if not each.name.startswith(".")]


def list_named_variants() -> list[Variant | DamagedVariant]:
    """All that `-m` takes by name: the user's own, then the miniature unless one has its name.

    Raises:
        WeightsError: the folder of variants itself cannot be read.
    """
    own = list_variants()
    folder = miniature.find_variant()
    if folder is None or miniature.NAME in {each.name for each in own}:
        return own
    try:
        brought = miniature.read_miniature()
    except WeightsError as error:
        return [*own, DamagedVariant(folder, miniature.NAME, error)]
    return [*own, brought] if brought else own


def _read_or_tell(folder: Path) -> Variant | DamagedVariant:
    """Reads a variant, or keeps the reason why not."""
    try:
        return read_variant(folder)
    except WeightsError as error:
        return DamagedVariant(folder, folder.name, error)


def _read_newest() -> Variant:
    """The variant made last, damaged ones only where there is no other; else the miniature."""
    found = list_variants()
    sound = [each for each in found if isinstance(each, Variant)]
    if sound:
        return max(sound, key=lambda variant: (variant.folder / MANIFEST_NAME).stat().st_mtime_ns)
    for each in found:
        if isinstance(each, DamagedVariant):
            raise each.error
    brought = miniature.read_miniature()
    if brought is None:
        raise WeightsError(f"there is no variant in {variants_dir()}", HOW_TO_MAKE_ONE)
    return brought


def _make_unknown_error(wanted: str) -> WeightsError:
    """Nothing of this name: similar names, else how to make one."""
    if not is_bare_name(wanted):
        return WeightsError(f"there is no folder {wanted}", _hint_for_names(""))
    return WeightsError(
        f"there is no variant '{wanted}' in {variants_dir()}", _hint_for_names(wanted)
    )


def _hint_for_names(wanted: str) -> str:
    """The nearest name, else where names are shown, else how to make a variant."""
    names = [each.name for each in list_named_variants()]
    close = get_close_matches(wanted, names, n=1)
    if close:
        return f"did you mean `-m {close[0]}`?"
    return f"`tinyv list` shows the variants, or {HOW_TO_MAKE_ONE}" if names else HOW_TO_MAKE_ONE
