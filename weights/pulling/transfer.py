"""A URL becomes a file on disk that grows, breaks off, and grows on; its content is not checked.

Whatever moment the process is killed at, the file holds the first bytes of what was sent, and the
next try asks for the rest. A server that has no ranges sends all of it again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tinyv_cli.disk.writing import writing
from tinyv_cli.progress import Bar
from weights.pulling.failures import Cause, FetchError, RetryPolicy, call_with_retries
from weights.pulling.hub import check_status, open_url

_GO_ON = "make room or allow it, and run the same command again: it goes on where it stopped"
_MOST_OF_UNKNOWN = 1 << 30  # bytes of an answer of unknown length
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


@dataclass(frozen=True)
class DownloadRequest:
    """A file to fetch.

    Attributes:
        url: http or https.
        headers: sent with each try.
        size_bytes: exact; None where it is unknown.
        most_bytes: more are not taken, where the size is not known; None for as many as the
            answer announces.
    """

    url: str
    headers: Mapping[str, str]
    size_bytes: int | None
    most_bytes: int | None = None


def download(request: DownloadRequest, target: Path, bar: Bar, policy: RetryPolicy) -> None:
    """Fetches what is missing of a file, with as many tries as it takes and the policy allows.

    Args:
        request: what to fetch.
        target: grows; what it holds already are the first bytes.
        bar: advances by bytes, those that were there included.
        policy: when to give up.

    Raises:
        FetchError: it could not be fetched whole; what came stays in `target`.
        DeviceError: the file cannot be written.
    """
    bar.advance(_measure(target))
    with writing(target, _GO_ON):
        call_with_retries(
            lambda: _download_once(request, target, bar, policy), policy, lambda: _measure(target)
        )


def _download_once(request: DownloadRequest, target: Path, bar: Bar, policy: RetryPolicy) -> None:
    """Fetches the rest of a file, or all of it where the server has no ranges."""
    have, size_bytes = _measure(target), request.size_bytes
    if have == size_bytes:
        return
    if size_bytes is not None and have > size_bytes:
        bar.advance(-have)
        target.unlink()
        raise FetchError(Cause.CUT, "has less than what was fetched before")
    headers = {**request.headers, **({"Range": f"bytes={have}-"} if have else {})}
    with open_url(request.url, headers, policy) as response:
        if _is_whole(response.status_code, response.headers, size_bytes, have):
            return
        if have and response.status_code == 200:  # without ranges it starts again
            bar.advance(-have)
            target.unlink()
            have = 0
        most_bytes = request.most_bytes if size_bytes is None else size_bytes
        if most_bytes is None:
            announced = response.headers.get("content-length", "")
            most_bytes = have + int(announced) if announced.isdecimal() else _MOST_OF_UNKNOWN
        with target.open("ab", buffering=0) as file:
            # Pieces are written as they arrive: of a size of one's own they would be collected
            # first and lost when the connection breaks. With 1 MiB, a cut at 65,536 bytes was
            # resumed at 0.
            for chunk in response.iter_raw():
                have += len(chunk)
                if have > most_bytes:
                    raise FetchError(Cause.WRONG, f"sends more than {most_bytes} bytes")
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) :]
                bar.advance(len(chunk))
    if size_bytes is not None and have < size_bytes:
        raise FetchError(Cause.CUT, f"ends after {have} of {size_bytes} bytes")


def _is_whole(status: int, headers: Mapping[str, str], size_bytes: int | None, have: int) -> bool:
    """Checks that an answer brings what was asked for.

    Args:
        status: of HTTP.
        headers: of the answer.
        size_bytes: of the file; None where it is unknown.
        have: bytes that are here already; the rest was asked for.

    Returns:
        Whether there is nothing more to fetch.

    Raises:
        FetchError: it brings something else, or nothing.
    """
    found = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    total = int(found[2]) if found and found[2] != "*" else None
    if status == 416:
        if total == have and size_bytes is None:
            return True
        raise FetchError(Cause.CUT, f"ends after {have if total is None else total} bytes")
    check_status(status, headers)
    if status not in (200, 206):
        raise FetchError(Cause.MISSING, f"answers HTTP {status}")
    if status == 206 and (found is None or found[1] is None or int(found[1]) != have):
        raise FetchError(Cause.CUT, "sends another range than was asked for")
    if status == 200:
        length = headers.get("content-length", "")
        total = int(length) if length.isascii() and length.isdigit() else None
    if None not in (total, size_bytes) and total != size_bytes:
        raise FetchError(Cause.WRONG, f"has a file of {total} bytes, not {size_bytes}")
    return False


def _measure(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
