"""An address becomes the files there, or the content of one: folders, buckets, shares.

`s3://` and `gs://` are opened by pyarrow, `az://`, `hf://` and others by what fsspec
finds installed. Opens no picture.
"""

import fnmatch
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from pyarrow import fs

from tinyv_cli.addresses import is_address, to_shown
from tinyv_cli.disk.whole_file import write_whole
from tinyv_cli.errors import DeviceError, InputError, describe_os_error

_CONNECT_TIMEOUT_S, _REQUEST_TIMEOUT_S = 10, 60  # pyarrow's own 1 s and 3 s give up on slow objects
_GS_RETRIES_S = 30
_COPIED_BYTES = 8 << 20
_PATTERN = re.compile(r"[*?\[]")
_REFUSED = re.compile(r"(ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|Forbidden)")
_AROUND_REASON = re.compile(
    r"^google::cloud::status\(\w+: (retry policy exhausted, with a last message of )?"
    r"|error_info=.*",
    re.IGNORECASE,
)
_WAYS_OUT = {
    "s3": "check name and rights: `aws s3 ls BUCKET`; keys come from AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL",
    "gs": "check name and rights: `gcloud storage ls gs://BUCKET`; keys come from "
    "GOOGLE_APPLICATION_CREDENTIALS; what is open to all has `anonymous` before its `@`",
    "az": "check name and rights; keys come from AZURE_STORAGE_CONNECTION_STRING, or "
    "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "hf": "check its name, as `hf://datasets/OWNER/NAME/FOLDER`; a token comes from HF_TOKEN",
}


class Place:
    """An address whose file system is open.

    Args:
        address: a path, or a URL that pyarrow or fsspec opens.

    Attributes:
        path: of the place, as its file system names it.

    Raises:
        InputError: there is no such file system, or it cannot be reached.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.path = _to_path(address)
        host = options = ""  # which decide over the file system
        if is_remote(address):
            scheme, _, rest = address.partition("://")
            mark, options = _split_options(rest)
            host = f"{scheme}://{rest.removesuffix(mark + options).partition('/')[0]}"
        with self.reached():
            self.files = _open_files(host, options)

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Makes planned errors of what a store's library raises inside; each has kinds of its own.

        Raises:
            InputError: the place cannot be used.
        """
        try:
            yield
        except Exception as error:
            raise self._explain(error) from error

    def list_files(self, *, recurses: bool) -> list[str]:
        """Lists the addresses of the files in a folder, sorted; a pattern's are those that fit.

        Hidden files are left out. A bucket is listed in pages.

        Raises:
            InputError: it cannot be listed.
        """
        mark = _PATTERN.search(self.path)
        folder = self.path[: mark.start()].rpartition("/")[0] if mark else self.path
        with self.reached():
            if not mark and self.files.get_file_info(self.path).is_file:
                return [self.address]
            goes_down = recurses or "/" in self.path[len(folder) + 1 :] if mark else recurses
            found = self.files.get_file_info(fs.FileSelector(folder, recursive=goes_down))
        names = sorted(each.path for each in found if each.is_file)
        if mark:
            names = [name for name in names if fnmatch.fnmatchcase(name, self.path)]
        shown = [each for each in names if "/." not in each[len(folder) :]]
        return [self.address_of(each) for each in shown]

    def list_names(self) -> list[str]:
        """Lists the names of the files right in a folder, sorted; none where it is missing.

        Raises:
            InputError: it cannot be listed.
        """
        with self.reached():
            found = self.files.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return sorted(each.base_name for each in found if each.is_file)

    def at(self, name: str) -> "Place":
        """Returns the place of this name in a folder."""
        return Place(self.address_of(f"{self.path}/{name}"))

    def remove(self) -> None:
        """Removes a file.

        Raises:
            InputError: it cannot be removed.
        """
        with self.reached():
            self.files.delete_file(self.path)

    def read(self) -> bytes:
        """Reads a file whole.

        Raises:
            InputError: it cannot be read.
        """
        with self.reached(), self.files.open_input_stream(self.path) as stream:
            content: bytes = stream.read()
        return content

    def copy_to(self, target: Path) -> None:
        """Copies a file of any size.

        Raises:
            InputError: it cannot be read.
            OSError: the target cannot be written.
        """
        with target.open("wb") as file:
            for piece in self._read_pieces():
                file.write(piece)

    def _read_pieces(self) -> Iterator[bytes]:
        """Reads a file a piece after the other."""
        with self.reached(), self.files.open_input_stream(self.path) as source:
            while piece := source.read(_COPIED_BYTES):
                yield piece

    def write(self, name: str, content: bytes) -> None:
        """Writes a file below this folder, whole or not at all.

        Raises:
            DeviceError: it cannot be written.
        """
        target = f"{self.path}/{name}"
        try:
            # An object of a store is there when it is whole.
            if not isinstance(self.files, fs.LocalFileSystem):
                with self.files.open_output_stream(target) as stream:
                    stream.write(content)
                return
            Path(self.path).mkdir(parents=True, exist_ok=True)
            write_whole(Path(target), content)
        except Exception as error:
            raise DeviceError(
                f"{to_shown(self.address)}/{name} cannot be written: {_describe(error)}",
                "make room or allow it; the same command then goes on from there",
            ) from error

    def address_of(self, path: str) -> str:
        """Returns the address of another path of the same file system."""
        if not is_remote(self.address):
            return path
        scheme, _, rest = self.address.partition("://")
        user, at, _ = rest.partition("/")[0].rpartition("@")
        return f"{scheme}://{user}{at}{path}{''.join(_split_options(rest))}"

    def _explain(self, error: Exception) -> InputError:
        """Makes the error of a place that cannot be used."""
        shown, scheme = to_shown(self.address), self.address.partition("://")[0]
        if isinstance(error, ImportError):
            missing = error.__cause__ if isinstance(error.__cause__, ImportError) else error
            package = missing.name or "fsspec"  # which tells of others by what it caught
            return InputError(
                f"{shown} needs {package}, which is not installed",
                f"install it: `pip install {package}`",
            )
        way_out = _WAYS_OUT.get(scheme, "check its name, and that it may be read from here")
        return InputError(f"{shown} cannot be read: {_describe(error)}", way_out)


