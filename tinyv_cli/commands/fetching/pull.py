"""The public weights, or a finished variant, are fetched into a folder of this computer."""

from pathlib import Path
from typing import TYPE_CHECKING

from tinyv_cli.addresses import to_shown
from tinyv_cli.console import Console, to_size, to_table
from tinyv_cli.disk.paths import expand
from tinyv_cli.disk.places import sources_dir, variants_dir
from tinyv_cli.errors import UsageError, WeightsError
from tinyv_cli.options.pull import PullArguments
from tinyv_cli.variants.home import resolve_folder

if TYPE_CHECKING:
    from weights.pulling.catalog import Catalog, ReadyVariant
    from weights.pulling.failures import RetryPolicy
    from weights.pulling.plan import PartPlan

HEADER = ("file", "size", "state", "from")


def pull_weights(
    arguments: PullArguments,
    catalog: "Catalog | None" = None,
    retry_policy: "RetryPolicy | None" = None,
) -> None:
    """Runs `tinyv pull`.

    Args:
        arguments: what was typed.
        catalog: the public files; None for those that tinyv knows.
        retry_policy: how often each place is tried; None for the usual one.

    Raises:
        UsageError: the options do not go together.
        WeightsError: something could not be had, or is not what it should be.
        DeviceError: the disk is too small.
    """
    from weights.pulling.catalog import check_url, is_url, read_catalog
    from weights.pulling.failures import RetryPolicy
    from weights.pulling.sources_pull import PullOptions, pull_sources

    if arguments.variant is None and arguments.ready is None and arguments.force:
        raise UsageError("--force goes with a variant", "leave it away: wrong files are replaced")
    for origin in (arguments.variant, arguments.from_):
        if origin is not None and is_url(origin):
            check_url(origin)
    console = Console(quiet=arguments.quiet)
    retry_policy = retry_policy or RetryPolicy()
    catalog = catalog or read_catalog()
    if arguments.variant is not None or arguments.ready is not None:
        _pull_variant(arguments, catalog, retry_policy, console)
        return
    folder = expand(arguments.to) if arguments.to else sources_dir()
    if ready := next((each.name for each in catalog.ready if each.origins), None):
        offer = f"`tinyv pull --ready {ready}` fetches what is ready to answer, and needs no torch"
        console.write_note(f"{offer}; these are the public weights, to quantise")
    if arguments.dry_run or arguments.verify:
        _show_state(arguments, folder, catalog, console)
        return
    options = PullOptions(folder, arguments.stage, arguments.from_, arguments.offline, retry_policy)
    plans = pull_sources(options, catalog, console.progress, console.write_note)
    for each in (each for plan in plans for each in plan.files):
        console.write_report(f"{each.file.path}: {each.state.value}")
    sources = f" --sources {folder}" if arguments.to else ""
    console.write_note(f"now make a variant: `tinyv quantize{sources} --bits 4`")
    console.write_line(str(folder))


def _show_state(
    arguments: PullArguments, folder: Path, catalog: "Catalog", console: Console
) -> None:
    """Shows which public files are there, and fetches none; with `--verify` each is hashed.

    Raises:
        WeightsError: with `--verify`, one is missing or wrong.
    """
    from weights.pulling.folder import SourcesFolder, State
    from weights.pulling.plan import plan_pull

    found = SourcesFolder(folder)
    plans = plan_pull(catalog, arguments.stage, found, console.progress, anew=arguments.verify)
    console.write_line(to_pull_table(plans))
    bad = [each for plan in plans for each in plan.files if not each.is_there]
    if arguments.verify and bad:
        states = {
            each.file.path: "wrong" if each.state is State.WRONG else "missing" for each in bad
        }
        names = ", ".join(f"{path} ({state})" for path, state in states.items())
        place = f" --to {arguments.to}" if arguments.to else ""
        again = f"`tinyv pull --stage {arguments.stage}{place}`"
        raise WeightsError(
            f"{folder} is not complete: {names}", f"fetch what is missing or wrong: {again}"
        )


def _pull_variant(
    arguments: PullArguments, catalog: "Catalog", retry_policy: "RetryPolicy", console: Console
) -> None:
    """Fetches a finished variant: a ready one by its name, else from a repository, URL or folder.

    Raises:
        UsageError: an option goes with the public weights only, or no ready variant is called so.
        WeightsError: it could not be had, or is not what it should be.
        DeviceError: the disk is too small.
    """
    from weights.pulling.variant_pull import VariantPullOptions, name_variant, pull_variant

    of_sources = {
        "--from": arguments.from_ is not None,
        "--verify": arguments.verify,
        "--dry-run": arguments.dry_run,
    }
    origins, sha256 = [arguments.variant or ""], ""
    asked = f"--ready {arguments.ready}" if arguments.ready else f"'{to_shown(origins[0])}'"
    for flag, is_given in of_sources.items():
        if is_given:
            raise UsageError(
                f"{flag} goes with the public weights, not with a variant",
                f"leave {flag} away, or {asked}",
            )
    if arguments.ready is not None:
        if arguments.variant is not None:
            problem = f"{asked} and '{to_shown(arguments.variant)}' both name a variant"
            raise UsageError(problem, "leave one of the two out")
        ready = find_ready(catalog, arguments.ready)
        origins, sha256 = [each.word for each in ready.origins], ready.sha256
    if arguments.to is None:
        target = variants_dir() / (arguments.ready or name_variant(origins[0]))
    else:
        target = resolve_folder(arguments.to)
    for origin in origins:
        options = VariantPullOptions(
            origin, target.absolute(), arguments.force, arguments.offline, retry_policy, sha256
        )
        try:
            variant = pull_variant(options, console.progress, console.write_note)
            break
        except WeightsError as error:
            if origin == origins[-1] or target.exists():
                raise
            console.write_note(f"{error.problem}; trying the next place")
    console.write_line(str(variant.folder))


def find_ready(catalog: "Catalog", name: str) -> "ReadyVariant":
    """Finds a ready variant that somebody hosts.

    Raises:
        UsageError: there is none of this name.
        WeightsError: nobody hosts it yet.
    """
    ready = next((each for each in catalog.ready if each.name == name), None)
    if ready is None:
        names = ", ".join(each.name for each in catalog.ready)
        raise UsageError(f"there is no ready variant '{name}'", f"choose one of {names}")
    if not ready.origins:
        raise WeightsError(
            f"nobody hosts the ready variant {name} yet",
            f"make it once, with 8 GB of downloads: `{ready.made_by}`; then `tinyv push VARIANT "
            "FOLDER` makes what a web server needs, and `tinyv pull URL` fetches it elsewhere",
        )
    return ready


def to_pull_table(plans: "list[PartPlan]") -> str:
    """Formats each file's size, state on disk and origin; then the sum that is to be fetched."""
    rows = []
    for plan in plans:
        for each in plan.files:
            file = each.file
            size = to_size(file.planned_bytes) if file.planned_bytes else "?"
            about = "~" if file.size_bytes is None and file.planned_bytes else ""
            state, origin = each.state.value, ""
            if not each.is_there:
                state += f", {to_size(each.begun_bytes)} begun" if each.begun_bytes else ""
                first = next(iter(file.origins), None)
                if first is not None:
                    origin = first.short_label + ("" if first.certain else " (not certain)")
            rows.append((file.path, about + size, state, origin))
        if plan.shards_bytes:
            rows.append(("  and its shards", f"~{to_size(plan.shards_bytes)}", "missing", ""))
    total = sum(plan.missing_bytes for plan in plans)
    return f"{to_table(HEADER, rows)}\n\nto fetch: about {to_size(total)}"
