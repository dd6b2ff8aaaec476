"""Programs ask over HTTP: checks what is cheap to find wrong, takes the port, and serves."""

import os
from pathlib import Path

from tinyv_cli.console import Console
from tinyv_cli.errors import InputError, UsageError, describe_os_error
from tinyv_cli.options.serve import ServeArguments
from tinyv_cli.options.shared import to_backend_options

_KEY_VARIABLE = "TINYV_API_KEY"


def serve_questions(arguments: ServeArguments) -> None:
    """Runs `tinyv serve`.

    Raises:
        UsageError: a value does not exist, others could ask without a key, or the extra is missing.
        InputError: the file of keys cannot be used.
        WeightsError: there is no variant, or it is damaged.
        DeviceError: the port cannot be taken, or the device cannot run the variant.
        KeyboardInterrupt: Ctrl-C.
    """
    try:
        from tinyv_cli.serving.guard import Gate, check_public
        from tinyv_cli.serving.server import bind, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "h11", "anyio"):
            raise
        raise UsageError(
            f"{error.name}, which `tinyv serve` needs, is not installed",
            "install it: `pip install 'tinyv[serve]'`",
        ) from error
    from tinyv_cli.serving.answering import House
    from tinyv_cli.serving.catalog import Catalog
    from tinyv_cli.serving.dialects.ollama import read_keep_alive
    from tinyv_cli.serving.metrics import Metrics
    from tinyv_cli.serving.preparing import Preparer
    from tinyv_cli.serving.shelf import Shelf
    from tinyv_cli.serving.web import make_app
    from tinyv_cli.serving.worker import Worker

    console = Console(quiet=arguments.quiet)
    keep_alive_s = read_keep_alive(arguments.keep_alive)
    keys = read_keys(arguments.api_key_file)
    origins = tuple(each.rstrip("/") for each in arguments.allow_origin or ())
    if "*" in origins:
        raise UsageError(
            "--allow-origin * would let every page ask", "name them: `--allow-origin https://…`"
        )
    if not check_public(arguments.host, keys, is_open=arguments.no_auth):
        raise UsageError(
            f"on {arguments.host} other computers could ask without a key",
            "ask for one: `--api-key-file FILE`, or say `--no-auth`",
        )
    catalog = Catalog(arguments.model, arguments.context_length)
    metrics = Metrics()
    shelf = Shelf(to_backend_options(arguments), arguments.parallel, console.write_note)
    worker = Worker(shelf, arguments.queue, keep_alive_s, metrics, console.write_report)
    preparer = Preparer(catalog, fetches=arguments.fetch_images, max_images=arguments.max_images)
    house = House(catalog, preparer, worker, metrics, console.write_report)
    gate = Gate(keys, tuple(arguments.allow_host or ()), origins)
    with bind(arguments.host, arguments.port) as bound:
        port = bound.getsockname()[1]
        shown = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        console.write_note(f"answering on http://{shown}:{port}")
        serve(house, make_app(house, gate), bound, arguments.grace)


def read_keys(name: str | None) -> tuple[str, ...]:
    """Reads the keys of a file, one a line, and of the variable.

    Raises:
        InputError: the file cannot be read, or holds none.
    """
    keys = [os.environ.get(_KEY_VARIABLE, "").strip()]
    if name is not None:
        try:
            lines = Path(name).read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            reason = describe_os_error(error) if isinstance(error, OSError) else "it is not text"
            raise InputError(
                f"the keys in {name} cannot be read: {reason}", "write one a line into it"
            ) from error
        found = [each.strip() for each in lines if each.strip()]
        if not found:
            raise InputError(
                f"there is no key in {name}", f"make one: `openssl rand -hex 16 > {name}`"
            )
        keys += found
    return tuple(each for each in keys if each)
