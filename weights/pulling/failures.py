"""A failed fetch is tried again where that can help, or becomes an error with a way out."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeVar

from tinyv_cli.errors import WeightsError

T = TypeVar("T")


class Cause(Enum):
    """The kind of a failure, for those who decide what to try next."""

    UNREACHABLE = auto()  # no connection at all
    DENIED = auto()  # 401 or 403
    MISSING = auto()  # 404, or no such revision
    BUSY = auto()  # 429 or 5xx, after all tries
    CUT = auto()  # the transfer broke off, after all tries; what came is kept
    WRONG = auto()  # it came whole and is another file
    OFFLINE = auto()  # the network may not be used


# The gravest first: of several places' failures, the hint is for that one.
_HINTS = {
    Cause.OFFLINE: (
        "leave `--offline` away and unset HF_HUB_OFFLINE, or take files that you have: "
        "`tinyv pull --from DIR`"
    ),
    Cause.DENIED: (
        "make a token at https://huggingface.co/settings/tokens, accept the repository's terms "
        "there, and set it: `export HF_TOKEN=hf_…`"
    ),
    Cause.CUT: "run the same command again: it goes on where it stopped",
    Cause.BUSY: "run the same command again in a few minutes; what was fetched is kept",
    Cause.WRONG: "take a copy from elsewhere: `tinyv pull --from DIR`, or `--from URL` of a mirror",
    Cause.UNREACHABLE: (
        "check the connection, and HTTPS_PROXY or HF_ENDPOINT if you need them; or take files "
        "that you have: `tinyv pull --from DIR`"
    ),
    Cause.MISSING: "take a copy that you have, `tinyv pull --from DIR`, or a mirror, `--from URL`",
}
_WORTH_ANOTHER_TRY = (Cause.CUT, Cause.BUSY, Cause.UNREACHABLE)


class FetchError(Exception):
    """A file could not be had from one place.

    Attributes:
        cause: the kind of the failure.
        reason: told after the place's name, as in `susnato/phi-2 has no such file`.
        wait_s: how long the server asks to be left alone, in seconds; None where it does not.
    """

    def __init__(self, cause: Cause, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.cause = cause
        self.reason = reason
        self.wait_s = wait_s


class NotFetchedError(Exception):
    """A file could not be had from any place.

    Attributes:
        path: the file.
        failures: the places' names and what happened there.
    """

    def __init__(self, path: str, failures: Sequence[tuple[str, FetchError]]) -> None:
        super().__init__(path)
        self.path = path
        self.failures = tuple(failures)


@dataclass(frozen=True)
class RetryPolicy:
    """Numbers that say how often and how long one place is tried.

    Attributes:
        tries: in a row that bring nothing new.
        most_tries: in all, however much each brings.
        tries_to_connect: in a row without any connection.
        first_wait_s: before the second try; it doubles each time.
        longest_wait_s: between two tries; a server that asks for more is given up.
        connect_s: how long connecting may take.
        read_s: how long nothing may come once connected.
        sleep: waits.
    """

    tries: int = 5
    most_tries: int = 200
    tries_to_connect: int = 2
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    connect_s: float = 5.0
    read_s: float = 15.0
    sleep: Callable[[float], None] = time.sleep


def call_with_retries(
    call: Callable[[], T], policy: RetryPolicy, measure: Callable[[], int] = lambda: 0
) -> T:
    """Calls until it works, waits in between, and gives up where waiting would not help.

    Args:
        call: one try.
        policy: when to give up.
        measure: returns how far the tries have come; one that came further is not fruitless.

    Raises:
        FetchError: of the last try.
    """
    furthest, n_fruitless = measure(), 0
    for _ in range(policy.most_tries):
        try:
            return call()
        except FetchError as error:
            here = measure()
            n_fruitless = 1 if here > furthest else n_fruitless + 1
            furthest = max(furthest, here)
            is_away = error.cause is Cause.UNREACHABLE
            limit = policy.tries_to_connect if is_away else policy.tries
            if error.cause not in _WORTH_ANOTHER_TRY or n_fruitless >= limit:
                raise
            wait_s = min(policy.first_wait_s * 2 ** (n_fruitless - 1), policy.longest_wait_s)
            if error.wait_s is not None:
                wait_s = error.wait_s
                if wait_s > policy.longest_wait_s:
                    reason = f"{error.reason} and asks to wait {wait_s:.0f} s"
                    raise FetchError(error.cause, reason, wait_s) from error
            policy.sleep(wait_s)
    raise FetchError(Cause.CUT, f"broke off {policy.most_tries} times")


def to_weights_error(missed: Sequence[NotFetchedError]) -> WeightsError:
    """Joins what happened at each place into one problem; the hint is for the gravest.

    Args:
        missed: the files that were tried one instead of the other; at least one.
    """
    failures = [failure for each in missed for failure in each.failures]
    reasons = dict.fromkeys(f"{place} {error.reason}" for place, error in failures)
    causes = {error.cause for _, error in failures} or {Cause.UNREACHABLE}
    hint = next(hint for cause, hint in _HINTS.items() if cause in causes)
    paths = " or ".join(dict.fromkeys(each.path for each in missed))
    return WeightsError(f"{paths} could not be fetched: {'; '.join(reasons)}", hint)
