"""The whole program as a process of its own, with a runtime that says the first argument's text."""

import sys

from tests.light.devices.toy_cuda import NO_DRIVER
from tests.light.toy_variant import make_open_backend, make_script
from tinyv_cli.app import main
from tinyv_cli.backends import opening as backends
from tinyv_cli.devices import driver

if __name__ == "__main__":
    text, *words = sys.argv[1:]
    script = [RuntimeError("a bug")] if text == "BUG" else make_script(text)
    backends.open_backend = make_open_backend(script)
    driver.read_driver = lambda: NO_DRIVER
    driver.has_gpu = lambda: False
    sys.exit(main(words))
