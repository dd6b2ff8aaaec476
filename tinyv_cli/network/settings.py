"""The environment's proxies and settings of the hub become checked ones; connects to nothing.

The libraries that read them raise what each happens to raise, some of it while they are imported.
"""

import os
from importlib.util import find_spec
from urllib.parse import urlsplit

from tinyv_cli.addresses import to_shown
from tinyv_cli.errors import UsageError

_SCHEMES = ("http", "https", "socks5", "socks5h")
_SOCKS_LIBRARY = "socksio"


def check_hub_settings() -> None:
    """Checks the variables that huggingface_hub turns into numbers and addresses at its import.

    Raises:
        UsageError: one cannot be used.
    """
    for name, value in os.environ.items():
        try:
            if name.startswith("HF_") and name.endswith("_TIMEOUT"):
                problem, example = f"{name}={value} is not a whole number of seconds", "30"
                int(value)
            elif name == "HF_ENDPOINT":
                problem, example = f"{name}={to_shown(value)} is not a URL", "https://host"
                _check_address(value, ("http", "https"))
        except ValueError as error:
            hint = f"unset it, `unset {name}`, or set it: `export {name}={example}`"
            raise UsageError(problem, hint) from error


def check_proxies() -> None:
    """Checks the proxies of the environment, or of the system where it keeps some.

    Raises:
        UsageError: one is of a kind that cannot be used, has no host or an impossible port, or
            needs a library that is not installed.
    """
    from urllib.request import getproxies  # as httpx reads them

    proxies = getproxies()
    for kind in ("http", "https", "all"):
        value = proxies.get(kind)
        if not value:
            continue
        names = [each for each in os.environ if each.lower() == f"{kind}_proxy"]
        # Of both spellings the small one counts.
        name = max(names, default="the system's proxy")
        address = value if "://" in value else f"http://{value}"
        try:
            _check_address(address, _SCHEMES)
        except ValueError as error:
            is_socks = address.lower().startswith("socks")
            example = f"{'socks5' if is_socks else 'http'}://HOST:PORT"
            raise UsageError(
                f"{name}={to_shown(address)} cannot be used as a proxy: {error}",
                f"unset it, `unset {name}`, or set it: `export {name}={example}`",
            ) from error
        if address.lower().startswith("socks") and find_spec(_SOCKS_LIBRARY) is None:
            raise UsageError(
                f"{name}={to_shown(address)} is a SOCKS proxy, and {_SOCKS_LIBRARY}, which speaks "
                "with such, is not installed",
                f"install it, `pip install {_SOCKS_LIBRARY}`, or unset the proxy: `unset {name}`",
            )


def _check_address(address: str, schemes: tuple[str, ...]) -> None:
    """Raises ValueError for an address of another scheme, without a host or with a wrong port."""
    parts = urlsplit(address)
    if parts.scheme not in schemes:
        raise ValueError(f"it begins with none of {', '.join(f'{each}://' for each in schemes)}")
    if not parts.hostname or any(char.isspace() for char in address):
        raise ValueError("it has no host")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("its port is no number from 1 to 65535")
