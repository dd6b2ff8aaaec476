"""The list of public files becomes a folder of sources that `tinyv quantize` takes.

What is there and right is left alone; the rest is fetched, or taken from a folder of files that the
user has.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tinyv_cli.disk.paths import expand
from tinyv_cli.progress import Progress
from weights.pulling.catalog import Catalog, FileOrigin, SourceForm, SourcePart, extend_url, is_url
from weights.pulling.failures import NotFetchedError, RetryPolicy, to_weights_error
from weights.pulling.fetch import Fetcher
from weights.pulling.folder import SourcesFolder, hold_place
from weights.pulling.local import LocalTaker, check_together
from weights.pulling.plan import PartPlan, check_room, list_form_files, plan_pull

HUB = "hub"


@dataclass(frozen=True)
class PullOptions:
    """Options of a pull of sources.

    Attributes:
        folder: where the files go.
        stage: of the checkpoint.
        origin: `hub`, the URL of a folder, or a folder; None for the list's own origins.
        offline: whether the network may not be used.
        retry_policy: how often each place is tried.
    """

    folder: Path
    stage: int = 4
    origin: str | None = None
    offline: bool = False
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)


def pull_sources(
    options: PullOptions, catalog: Catalog, progress: Progress, notify: Callable[[str], None]
) -> list[PartPlan]:
    """Brings a folder of sources to completeness.

    Args:
        options: what is asked for.
        catalog: the public files.
        progress: is told how far each file is.
        notify: takes a line worth knowing.

    Returns:
        The plan of what lies there in the end.

    Raises:
        WeightsError: something could not be had, what was fetched is kept; or files of the user's
            do not belong together.
        DeviceError: the disk is too small, or refuses a file.
    """
    folder, origin = SourcesFolder(options.folder), options.origin
    with hold_place(options.folder, options.folder, notify):
        plans = plan_pull(catalog, options.stage, folder, progress)
        missing = [plan.part for plan in plans if not plan.is_there]
        if origin is not None and origin != HUB and not is_url(origin):
            # From there and nowhere else, so that nobody downloads gigabytes by surprise.
            taker = LocalTaker(folder, catalog, options.stage, progress, notify)
            taker.take(expand(origin), missing)
        else:
            check_room(plans, options.folder)
            fetcher = Fetcher(folder, progress, notify, options.retry_policy, options.offline)
            for part in missing:
                _fetch_part(part, fetcher, origin)
        if missing:
            check_together(folder, catalog, options.stage, notify)
        return plan_pull(catalog, options.stage, folder, progress)


def _fetch_part(part: SourcePart, fetcher: Fetcher, wanted: str | None) -> None:
    """Fetches the first form that can be had, an index first and then the shards that it names.

    Args:
        part: of the list.
        fetcher: into the folder of sources.
        wanted: `hub`, the URL of a folder that holds the files under their paths, or None.

    Raises:
        WeightsError: none can.
    """
    missed = []
    for form in part.forms:
        files = []
        for file in form.files:
            origins = file.origins
            if wanted == HUB:
                origins = tuple(origin for origin in origins if origin.repository)
            elif wanted is not None:
                origins = (FileOrigin(url=extend_url(wanted, file.path)),)
            files.append(replace(file, origins=origins))
        limited = SourceForm(tuple(files))
        try:
            for file in limited.files:
                fetcher.fetch(file)
            for file in list_form_files(limited, fetcher.folder):
                fetcher.fetch(file)
        except NotFetchedError as error:
            missed.append(error)
            if form is not part.forms[-1]:
                fetcher.notify(f"{error.path} cannot be had; trying another form of {part.name}")
            continue
        for other in part.forms:
            for file in other.files if other is not form else ():
                fetcher.folder.remove_parts(file)
        return
    raise to_weights_error(missed)
