"""sources.toml becomes a checked list of the public files and where they can be had.

No file of the list is looked for, on disk or elsewhere.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from tinyv_cli.addresses import to_shown
from tinyv_cli.errors import UsageError, WeightsError

T = TypeVar("T")
CATALOG_PATH = Path(__file__).resolve().parents[1] / "sources.toml"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_INSTALL_AGAIN = "install tinyv again: `pip install --force-reinstall tinyv`"


@dataclass(frozen=True)
class FileOrigin:
    """A place that has a file: a repository on the hub, or a URL.

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
        """Its name in messages."""
        return to_shown(self.url) or f"{self.repository} @ {self.revision[:12]}"

    @property
    def word(self) -> str:
        """What is typed to name it."""
        return self.url or f"{self.repository}@{self.revision}"

    @property
    def short_label(self) -> str:
        """Its name in a table: of a URL the host alone."""
        return urlsplit(self.url).hostname or self.label


@dataclass(frozen=True)
class PublicFile:
    """A file as it should be, and where it can be had.

    Attributes:
        path: within a folder of sources, or of a variant; plain, with `/`.
        size_bytes: exact; None where it is unknown.
        about_bytes: for planning, where the exact size is not known; 0 where that is not either.
        sha256: 64 hexadecimal digits; empty where it is unknown.
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
        """Returns its path in a repository."""
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
        name: for messages.
        forms: in order of preference.
        stage: which stage needs it; None where all do.
    """

    name: str
    forms: tuple[SourceForm, ...]
    stage: int | None = None


@dataclass(frozen=True)
class ReadyVariant:
    """A finished variant that is fetched by a short name.

    Attributes:
        name: as it is typed.
        made_by: the command that makes such a variant.
        sha256: of its manifest, which holds the hashes of its files; empty where nobody hosts it.
        origins: in the order in which they are tried; none where nobody hosts it yet.
    """

    name: str
    made_by: str
    sha256: str = ""
    origins: tuple[FileOrigin, ...] = ()


@dataclass(frozen=True)
class Catalog:
    """All the public files, and the variants that are ready."""

    parts: tuple[SourcePart, ...]
    ready: tuple[ReadyVariant, ...] = ()

    def list_parts(self, stage: int) -> tuple[SourcePart, ...]:
        """Returns the parts that a stage needs."""
        return tuple(part for part in self.parts if part.stage in (None, stage))

    def list_files(self) -> Iterator[PublicFile]:
        """Yields every file of every form."""
        for part in self.parts:
            for form in part.forms:
                yield from form.files


def is_url(text: str) -> bool:
    """Returns whether something is an address of the web."""
    return text.startswith(("https://", "http://"))


def check_url(url: str) -> None:
    """Checks that a URL has a host and, if any, a number as its port.

    Raises:
        UsageError: it has not.
    """
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != -1  # asked for, since it may raise
    except ValueError:
        is_whole = False
    if not is_whole:
        raise UsageError(f"{to_shown(url)} is not a URL", "give one as https://host/folder")


def extend_url(folder: str, path: str) -> str:
    """Returns the URL of a file below a folder's; a query, such as a token, stays behind it."""
    parts = urlsplit(folder)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(path)}"))


def read_catalog(path: Path = CATALOG_PATH) -> Catalog:
    """Reads a list of public files.

    Args:
        path: of a file like sources.toml.

    Raises:
        WeightsError: it cannot be read, or says something that cannot be.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
        parts = []
        for part in _read_list(values, "part"):
            forms = []
            for form in _read_list(part, "form"):
                files = tuple(_make_file(each) for each in _read_list(form, "file"))
                forms.append(_make(SourceForm, form, "file", files=files))
            parts.append(_make(SourcePart, part, "form", forms=tuple(forms)))
        listed = _read_list(values, "ready") if "ready" in values else []
        return Catalog(tuple(parts), tuple(map(_make_ready, listed)))
    except (OSError, ValueError, TypeError) as error:
        problem = f"{path} is not a list of public files: {error}"
        raise WeightsError(problem, _INSTALL_AGAIN) from error


def _make_ready(values: Mapping[str, Any]) -> ReadyVariant:
    origins = _make_origins(values) if values.get("origins") else ()
    ready = _make(ReadyVariant, values, "origins", origins=origins)
    if origins and not _SHA256.fullmatch(ready.sha256):
        raise ValueError(f"the ready variant {ready.name} has a malformed hash: {ready.sha256!r}")
    return ready


def _make_origins(values: Mapping[str, Any]) -> tuple[FileOrigin, ...]:
    origins = []
    for each in _read_list(values, "origins"):
        origin = _make(FileOrigin, each)
        if bool(origin.repository) == bool(origin.url):
            raise ValueError(f"an origin needs a repository or a URL: {each!r}")
        if origin.url and not is_url(origin.url):
            raise ValueError(f"an origin's URL is neither http nor https: {origin.url!r}")
        origins.append(origin)
    return tuple(origins)


def _make_file(values: Mapping[str, Any]) -> PublicFile:
    file = _make(PublicFile, values, "origins", origins=_make_origins(values))
    path = PurePosixPath(file.path)
    if path.is_absolute() or ".." in path.parts or str(path) != file.path or "\\" in file.path:
        raise ValueError(f"{file.path!r} is not a plain path")
    if file.sha256 and not _SHA256.fullmatch(file.sha256):
        raise ValueError(f"{file.path} has a malformed hash: {file.sha256!r}")
    return file


def _make(kind: Callable[..., T], values: Mapping[str, Any], listed: str = "", **made: object) -> T:
    """Makes a dataclass of a table; what was made of the list below it comes as `made`."""
    given = {key: value for key, value in values.items() if key != listed}
    unknown = sorted(set(given) - {field.name for field in fields(kind)})  # type: ignore[arg-type]
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}")
    return kind(**given, **made)


def _read_list(values: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    listed = values.get(key)
    if not isinstance(listed, list) or not listed or not all(isinstance(v, dict) for v in listed):
        raise ValueError(f"{key!r} is not a list of tables")
    return listed
