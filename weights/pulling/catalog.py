"""sources.toml becomes a checked list of parts, forms, files and origins; reads nothing else.

Says what the public files are and where they can be had; knows no network and no folder.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tinyv_cli.errors import WeightsError

T = TypeVar("T")
CATALOG_PATH = Path(__file__).resolve().parents[1] / "sources.toml"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_INSTALL_AGAIN = "install tinyv again: `pip install --force-reinstall tinyv`"


@dataclass(frozen=True)
class FileOrigin:
    """Where a file can be had: a repository on the hub, or a URL.

    Attributes:
        repository: `owner/name`; empty for a URL.
        revision: branch, tag or commit of the repository.
        url: http or https; empty for a repository.
        name: the file's path there; empty where it is the last part of its path here.
        certain: whether it was read off the publisher's own listing.
    """

    repository: str = ""
    revision: str = "main"
    url: str = ""
    name: str = ""
    certain: bool = True

    @property
    def label(self) -> str:
        """How messages name it."""
        return self.url or f"{self.repository} @ {self.revision[:12]}"

    @property
    def short_label(self) -> str:
        """How a table names it: of a URL the host alone."""
        return urlsplit(self.url).hostname or self.label


@dataclass(frozen=True)
class PublicFile:
    """A file as it should be, and where it can be had.

    Attributes:
        path: within a folder of sources, or of a variant; plain, with `/`.
        size_bytes: exact; None where nobody knows it.
        about_bytes: for planning, where the exact size is not known; 0 where that is not either.
        sha256: 64 hexadecimal digits; empty where nobody knows them.
        is_index: whether it names shards that lie beside it and belong to the same form.
        origins: in the order in which they are tried.
    """

    path: str
    origins: tuple[FileOrigin, ...]
    size_bytes: int | None = None
    about_bytes: int = 0
    sha256: str = ""
    is_index: bool = False

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.path).name

    @property
    def planned_bytes(self) -> int:
        """Bytes to plan with."""
        return self.about_bytes if self.size_bytes is None else self.size_bytes

    def name_at(self, origin: FileOrigin) -> str:
        """Its path in a repository."""
        return origin.name or self.name


@dataclass(frozen=True)
class SourceForm:
    """Files that make up a part together.

    Attributes:
        files: the index, where there is one, before the shards.
        shards_bytes: bytes of the shards that an index among the files names, about.
    """

    files: tuple[PublicFile, ...]
    shards_bytes: int = 0


@dataclass(frozen=True)
class SourcePart:
    """Something that a variant needs once; the first of its forms that can be had is taken.

    Attributes:
        name: how messages call it.
        forms: in order of preference.
        stage: which stage needs it; None where all do.
    """

    name: str
    forms: tuple[SourceForm, ...]
    stage: int | None = None


@dataclass(frozen=True)
class Catalog:
    """All the public files."""

    parts: tuple[SourcePart, ...]

    def list_parts(self, stage: int) -> tuple[SourcePart, ...]:
        """What a stage needs."""
        return tuple(part for part in self.parts if part.stage in (None, stage))

    def list_files(self) -> Iterator[PublicFile]:
        """Every file of every form."""
        for part in self.parts:
            for form in part.forms:
                yield from form.files


def read_catalog(path: Path = CATALOG_PATH) -> Catalog:
    """Reads a list of public files.

    Args:
        path: of a file like sources.toml.

    Raises:
        WeightsError: it cannot be read, or says something that cannot be.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
        return Catalog(tuple(_make_part(each) for each in _read_list(values, "part")))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} is no list of public files: {error}", _INSTALL_AGAIN) from error


def _make_part(values: Mapping[str, Any]) -> SourcePart:
    forms = tuple(_make_form(each) for each in _read_list(values, "form"))
    return _make(SourcePart, {"forms": forms, **_without(values, "form")})


def _make_form(values: Mapping[str, Any]) -> SourceForm:
    files = tuple(_make_file(each) for each in _read_list(values, "file"))
    return _make(SourceForm, {"files": files, **_without(values, "file")})


def _make_file(values: Mapping[str, Any]) -> PublicFile:
    origins = tuple(_make_origin(each) for each in _read_list(values, "origins"))
    file = _make(PublicFile, {**values, "origins": origins})
    path = PurePosixPath(file.path)
    if path.is_absolute() or ".." in path.parts or str(path) != file.path or "\\" in file.path:
        raise ValueError(f"{file.path!r} is no plain path")
    if file.sha256 and not _SHA256.fullmatch(file.sha256):
        raise ValueError(f"{file.path} has a hash that is none: {file.sha256!r}")
    return file


def _make_origin(values: Mapping[str, Any]) -> FileOrigin:
    origin = _make(FileOrigin, values)
    if bool(origin.repository) == bool(origin.url):
        raise ValueError(f"an origin needs a repository or a URL: {dict(values)!r}")
    if origin.url and not origin.url.startswith(("https://", "http://")):
        raise ValueError(f"an origin's URL is neither http nor https: {origin.url!r}")
    return origin


def _make(kind: Callable[..., T], values: Mapping[str, Any]) -> T:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # all dataclasses
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"nobody knows the key {unknown[0]!r}")
    return kind(**values)


def _read_list(values: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    listed = values.get(key)
    if not isinstance(listed, list) or not listed or not all(isinstance(v, dict) for v in listed):
        raise ValueError(f"{key!r} is no list of tables")
    return listed


def _without(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != key}
