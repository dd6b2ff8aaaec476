"""`tinyv` and `python -m tinyv_cli` run one command line and end the process."""

import os
import sys
from contextlib import suppress
from typing import NoReturn

from tinyv_cli.errors import ExitCode


def run() -> NoReturn:
    """Runs the command line of the process, and ends it at once with the exit code.

    What the interpreter would do on its way out is left to the system. After `tinyv quantize` it
    walks the objects of torch and what is around it several times (190,000; with twice as many it
    took 1.1 s), in which Ctrl-C kills a process whose work is done.

    Source: mypy/util.py, `hard_exit`.
    """
    try:
        from tinyv_cli.app import main

        code = main()
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError):  # a closed descriptor leaves no stream at all
                stream.flush()
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    os._exit(code)


if __name__ == "__main__":
    run()
