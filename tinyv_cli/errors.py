"""A planned failure becomes a problem, a way out and an exit code; shows nothing itself."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of the process; public, never renumbered."""

    OK = 0
    BUG = 1
    USAGE = 2
    INPUT = 3
    WEIGHTS = 4
    DEVICE = 5
    BATCH = 6
    INTERRUPTED = 130


class TinyvError(Exception):
    """A planned failure: one problem and one way out.

    Attributes:
        problem: one sentence in lower case with the offending value, no full stop.
        hint: an imperative, with a command that can be pasted where there is one.
        exit_code: what the process returns when this reaches `app.main`.
    """

    exit_code = ExitCode.BUG

    def __init__(self, problem: str, hint: str) -> None:
        """Keeps both texts; `str()` of the error is the problem alone."""
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


class UsageError(TinyvError):
    """The command line asks for something that does not exist or does not go together."""

    exit_code = ExitCode.USAGE


class InputError(TinyvError):
    """The picture or the question cannot be used."""

    exit_code = ExitCode.INPUT


class WeightsError(TinyvError):
    """Sources or a variant are missing, damaged or not what they should be."""

    exit_code = ExitCode.WEIGHTS


class DeviceError(TinyvError):
    """The device, its memory or its disk cannot do what was asked."""

    exit_code = ExitCode.DEVICE


def describe_os_error(error: OSError) -> str:
    """Returns the system's reason in lower case, as messages quote it."""
    return (error.strerror or str(error)).lower()
