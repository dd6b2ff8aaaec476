"""Settings of a batch are kept beside its answers, and compared when it goes on."""

import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tinyv_cli.disk.json_lines import to_line
from tinyv_cli.disk.reading import read_bytes
from tinyv_cli.disk.typed_json import read_object, to_dataclass
from tinyv_cli.disk.whole_file import write_whole
from tinyv_cli.variants.manifest import Variant

_SHOWN = 40  # characters of a prompt in a message
_LABELS = {"folder": "pictures below", "variant": "an older", "ctx_size": "ctx-size"}


@dataclass(frozen=True)
class Settings:
    """All that decides over answers, but for the pictures' content.

    Attributes:
        variant: as `hash_variant` returns it.
        model: the variant's name, for people.
        device: that computes.
        folder: that relative paths start from; empty where there is none among them.
        task: as `--task`.
        at: the corners of the box asked about.
        choices: that the answer is one of.
        schema: the text of the JSON schema that answers fit.
    """

    prompt: str
    model: str
    variant: str
    template: str
    max_tokens: int
    temp: float
    top_p: float
    top_k: int
    min_p: float
    repeat_penalty: float
    seed: int | None
    ctx_size: int | None
    device: str
    folder: str
    task: str | None = None
    at: str | None = None
    choices: str | None = None
    schema: str | None = None


def hash_variant(variant: Variant) -> str:
    """Returns what tells a variant from any other: the SHA-256 of its manifest."""
    return hashlib.sha256(variant.manifest.to_json().encode()).hexdigest()


def resolve_settings(output: Path) -> Path:
    """Returns where the settings of an output lie: beside it.

    As a first line of the output they would have to be passed over by every reader of it.
    """
    return output.with_name(f"{output.name}.settings")


def read_settings(output: Path) -> Settings | None:
    """Reads the settings of an output; None where there are none, or no whole ones.

    Raises:
        OSError: they cannot be read.
    """
    try:
        return to_settings(read_bytes(resolve_settings(output)))
    except FileNotFoundError:
        return None


def to_settings(content: bytes) -> Settings | None:
    """Makes settings of what `to_content` wrote; None where they are not whole."""
    try:
        return to_dataclass(Settings, read_object(content))
    except (ValueError, RecursionError):
        return None


def to_content(settings: Settings) -> bytes:
    """Makes the content of a file that keeps settings."""
    return to_line(asdict(settings))


def write_settings(output: Path, settings: Settings) -> None:
    """Replaces the settings of an output.

    Raises:
        OSError: the disk is full; they are as they were.
    """
    write_whole(resolve_settings(output), to_content(settings))


def format_differences(kept: Settings, wanted: Settings) -> str:
    """Names the settings that differ, with the values kept; empty where none does."""
    names = [each.name for each in fields(Settings)]
    differing = [name for name in names if getattr(kept, name) != getattr(wanted, name)]
    # A variant that was made again has its old name; of another, the name says it all.
    if "model" in differing and "variant" in differing:
        differing.remove("variant")
    shown = []
    for name in differing:
        value = kept.model if name == "variant" else getattr(kept, name)
        if value in (None, ""):
            text = "unset"
        elif name in ("prompt", "schema"):
            text = f"'{value[:_SHOWN]}…'" if len(value) > _SHOWN else f"'{value}'"
        else:
            text = str(value)
        shown.append(f"{_LABELS.get(name, name)} {text}")
    return ", ".join(shown)
