"""Lines of a batch go to the files of a folder, here or in a store, as parquet or JSON lines.

A part is written whole, once it holds enough lines or is old enough. A kill takes the lines that
have no part yet; their pictures are then asked again.
"""

import io
import secrets
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from pyarrow import parquet

from tinyv_cli.addresses import to_shown
from tinyv_cli.batch.cluster.lines import to_lines, to_table
from tinyv_cli.batch.cluster.storage import Place, is_remote
from tinyv_cli.batch.output import ToKey, check_settings, hold_output, open_output, to_entry
from tinyv_cli.batch.settings import Settings, to_content, to_settings
from tinyv_cli.disk.json_lines import to_line
from tinyv_cli.disk.typed_json import read_object
from tinyv_cli.errors import UsageError

SETTINGS_NAME = ".tinyv.settings"  # readers of the folder pass over what begins with a dot
_PART = "part-"
_MAX_LINES, _MAX_AGE_S = 1000, 60.0


@dataclass
class Parts:
    """The lines of a batch in a folder; an `output.Output` with other files.

    Attributes:
        place: the folder.
        suffix: of its parts, `.parquet` or `.jsonl`.
        answers: by the key of each picture that has its line; None where it failed.
    """

    place: Place
    suffix: str
    to_key: ToKey
    answers: dict[Path, str | None] = field(default_factory=dict)
    _waiting: list[dict[str, Any]] = field(default_factory=list)
    _since_s: float = 0.0

    def write(self, line: dict[str, Any]) -> None:
        """Adds a picture's line, which reaches the folder with its part.

        Raises:
            DeviceError: the part cannot be written; its lines wait.
        """
        if not self._waiting:
            self._since_s = time.monotonic()
        self._waiting.append(line)
        key, answer = to_entry(line, self.to_key)
        self.answers[key] = answer
        is_old = time.monotonic() - self._since_s >= _MAX_AGE_S
        if is_old or len(self._waiting) >= _MAX_LINES:
            self.sync()

    def sync(self) -> None:
        """Writes the lines that wait as a part.

        Raises:
            DeviceError: it cannot be written.
        """
        if self._waiting:
            name = f"{_PART}{int(time.time())}-{secrets.token_hex(6)}{self.suffix}"
            self.place.write(name, self._to_bytes(self._waiting))
            self._waiting = []

    def read(self) -> None:
        """Reads which pictures have their lines."""
        for part in self._list_parts():
            for line in self._read_part(part):
                key, answer = to_entry(line, self.to_key)
                self.answers[key] = answer

    def drop_failures(self) -> None:
        """Writes the parts with failures again, without them."""
        for part in self._list_parts():
            lines = self._read_part(part)
            kept = [line for line in lines if "error" not in line]
            if len(kept) < len(lines):
                self.place.write(Path(part.path).name, self._to_bytes(kept))
        self.answers = {key: each for key, each in self.answers.items() if each is not None}

    def remove(self) -> None:
        """Removes the parts, and nothing else."""
        for part in self._list_parts():
            part.remove()

    def _list_parts(self) -> list[Place]:
        """Lists what was written, none where there is no folder."""
        names = self.place.list_names()
        ours = [each for each in names if each.startswith(_PART) and each.endswith(self.suffix)]
        return [self.place.at(name) for name in ours]

    def _read_part(self, part: Place) -> list[dict[str, Any]]:
        """Reads the lines of a part."""
        content = part.read()
        try:
            if self.suffix == ".jsonl":
                return [read_object(line) for line in content.splitlines()]
            return to_lines(parquet.read_table(io.BytesIO(content)))
        except (ValueError, OSError, pa.ArrowException) as error:
            raise UsageError(
                f"{to_shown(part.address)} was not written by tinyv batch",
                "remove it, or name another: `-o FOLDER`",
            ) from error

    def _to_bytes(self, lines: list[dict[str, Any]]) -> bytes:
        """Makes the content of a part."""
        if self.suffix == ".jsonl":
            return b"".join(map(to_line, lines))
        buffer = io.BytesIO()
        parquet.write_table(to_table(lines), buffer)
        return buffer.getvalue()


class Lines(Protocol):
    """Where lines go: a file, or a folder of parts."""

    answers: dict[Path, str | None]

    def write(self, line: dict[str, Any]) -> None:
        """Adds a line."""


def open_lines(
    target: str, settings: Settings, to_key: ToKey, *, fresh: bool, retries: bool
) -> AbstractContextManager[Lines]:
    """Opens a file of lines, or a folder of parts where the target is parquet or in a store.

    Args and raised errors are those of `open_parts`.

    Raises:
        UsageError: a target in a store does not end as what it is to hold.
    """
    if not is_remote(target) and not target.rstrip("/").lower().endswith(".parquet"):
        return open_output(Path(target), settings, to_key, fresh=fresh, retries=retries)
    if not target.partition("?")[0].rstrip("/").lower().endswith((".parquet", ".jsonl")):
        raise UsageError(
            f"{to_shown(target)} ends neither in .parquet nor in .jsonl",
            "say which: `-o s3://B/NAME.jsonl`",
        )
    return open_parts(target, settings, to_key, fresh=fresh, retries=retries)


@contextmanager
def open_parts(
    address: str, settings: Settings, to_key: ToKey, *, fresh: bool, retries: bool
) -> Iterator[Parts]:
    """Opens a folder of lines to begin it, or to go on with it, as `output.open_output` a file.

    Of two batches that write into one folder of a store at once neither notices.

    Args:
        address: a path or URL that ends in `.parquet` or `.jsonl`.
        settings: that answers are made with.
        to_key: returns one name for a picture, given its line's.
        fresh: removes the parts that are there.
        retries: forgets pictures that failed.

    Raises:
        UsageError: it was begun with other settings, or holds what is no batch's.
        InputError: it cannot be read.
        DeviceError: it cannot be written.
    """
    place = Place(address)
    parts = Parts(place, Path(place.path).suffix.lower(), to_key)
    with nullcontext() if is_remote(address) else hold_output(Path(place.path)):
        before = None
        if SETTINGS_NAME in place.list_names():
            before = to_settings(place.at(SETTINGS_NAME).read())
        if fresh:
            parts.remove()
        parts.read()
        if parts.answers:
            check_settings(to_shown(address), before, settings)
        else:
            place.write(SETTINGS_NAME, to_content(settings))
        if retries:
            parts.drop_failures()
        try:
            yield parts
        finally:
            parts.sync()
