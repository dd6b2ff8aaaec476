"""Answers go into text files beside their pictures; other texts there stay."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from tinyv_cli.addresses import is_data_url
from tinyv_cli.batch.finding import identify
from tinyv_cli.disk.paths import exists, fit_name
from tinyv_cli.disk.reading import is_pipe
from tinyv_cli.disk.whole_file import write_whole
from tinyv_cli.errors import DeviceError, UsageError, describe_os_error


def resolve_sidecar(picture: Path) -> Path:
    """Returns the text of a picture: `pets/cat.png` → `pets/cat.txt`, a long name cut to fit."""
    return picture.with_name(fit_name(picture.stem, ".txt"))


def check_sidecars(
    pictures: Mapping[Path, str], answers: Mapping[Path, str | None], *, replaces: bool
) -> None:
    """Checks that every picture can have a text of its own, before anything is computed.

    Args:
        pictures: all of the batch, with the words that open them.
        answers: what was answered before, by `finding.identify`.
        replaces: whether texts that are there may go.

    Raises:
        UsageError: two pictures would share a text, one is there that this batch did not write, or
            a picture is no file.
        DeviceError: a folder cannot be written.
    """
    for picture, word in pictures.items():
        if is_data_url(word) or is_pipe(picture):
            problem = f"{picture} is no file that a .txt could lie beside"
            raise UsageError(problem, "leave `--sidecar` out, or write the picture to a file")
    owners = {identify(each): each for each in pictures}
    taken = dict(owners)
    for name, picture in owners.items():
        target = resolve_sidecar(picture)
        other = taken.setdefault(identify(target), picture)
        if other is not picture or target == picture:
            raise UsageError(
                f"the answers about {other} and {picture} would both go to {target}",
                "rename one, or leave `--sidecar` out",
            )
        if exists(target) and name not in answers and not replaces:
            raise UsageError(
                f"{target} is there already", "move it away, or replace such files: `--fresh`"
            )
        if not os.access(target.parent, os.W_OK) and exists(target.parent):
            raise DeviceError(
                f"{target.parent} may not be written",
                f"allow it: `chmod u+w {target.parent}`, or leave `--sidecar` out",
            )


def restore_sidecars(pictures: Iterable[Path], answers: Mapping[Path, str | None]) -> None:
    """Writes the texts that a killed run did not get to, or that were not wanted before.

    A text follows its line, so that a kill between them is mended here.
    """
    for picture in pictures:
        answer = answers.get(identify(picture))
        if answer is not None and not exists(resolve_sidecar(picture)):
            write_sidecar(picture, answer)


def write_sidecar(picture: Path, answer: str) -> None:
    """Writes an answer and a newline; a kill leaves the whole text or none.

    Raises:
        DeviceError: it cannot be written.
    """
    target = resolve_sidecar(picture)
    try:
        # Not durable, which costs milliseconds a picture: what a power cut takes can be had of the
        # lines again.
        write_whole(target, f"{answer}\n", is_durable=False)
    except OSError as error:
        raise DeviceError(
            f"{target} cannot be written: {describe_os_error(error)}",
            "make room or allow it; the same command then goes on from there",
        ) from error
