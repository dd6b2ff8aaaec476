"""A planned failure becomes a problem, a way out and an exit code; shows nothing itself."""

import errno
from enum import IntEnum

MEMORY_HINT = (
    "close other programs; where `ulimit -v` prints a number, raise it: `ulimit -v unlimited`"
)
# What torch, onnxruntime, the linker and threads say where Python would raise a MemoryError.
_OUT_OF_MEMORY = (
    "bad_alloc",
    "can't allocate memory",
    "can't start new thread",
    "cannot allocate memory",
    "failed to allocate memory",
    "failed to map segment",
)


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


class PartlyFailedError(TinyvError):
    """Many things were asked to their end, but some of them have no answer."""

    exit_code = ExitCode.BATCH


def describe_os_error(error: OSError) -> str:
    """Returns the system's reason in lower case, as messages quote it."""
    return (error.strerror or str(error)).lower()


def check_memory(error: BaseException | None, subject: str = "") -> None:
    """Checks that it was not for want of memory, or of address space, that something failed.

    Args:
        error: as Python or a library raised it; None is none.
        subject: that memory was wanted for, such as a file's name.

    Raises:
        DeviceError: it was.
    """
    if isinstance(error, OSError) and error.errno is not None:
        is_short = error.errno == errno.ENOMEM
    else:
        said = str(error).lower()
        is_short = isinstance(error, MemoryError) or any(each in said for each in _OUT_OF_MEMORY)
    if is_short:
        reason = str(error).strip().partition("\n")[0][:200] or "no more can be had"
        raise DeviceError(
            f"memory does not suffice{f' for {subject}' if subject else ''}: {reason}", MEMORY_HINT
        ) from error
