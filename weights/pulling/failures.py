"""Why a file could not be had from one place; the reasons of all places become one error."""

from collections.abc import Sequence
from enum import Enum, auto

from tinyv_cli.errors import WeightsError


class Cause(Enum):
    """What went wrong, for those who decide what to try next."""

    UNREACHABLE = auto()  # no connection at all
    DENIED = auto()  # 401 or 403
    MISSING = auto()  # 404, or no such revision
    BUSY = auto()  # 429 or 5xx, after all tries
    CUT = auto()  # the transfer broke off, after all tries; what came is kept
    WRONG = auto()  # it came whole and is another file
    OFFLINE = auto()  # the network may not be used


_HINTS = {
    Cause.UNREACHABLE: (
        "check the connection, and HTTPS_PROXY or HF_ENDPOINT if you need them; or take files "
        "that you have: `tinyv pull --from DIR`"
    ),
    Cause.DENIED: (
        "make a token at https://huggingface.co/settings/tokens, accept the repository's terms "
        "there, and set it: `export HF_TOKEN=hf_…`"
    ),
    Cause.MISSING: "take a copy that you have, `tinyv pull --from DIR`, or a mirror, `--from URL`",
    Cause.BUSY: "run the same command again in a few minutes; what was fetched is kept",
    Cause.CUT: "run the same command again: it goes on where it stopped",
    Cause.WRONG: "take a copy from elsewhere: `tinyv pull --from DIR`, or `--from URL` of a mirror",
    Cause.OFFLINE: (
        "leave `--offline` away and unset HF_HUB_OFFLINE, or take files that you have: "
        "`tinyv pull --from DIR`"
    ),
}


_GRAVEST_FIRST = (
    Cause.OFFLINE,
    Cause.DENIED,
    Cause.CUT,
    Cause.BUSY,
    Cause.WRONG,
    Cause.UNREACHABLE,
    Cause.MISSING,
)


class FetchError(Exception):
    """A file could not be had from one place.

    Attributes:
        cause: what went wrong.
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


def to_weights_error(missed: Sequence[NotFetchedError]) -> WeightsError:
    """Joins what happened at each place into one problem; the hint is for the gravest.

    Args:
        missed: the files that were tried one instead of the other; at least one.
    """
    failures = [failure for each in missed for failure in each.failures]
    reasons = dict.fromkeys(f"{place} {error.reason}" for place, error in failures)
    causes = {error.cause for _, error in failures}
    first = next((cause for cause in _GRAVEST_FIRST if cause in causes), Cause.UNREACHABLE)
    paths = " or ".join(dict.fromkeys(each.path for each in missed))
    return WeightsError(f"{paths} could not be fetched: {'; '.join(reasons)}", _HINTS[first])
