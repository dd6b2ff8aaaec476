"""A variant in a folder or a store is copied to this machine, once, and checked."""

from pathlib import Path

from tinyv_cli.addresses import to_shown
from tinyv_cli.batch.cluster.storage import Place
from tinyv_cli.disk.lock import hold
from tinyv_cli.disk.staging import build_beside, move_in
from tinyv_cli.errors import WeightsError
from tinyv_cli.variants.hashes import check_hashes
from tinyv_cli.variants.home import check_replaceable, resolve_folder
from tinyv_cli.variants.manifest import MANIFEST_NAME, Manifest, read_variant


def copy_variant(origin: str, name: str | None) -> Path:
    """Copies a variant among those of this machine, unless the same one is there.

    The workers of a machine take turns: the first copies, the others find it done.

    Args:
        origin: a folder, or the URL of one in a store, that holds the variant's files.
        name: of the copy; None for that of the origin.

    Returns:
        The copy's folder.

    Raises:
        InputError: the origin cannot be read.
        WeightsError: it holds no variant, or a damaged one.
        UsageError: what is called so on this machine is no variant.
        DeviceError: the disk is too small.
    """
    place = Place(origin)
    target = resolve_folder(name or Path(place.path).name)
    with hold(target.with_name(f"{target.name}.copied"), lambda: None):
        files = {
            Path(other.path).relative_to(place.path): other
            for other in map(Place, place.list_files(recurses=True))
        }
        if Path(MANIFEST_NAME) not in files:
            raise WeightsError(
                f"there is no variant at {to_shown(origin)}",
                f"put one there: `tinyv push {name or 'NAME'} FOLDER`, and copy that folder",
            )
        content = files[Path(MANIFEST_NAME)].read()
        wanted = Manifest.from_json(content, f"{MANIFEST_NAME} of {to_shown(origin)}")
        try:
            there = read_variant(target)
            check_hashes(target, there.manifest.files)
            if there.manifest == wanted:
                return target
        except WeightsError:
            pass  # it is missing, damaged or half there: replaced
        if target.exists():
            check_replaceable(target, "-m")
        with build_beside(target) as building:
            for entry in wanted.files:
                path = building / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                source = files.get(Path(entry.path))
                if source is None:
                    raise WeightsError(
                        f"{to_shown(origin)} lacks {entry.path}", "copy the whole folder there"
                    )
                source.copy_to(path)
            (building / MANIFEST_NAME).write_bytes(content)
            check_hashes(building, wanted.files)
            move_in(building, target, replace=True)
    return target