def is_remote(word: str) -> bool:
    """Returns whether a word is the URL of a store, rather than a path or a web address."""
    scheme = word.partition("://")[0].lower() if "://" in word else ""
    return is_address(word) and scheme not in ("", "http", "https", "data")


def to_identity(address: str) -> str:
    """Returns the name that a stored file's line has: its URL without names, keys and options."""
    return f"{address.partition('://')[0]}://{_to_path(address)}" if is_remote(address) else address


def _split_options(rest: str) -> tuple[str, str]:
    """Returns the options at a URL's end, with their mark; a `?` without `=` is a pattern's."""
    _, mark, options = rest.rpartition("?")
    return (mark, options) if "=" in options else ("", "")


def _to_path(address: str) -> str:
    """Returns the path of an address within its file system, without a slash at its end."""
    if not is_remote(address):
        return str(Path(address).absolute())
    rest = address.partition("://")[2]
    host, slash, below = rest.removesuffix("".join(_split_options(rest))).partition("/")
    return f"{host.rpartition('@')[2]}{slash}{below}".rstrip("/")


@lru_cache(maxsize=16)
def _open_files(host: str, options: str) -> fs.FileSystem:
    """Opens the file system of a host; of the same one once in a process."""
    if not host:
        return fs.LocalFileSystem()
    parts = urlsplit(host)
    if parts.scheme == "s3":
        values = {key: each[-1] for key, each in parse_qs(options).items()}
        elsewhere = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if elsewhere:  # as other programs read it; pyarrow does not
            scheme, _, endpoint = elsewhere.partition("://")
            values = {"scheme": scheme, "endpoint_override": endpoint} | values
        names = {"region", "scheme", "endpoint_override"} & values.keys()
        return fs.S3FileSystem(
            access_key=unquote(parts.username) if parts.username else None,
            secret_key=unquote(parts.password) if parts.password else None,
            anonymous=values.get("anonymous") == "true",
            connect_timeout=_CONNECT_TIMEOUT_S,
            request_timeout=_REQUEST_TIMEOUT_S,
            **{name: values[name] for name in names},
        )
    if parts.scheme == "gs":
        if "retry_limit_seconds=" not in options:  # else 15 minutes, where nobody answers
            options += f"{'&' * bool(options)}retry_limit_seconds={_GS_RETRIES_S}"
        return fs.FileSystem.from_uri(f"{host}/?{options}")[0]
    import fsspec

    return fs.PyFileSystem(fs.FSSpecHandler(fsspec.core.url_to_fs(f"{host}/")[0]))


def _describe(error: Exception) -> str:
    """Returns a failure's reason in one short line."""
    refused = _REFUSED.search(str(error))
    if refused:
        return f"it is refused ({refused[1]})"
    if isinstance(error, FileNotFoundError) and error.errno is None:  # its text is the path alone
        return "there is no such file or folder"
    reason = describe_os_error(error) if isinstance(error, OSError) else str(error)
    reason = _AROUND_REASON.sub("", reason)
    return reason.splitlines()[0][:200] if reason else type(error).__name__
