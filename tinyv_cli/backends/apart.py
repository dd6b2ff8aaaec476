"""A function and its arguments run in a process of their own, which gives all its memory back."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from tinyv_cli.errors import DeviceError


def run_apart(function: Callable[..., None], *arguments: object) -> None:
    """Runs a function in a new process, and waits.

    Args:
        function: of a module, so that the other process can import it.
        arguments: can be pickled.

    Raises:
        DeviceError: the process was killed; mostly for want of memory.
        Exception: whatever the function raises.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise DeviceError(
                "a process that packs weights was killed, mostly for want of memory",
                "close other programs and try again; `--dry-run` tells how much is needed",
            ) from error
