"""Variants and sources are removed from this computer, after a question on the terminal."""

import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyv_cli.console import Console, is_terminal, to_size
from tinyv_cli.disk.places import sources_dir, variants_dir
from tinyv_cli.errors import UsageError, WeightsError, describe_os_error
from tinyv_cli.options.pull import RemoveArguments
from tinyv_cli.variants import miniature
from tinyv_cli.variants.home import DamagedVariant, is_bare_name, list_variants

_LIST = "`tinyv list` shows the variants there are"


def remove_files(arguments: RemoveArguments) -> None:
    """Runs `tinyv rm`.

    Raises:
        UsageError: nothing was named, or stdin is no terminal and `--yes` is missing.
        WeightsError: there is no such variant, it is the miniature, or a file cannot be removed.
    """
    from weights.pulling.catalog import read_catalog
    from weights.pulling.folder import list_removable

    names = list(dict.fromkeys(arguments.names or ()))
    if not names and not arguments.sources:
        raise UsageError("nothing was named to be removed", f"name a variant; {_LIST}")
    console = Console(quiet=arguments.quiet)
    folders = [_resolve(name) for name in names]
    files = list_removable(sources_dir(), read_catalog()) if arguments.sources else []
    if arguments.sources and not files:
        console.write_note(f"there are no sources in {sources_dir()}")
    if not folders and not files:
        return
    damaged = {each.name for each in list_variants() if isinstance(each, DamagedVariant)}
    asking = Console()  # what would go is shown with `--quiet` too
    for folder in folders:
        size = to_size(sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()))
        state = ", damaged" if folder.name in damaged else ""
        asking.write_report(f"variant {folder.name} ({size}{state}): {folder}")
    if files:
        size = to_size(sum(path.lstat().st_size for path in files))
        asking.write_report(f"sources ({len(files)} files, {size}): {sources_dir()}")
    if not arguments.yes:
        if not is_terminal(sys.stdin):
            raise UsageError("cannot ask first: stdin is no terminal", "confirm with `--yes`")
        sys.stderr.write("remove? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            console.write_note("nothing was removed")
            return
    for folder in folders:
        with _explain_errors(folder):
            if folder.is_symlink():
                folder.unlink()
            else:
                # Renamed first, so that a folder that is half removed is no variant to anyone.
                gone = folder.with_name(f".tinyv-removed-{secrets.token_hex(8)}")
                folder.rename(gone)
                shutil.rmtree(gone)
        console.write_line(str(folder))
    if files:
        _remove_sources(files, console)
        console.write_line(str(sources_dir()))


def _resolve(name: str) -> Path:
    """Returns the folder of one of the user's own variants.

    Raises:
        WeightsError: there is none of this name.
    """
    folder = variants_dir() / name
    if is_bare_name(name) and not name.startswith(".") and (folder.is_dir() or folder.is_symlink()):
        return folder
    if name == miniature.NAME and miniature.find_ready_variant() is not None:
        raise WeightsError(
            "the miniature comes with tinyv and cannot be removed alone",
            "remove tinyv itself: `pip uninstall tinyv`",
        )
    if is_bare_name(name):
        raise WeightsError(f"there is no variant '{name}' in {variants_dir()}", _LIST)
    raise WeightsError(
        f"{name} is a path; only variants in {variants_dir()} are removed",
        f"remove the folder yourself, or give a name; {_LIST}",
    )


def _remove_sources(files: list[Path], console: Console) -> None:
    """Removes public files, and the folders if nothing else is in them."""
    for path in files:
        with _explain_errors(path):
            path.unlink(missing_ok=True)
    for folder in (sources_dir() / "phi-2", sources_dir()):
        if not folder.is_dir():
            continue
        left = sorted(path.name for path in folder.iterdir())
        if left:
            console.write_note(f"{folder} stays, it holds other files: {', '.join(left[:5])}")
        else:
            folder.rmdir()


@contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    """Raises a WeightsError where the system refuses to remove something."""
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be removed: {describe_os_error(error)}",
            "check the permissions of its folder",
        ) from error
