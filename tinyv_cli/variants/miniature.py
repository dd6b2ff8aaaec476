"""The miniature that comes with tinyv becomes a variant and a folder of sources; trains nothing.

It lies in `weights/demo/`, beside this package, in a checkout as in an installed wheel, and may be
missing. It is found by its place, so that no package has to be loaded for it and no other package
called `weights` is taken for it. Nothing is ever written there.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tinyv_cli.disk import paths
from tinyv_cli.disk.places import told_path
from tinyv_cli.errors import WeightsError
from tinyv_cli.variants.manifest import MANIFEST_NAME, Manifest, Variant, read_variant

NAME = "miniature"
INSTALL_AGAIN = "install tinyv again, or take a variant of your own with `-m`"
_FIRST = (
    "a toy that comes with tinyv and knows drawings of 64 kinds of things (`tinyv list -v`); "
    "photographs get made-up answers; the real model: `tinyv pull && tinyv quantize --bits 4`"
)
IN_SHORT = "a toy for drawings: photographs get made-up answers"


def miniature_dir() -> Path:
    """Returns where the miniature lies if it is there; tests replace this."""
    return Path(__file__).resolve().parents[2] / "weights" / "demo"


def find_sources() -> Path | None:
    """Returns the folder of the miniature's sources; None where tinyv came without them."""
    folder = miniature_dir() / "sources"
    return folder if folder.is_dir() else None


def find_ready_variant() -> Path | None:
    """Returns the folder of the miniature's variant; None where tinyv came without it."""
    folder = miniature_dir() / "variant"
    return folder if (folder / MANIFEST_NAME).exists() else None


def list_examples() -> list[Path]:
    """Lists the pictures that it can be shown; none where tinyv came without them."""
    return sorted((miniature_dir() / "examples").glob("*.png"))


def read_kinds() -> list[str]:
    """Reads the kinds of things that it knows drawings of; none where tinyv came without it."""
    path = miniature_dir() / "kinds.txt"
    return path.read_text("utf-8").splitlines() if path.is_file() else []


def read_miniature() -> Variant | None:
    """Reads the miniature under its own name; None where tinyv came without it.

    Raises:
        WeightsError: it is damaged.
    """
    folder = find_ready_variant()
    if folder is None:
        return None
    try:
        return replace(read_variant(folder), name=NAME)
    except WeightsError as error:
        raise to_damage(error) from error


def to_damage(error: WeightsError) -> WeightsError:
    """Makes an error about the miniature's files, with their own way out."""
    return WeightsError(error.problem, INSTALL_AGAIN)


def is_miniature_folder(folder: Path) -> bool:
    """Checks for one of the miniature's own two folders, by whichever path it was named."""
    home = miniature_dir()
    return folder.resolve() in {(home / name).resolve() for name in ("sources", "variant")}


def is_miniature(variant: Variant) -> bool:
    """Checks whether a variant is the miniature, or was made from its sources.

    The checkpoint decides: a vocabulary or a config can be the same in another network.
    """
    if is_miniature_folder(variant.folder):
        return True
    try:
        miniature = read_miniature()
    except WeightsError:
        return False
    return miniature is not None and bool(
        _list_checkpoints(variant.manifest) & _list_checkpoints(miniature.manifest)
    )


def make_note(variant: Variant) -> str:
    """Makes the line that says what the miniature is: in full once on a computer, then short.

    Args:
        variant: the miniature, or one that was made from it.
    """
    is_itself = is_miniature_folder(variant.folder)
    who = "the miniature answers" if is_itself else f"{variant.name} answers, made of the miniature"
    told = told_path()
    if paths.exists(told):
        return f"{who}, {IN_SHORT}"
    with suppress(OSError):  # where nothing can be kept, it is said in full each time
        told.parent.mkdir(parents=True, exist_ok=True)
        told.touch()
    return f"{who}, {_FIRST}"


def make_doubt(name: str) -> str:
    """Makes the warning about a picture that is none of the drawings which the miniature knows."""
    return f"{name} is no drawing: the answer about it is made up"


def make_doubts(n_doubtful: int, n_pictures: int) -> str:
    """Makes the same of several pictures."""
    return f"{n_doubtful} of {n_pictures} pictures are no drawings: those answers are made up"


def _list_checkpoints(manifest: Manifest) -> set[str]:
    """Returns the hashes of TinyGPT-V's own checkpoint among the sources of a variant."""
    name = f"TinyGPT-V_for_Stage{manifest.spec.stage}.pth"
    return {entry.sha256 for entry in manifest.sources if entry.path == name}
