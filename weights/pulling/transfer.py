"""A URL becomes a file on disk that grows, breaks off, and grows on; knows no hash and no hub.

Whatever moment the process is killed at, the file holds the first bytes of what was sent, and the
next try asks for the rest. A server that has no ranges sends all of it again.
"""

import errno
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

from tinyv_cli.errors import DeviceError
from tinyv_cli.progress import Bar
from weights.pulling.failures import Cause, FetchError
from weights.pulling.hub import Response, Timeouts, check_status, open_url

T = TypeVar("T")

_DISK_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_WORTH_ANOTHER_TRY = (Cause.CUT, Cause.BUSY, Cause.UNREACHABLE)


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long one place is tried.

    Attributes:
        tries: in a row that bring nothing new.
        most_tries: in all, however much each brings.
        tries_to_connect: in a row without any connection.
        first_wait_s: before the second try; it doubles each time.
        longest_wait_s: between two tries; a server that asks for more is given up.
        timeouts: of each step.
        sleep: waits.
    """

    tries: int = 5
    most_tries: int = 200
    tries_to_connect: int = 2
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    timeouts: Timeouts = field(default_factory=Timeouts)
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class DownloadRequest:
    """What to fetch.

    Attributes:
        url: http or https.
        headers: sent with each try.
        size_bytes: exact; None where nobody knows it.
        most_bytes: more are not taken, where the size is not known.
    """

    url: str
    headers: Mapping[str, str]
    size_bytes: int | None
    most_bytes: int


def call_with_retries(call: Callable[[], T], retry_policy: RetryPolicy) -> T:
    """Calls until it works, waits in between, and gives up where waiting would not help.

    Raises:
        FetchError: of the last try.
    """
    for n_tried in range(1, retry_policy.tries + 1):
        try:
            return call()
        except FetchError as error:
            _wait_or_give_up(error, n_tried, retry_policy)
    raise AssertionError("the last try returns or raises")


def download(request: DownloadRequest, target: Path, bar: Bar, retry_policy: RetryPolicy) -> None:
    """Fetches what is missing of a file, with as many tries as it takes and retry_policy allows.

    Args:
        request: what to fetch.
        target: grows; what it holds already are the first bytes.
        bar: advances by bytes, those that were there included.
        retry_policy: when to give up.

    Raises:
        FetchError: it could not be fetched whole; what came stays in `target`.
        DeviceError: the disk is full.
    """
    furthest, n_fruitless = _measure(target), 0
    bar.advance(furthest)
    for _ in range(retry_policy.most_tries):
        try:
            _download_once(request, target, bar, retry_policy.timeouts)
            return
        except FetchError as error:
            here = _measure(target)
            n_fruitless = 1 if here > furthest else n_fruitless + 1
            furthest = max(furthest, here)
            _wait_or_give_up(error, n_fruitless, retry_policy)
    raise FetchError(Cause.CUT, f"broke off {retry_policy.most_tries} times")


def _wait_or_give_up(error: FetchError, n_tried: int, retry_policy: RetryPolicy) -> None:
    """Waits before the next try, or raises the error where there is none."""
    limit = (
        retry_policy.tries_to_connect if error.cause is Cause.UNREACHABLE else retry_policy.tries
    )
    if error.cause not in _WORTH_ANOTHER_TRY or n_tried >= limit:
        raise error
    wait_s = retry_policy.first_wait_s * 2 ** (n_tried - 1)
    if error.wait_s is not None:
        wait_s = error.wait_s
        if wait_s > retry_policy.longest_wait_s:
            reason = f"{error.reason} and asks to wait {wait_s:.0f} s"
            raise FetchError(error.cause, reason, wait_s) from error
    retry_policy.sleep(min(wait_s, retry_policy.longest_wait_s))


def _download_once(request: DownloadRequest, target: Path, bar: Bar, timeouts: Timeouts) -> None:
    """One try: the rest of a file, or all of it where the server has no ranges."""
    have = _measure(target)
    if request.size_bytes is not None and have >= request.size_bytes:
        if have > request.size_bytes:
            _cut(target, bar)
            raise FetchError(Cause.CUT, "has less than what was fetched before")
        return
    headers = {**request.headers, **({"Range": f"bytes={have}-"} if have else {})}
    with open_url(request.url, headers, timeouts) as response:
        if _check_answer(response, request, have):
            return
        if have and response.status != 206:
            _cut(target, bar)
        with target.open("ab", buffering=0) as file:
            _write_body(response, request, file, bar)
    _check_size(request, _measure(target))


def _check_answer(response: Response, request: DownloadRequest, have: int) -> bool:
    """Looks whether an answer brings what was asked for.

    Returns:
        Whether there is nothing more to fetch.

    Raises:
        FetchError: it brings something else, or nothing.
    """
    status = response.status
    found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    total = int(found[2]) if found and found[2] != "*" else None
    if status == 416:
        if total == have and request.size_bytes is None:
            return True
        raise FetchError(Cause.CUT, f"ends after {have if total is None else total} bytes")
    check_status(status, response.headers)
    if status not in (200, 206):
        raise FetchError(Cause.MISSING, f"answers HTTP {status}")
    if status == 206 and (found is None or found[1] is None or int(found[1]) != have):
        raise FetchError(Cause.CUT, "sends another range than was asked for")
    if status == 200:
        length = response.headers.get("content-length", "")
        total = int(length) if length.isascii() and length.isdigit() else None
    if None not in (total, request.size_bytes) and total != request.size_bytes:
        reason = f"has a file of {total} bytes, not {request.size_bytes}"
        raise FetchError(Cause.WRONG, reason)
    return False


def _write_body(response: Response, request: DownloadRequest, file: BinaryIO, bar: Bar) -> None:
    """Appends the body as it comes; stops where more comes than there should be."""
    most = request.most_bytes if request.size_bytes is None else request.size_bytes
    here = file.seek(0, 2)
    for chunk in response.read_chunks():
        here += len(chunk)
        if here > most:
            raise FetchError(Cause.WRONG, f"sends more than {most} bytes")
        _write(file, chunk)
        bar.advance(len(chunk))


def _write(file: BinaryIO, chunk: bytes) -> None:
    view = memoryview(chunk)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise DeviceError(
            f"the disk has no room left for {file.name}",
            "free some space and run the same command again: it goes on where it stopped",
        ) from error


def _check_size(request: DownloadRequest, size_bytes: int) -> None:
    if request.size_bytes is not None and size_bytes < request.size_bytes:
        reason = f"ends after {size_bytes} of {request.size_bytes} bytes"
        raise FetchError(Cause.CUT, reason)


def _measure(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cut(path: Path, bar: Bar) -> None:
    """Takes back what was fetched, on the disk and on the bar."""
    bar.advance(-_measure(path))
    path.unlink(missing_ok=True)
