"""A variant goes into a folder that others can fetch it from, as it is and checked."""

import re
import shlex
from pathlib import Path

from tinyv_cli.addresses import is_address, to_shown
from tinyv_cli.console import Console, to_size
from tinyv_cli.disk.paths import expand
from tinyv_cli.errors import TinyvError, UsageError
from tinyv_cli.options.pull import PushArguments
from tinyv_cli.variants.home import resolve_variant
from tinyv_cli.variants.manifest import MANIFEST_NAME

# What copies a folder to where a URL of this scheme leads.
_COPIERS = {
    "s3": "aws s3 sync FOLDER {url}",
    "gs": "gcloud storage rsync --recursive FOLDER {url}",
    "az": "az storage blob upload-batch --source FOLDER --destination {url}",
    "hf": "hf upload OWNER/NAME FOLDER",
}
_OPTION = re.compile(r" with `--to(?: DIR)?`")  # of pull's hints, where here a word stands


def push_variant(arguments: PushArguments) -> None:
    """Runs `tinyv push`.

    Raises:
        UsageError: the target is no folder, or what stands there is not a variant.
        WeightsError: there is no such variant, it is damaged, or another one stands there.
        DeviceError: the disk is too small, or refuses a file.
    """
    from tinyv_cli.variants.hashes import hash_file
    from weights.pulling.variant_pull import VariantPullOptions, pull_variant

    console = Console(quiet=arguments.quiet)
    if is_address(arguments.target):
        scheme = arguments.target.partition("://")[0].lower()
        url = to_shown(arguments.target)
        copier = _COPIERS.get(scheme, f"rsync -a FOLDER/ HOST:WHERE-{scheme}-SERVES-FROM/")
        raise UsageError(
            f"{url} is no folder, and tinyv sends nothing anywhere",
            f"push into a folder, then copy that: `tinyv push {shlex.quote(arguments.name)} FOLDER "
            f"&& {copier.format(url=shlex.quote(url))}`",
        )
    variant = resolve_variant(arguments.name)
    target = expand(arguments.target).absolute()
    options = VariantPullOptions(str(variant.folder), target, arguments.force)
    try:
        pushed = pull_variant(options, console.progress, console.write_note)
    except TinyvError as error:
        hint = error.hint.replace("`--to` with another name", "name another folder")
        raise type(error)(error.problem, _OPTION.sub("", hint)) from error
    sha256 = hash_file(pushed.folder / MANIFEST_NAME)
    console.write_report(describe_push(pushed.folder, pushed.manifest.size_bytes, sha256))
    console.write_line(str(pushed.folder))


def describe_push(folder: Path, size_bytes: int, sha256: str) -> str:
    """Says how others fetch what was pushed.

    Args:
        folder: that holds the variant and nothing else.
        size_bytes: of its files.
        sha256: of its manifest.
    """
    quoted, name = shlex.quote(str(folder)), folder.name
    size = to_size(size_bytes)
    return f"""{size}, with its hashes in {MANIFEST_NAME}, whose own SHA-256 is {sha256}

from this disk or a stick         tinyv pull {quoted}
from this computer, for a moment  python3 -m http.server --directory {quoted} 8000
  and elsewhere                   tinyv pull http://THIS-COMPUTER:8000 --to {name}
from a bucket                     aws s3 sync {quoted} s3://BUCKET/{name}
  and elsewhere                   tinyv pull https://BUCKET.s3.amazonaws.com/{name}
from the hub                      hf upload OWNER/{name} {quoted}
  and elsewhere                   tinyv pull OWNER/{name}"""
