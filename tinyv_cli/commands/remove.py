"""Variants and sources go from this computer, after a question on the terminal."""

import os
import shutil
import sys
from pathlib import Path

from tinyv_cli.console import Console, to_size
from tinyv_cli.disk.places import sources_dir, variants_dir
from tinyv_cli.errors import UsageError, WeightsError
from tinyv_cli.options.pull import RemoveArguments
from tinyv_cli.variants import miniature
from tinyv_cli.variants.home import is_bare_name, list_variants

_LIST = "`tinyv list` shows the variants there are"


def remove_files(arguments: RemoveArguments) -> None:
    """Does what `tinyv rm` says.

    Raises:
        UsageError: nothing was named, or nobody can be asked and `--yes` is not there.
        WeightsError: there is no such variant, it is the miniature, or a file cannot be removed.
    """
    names = list(dict.fromkeys(arguments.names or ()))
    if not names and not arguments.sources:
        raise UsageError("nothing was named to be removed", f"name a variant; {_LIST}")
    console = Console(quiet=arguments.quiet)
    folders = [_resolve(name) for name in names]
    files = _list_sources(console) if arguments.sources else []
    if not folders and not files:
        return
    for line in _describe(folders, files):
        Console().write_report(line)
    if not arguments.yes and not _is_wanted():
        console.write_note("nothing was removed")
        return
    for folder in folders:
        _remove_variant(folder)
        console.write_line(str(folder))
    if files:
        _remove_sources(files, console)
        console.write_line(str(sources_dir()))


def _resolve(name: str) -> Path:
    """The folder of one of the user's own variants.

    Raises:
        WeightsError: there is none of this name.
    """
    folder = variants_dir() / name
    if is_bare_name(name) and not name.startswith(".") and (folder.is_dir() or folder.is_symlink()):
        return folder
    if name == miniature.NAME and miniature.find_variant() is not None:
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


def _list_sources(console: Console) -> list[Path]:
    from weights.pulling.catalog import read_catalog
    from weights.pulling.folder import list_removable

    files = list_removable(sources_dir(), read_catalog())
    if not files:
        console.write_note(f"there are no sources in {sources_dir()}")
    return files


def _describe(folders: list[Path], files: list[Path]) -> list[str]:
    """A line for each thing that would go."""
    damaged = {each.name for each in list_variants() if not hasattr(each, "manifest")}
    lines = []
    for folder in folders:
        size_bytes = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
        state = ", damaged" if folder.name in damaged else ""
        lines.append(f"variant {folder.name} ({to_size(size_bytes)}{state}): {folder}")
    if files:
        size_bytes = sum(path.lstat().st_size for path in files)
        lines.append(f"sources ({len(files)} files, {to_size(size_bytes)}): {sources_dir()}")
    return lines


def _is_wanted() -> bool:
    """Asks on stderr, and reads the answer of a terminal.

    Raises:
        UsageError: stdin is no terminal.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("nobody can be asked: stdin is no terminal", "say so with `--yes`")
    sys.stderr.write("remove? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _remove_variant(folder: Path) -> None:
    """Removes a folder; of a link, the link alone. A half removed one is no variant to anyone."""
    try:
        if folder.is_symlink():
            folder.unlink()
            return
        gone = folder.with_name(f".{folder.name}.removed-{os.getpid()}")
        folder.rename(gone)
        shutil.rmtree(gone)
    except OSError as error:
        raise _to_remove_error(folder, error) from error


def _remove_sources(files: list[Path], console: Console) -> None:
    """Removes public files, and the folders if nothing else is in them."""
    for path in files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _to_remove_error(path, error) from error
    for folder in (sources_dir() / "phi-2", sources_dir()):
        if not folder.is_dir():
            continue
        left = sorted(path.name for path in folder.iterdir())
        if left:
            console.write_note(f"{folder} stays, it holds other files: {', '.join(left[:5])}")
        else:
            folder.rmdir()


def _to_remove_error(path: Path, error: OSError) -> WeightsError:
    reason = (error.strerror or str(error)).lower()
    return WeightsError(
        f"{path} cannot be removed: {reason}", "check the permissions of its folder"
    )
