"""What decides over the answers of a batch is kept beside them, and compared when it goes on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO

from tinyv_cli.disk.json_lines import to_line
from tinyv_cli.disk.typed_json import read_object, to_dataclass
from tinyv_cli.errors import UsageError

_SHOWN = 40  # characters of a value in a message


@dataclass(frozen=True)
class Settings:
    """All that decides over answers, but for the pictures' content.

    Attributes:
        variant: SHA-256 of its manifest.
        model: the variant's name, for people.
        device: that computes.
        folder: that relative paths start from; empty where there is none among them.
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


def resolve_settings(output: Path) -> Path:
    """Where the settings of an output lie: beside it."""
    return output.with_name(f"{output.name}.settings")


@contextmanager
def open_settings(output: Path) -> "Iterator[SettingsFile]":
    """Opens the settings of an output, for one process at a time.

    Raises:
        UsageError: another process is writing that output.
        OSError: the file can be neither read nor made.
    """
    path = resolve_settings(output)
    with path.open("a+b", buffering=0) as file:
        if not _lock(file):
            raise UsageError(
                f"another tinyv is writing {output}", "wait for it, or name another file: `-o FILE`"
            )
        yield SettingsFile(file)


class SettingsFile:
    """Settings on disk, open and locked."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self) -> Settings | None:
        """The settings; None where there are none, or no whole ones."""
        self._file.seek(0)
        try:
            return to_dataclass(Settings, read_object(self._file.read()))
        except (ValueError, RecursionError):
            return None

    def write(self, settings: Settings) -> None:
        """Replaces the settings; a kill meanwhile leaves none that can be read.

        Raises:
            OSError: the disk is full.
        """
        self._file.truncate(0)
        self._file.write(to_line(asdict(settings)))


def tell_differences(kept: Settings, wanted: Settings) -> str:
    """Names the settings that differ with the values kept; empty where none does."""
    names = [each.name for each in fields(Settings)]
    differing = [name for name in names if getattr(kept, name) != getattr(wanted, name)]
    # A variant that was made again has its old name; of another, the name says it all.
    if "model" in differing and "variant" in differing:
        differing.remove("variant")
    return ", ".join(f"{_LABELS.get(name, name)} {_show(kept, name)}" for name in differing)


_LABELS = {"folder": "pictures below", "variant": "an older", "ctx_size": "ctx-size"}


def _show(settings: Settings, name: str) -> str:
    """A value as a message shows it."""
    value = settings.model if name == "variant" else getattr(settings, name)
    if name == "prompt":
        text = str(value)
        return f"'{text[:_SHOWN]}…'" if len(text) > _SHOWN else f"'{text}'"
    return "unset" if value in (None, "") else str(value)


def _lock(file: IO[bytes]) -> bool:
    """Takes the file for this process until it is closed; tells whether nobody else has it.

    Where the system or the file system knows no such locks, nothing is taken.
    """
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
    return True
