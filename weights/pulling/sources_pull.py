"""The list of public files becomes a folder of sources that `tinyv quantize` takes.

What is there and right is left alone; the rest is fetched, or taken from a folder of files that the
user has. Shows nothing itself.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from tinyv_cli.errors import WeightsError
from tinyv_cli.progress import Progress
from tinyv_cli.variants.hashes import hash_file
from weights.pulling.catalog import Catalog, FileOrigin, PublicFile, SourceForm, SourcePart
from weights.pulling.failures import NotFetchedError, to_weights_error
from weights.pulling.fetch import Fetcher
from weights.pulling.folder import SourcesFolder, State, take_link
from weights.pulling.local import LocalFiles, find_shards
from weights.pulling.lock import hold_lock
from weights.pulling.plan import PartPlan, check_room, list_form_files, plan_pull
from weights.pulling.transfer import RetryPolicy

HUB = "hub"


@dataclass(frozen=True)
class PullOptions:
    """What the user asked for.

    Attributes:
        folder: where the files go.
        stage: of the checkpoint.
        origin: `hub`, the URL of a folder, or a folder; None for the list's own origins.
        offline: whether the network may not be used.
        retry_policy: with each place.
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
        What lies there in the end.

    Raises:
        WeightsError: something could not be had; what was fetched is kept.
        DeviceError: the disk is too small.
        UsageError: telling files by their tensors needs a package that is not installed.
    """
    folder = SourcesFolder(options.folder)
    with hold_lock(options.folder, notify):
        plans = plan_pull(catalog, options.stage, folder, progress)
        if options.origin is not None and is_folder(options.origin):
            _take_local(Path(options.origin).expanduser(), plans, folder, options, progress, notify)
        else:
            check_room(plans, options.folder)
            fetcher = Fetcher(folder, progress, notify, options.retry_policy, options.offline)
            for plan in plans:
                if not plan.is_there:
                    _fetch_part(plan.part, fetcher, options.origin)
        return plan_pull(catalog, options.stage, folder, progress)


def is_folder(origin: str) -> bool:
    """Whether `--from` names a folder, not the hub and not a URL."""
    return origin != HUB and not is_url(origin)


def is_url(text: str) -> bool:
    """Whether something is an address of the web."""
    return text.startswith(("https://", "http://"))


def to_origins(file: PublicFile, wanted: str | None) -> PublicFile:
    """A file with the origins that `--from` leaves it.

    Args:
        file: of the list.
        wanted: `hub`, the URL of a folder that holds the files under their paths, or None.
    """
    if wanted is None:
        return file
    if wanted == HUB:
        return replace(file, origins=tuple(o for o in file.origins if o.repository))
    return replace(file, origins=(FileOrigin(url=f"{wanted.rstrip('/')}/{quote(file.path)}"),))


def _fetch_part(part: SourcePart, fetcher: Fetcher, wanted: str | None) -> None:
    """Fetches the first form that can be had.

    Raises:
        WeightsError: none can.
    """
    missed = []
    for form in part.forms:
        try:
            _fetch_form(form, fetcher, wanted)
        except NotFetchedError as error:
            missed.append(error)
            if form is not part.forms[-1]:
                fetcher.notify(f"{error.path} cannot be had; trying another form of {part.name}")
            continue
        for other in part.forms:
            if other is not form:
                _remove_begun(other, fetcher.folder)
        return
    raise to_weights_error(missed)


def _fetch_form(form: SourceForm, fetcher: Fetcher, wanted: str | None) -> None:
    """Fetches a form's files, an index first and then the shards that it names."""
    limited = SourceForm(tuple(to_origins(file, wanted) for file in form.files))
    for file in limited.files:
        fetcher.fetch(file)
    for file in list_form_files(limited, fetcher.folder):
        fetcher.fetch(file)


def _remove_begun(form: SourceForm, folder: SourcesFolder) -> None:
    """Removes beginnings of files that are not needed any more."""
    for file in form.files:
        for part in folder.list_parts(file):
            part.unlink(missing_ok=True)


def _take_local(
    origin: Path,
    plans: Sequence[PartPlan],
    folder: SourcesFolder,
    options: PullOptions,
    progress: Progress,
    notify: Callable[[str], None],
) -> None:
    """Takes what is missing from a folder of the user's.

    Raises:
        WeightsError: it is no folder, or something is not in it.
    """
    if not origin.is_dir():
        raise WeightsError(
            f"{origin} is not a folder", "give `--from` a folder, a URL of one, or `hub`"
        )
    here = LocalFiles(origin, progress)
    missing = [plan.part for plan in plans if not plan.is_there]
    known: list[Path] = []
    for part in list(missing):
        found = next(filter(None, (_find_form(form, here) for form in part.forms)), None)
        if found is not None:
            known += [path for _, path in found]
            for file, path in found:
                _take(file, path, folder, progress, notify)
            missing.remove(part)
    others = here.list_weights(known)
    if missing and others:
        missing = _take_by_tensors(missing, others, folder, options.stage, progress, notify)
    if missing:
        names = ", ".join(part.forms[0].files[0].path for part in missing)
        raise WeightsError(
            f"{origin} does not hold {names}",
            f"fetch the rest: `tinyv pull --stage {options.stage} --to {folder.path}`",
        )


def _find_form(form: SourceForm, here: LocalFiles) -> list[tuple[PublicFile, Path]] | None:
    """Where all files of a form are, shards included; None where one is missing."""
    found: list[tuple[PublicFile, Path]] = []
    for file in form.files:
        path = here.find(file)
        shards = find_shards(path) if path is not None and file.is_index else ()
        if path is None or (file.is_index and not shards):
            return None
        found.append((file, path))
        home = file.path.rpartition("/")[0]
        found += [(PublicFile(f"{home}/{shard.name}", ()), shard) for shard in shards]
    return found


def _take_by_tensors(
    parts: Sequence[SourcePart],
    paths: Sequence[Path],
    folder: SourcesFolder,
    stage: int,
    progress: Progress,
    notify: Callable[[str], None],
) -> list[SourcePart]:
    """Takes files that were saved again; where torch is missing, says what would be needed.

    Returns:
        The parts that are still missing.
    """
    if find_spec("torch") is None or find_spec("safetensors") is None:
        notify(
            f"{len(paths)} files of weights have no known hash; to tell them by their tensors, "
            "`pip install 'tinyv[quantize]'`"
        )
        return list(parts)
    from weights.pulling.tensors import check_tensors, find_by_tensors

    found = find_by_tensors(paths, stage)
    taken: list[PublicFile] = []
    missing = []
    for part in parts:
        match = next((name for name in _list_names(part) if name in found), None)
        if match is None:
            missing.append(part)
            continue
        file = PublicFile(match, ())
        _take(file, found[match], folder, progress, notify, by_tensors=True)
        taken.append(file)
    if taken and not missing:
        _check_taken(taken, folder, stage, check_tensors, notify)
    return missing


def _check_taken(
    taken: Sequence[PublicFile],
    folder: SourcesFolder,
    stage: int,
    check: Callable[[Path, int], None],
    notify: Callable[[str], None],
) -> None:
    """Accounts for the tensors of all files; what was taken is put aside where that fails.

    Raises:
        WeightsError: it fails.
    """
    try:
        check(folder.path, stage)
    except WeightsError:
        for file in taken:
            aside = folder.set_aside(file, folder.find(file))
            notify(f"{file.path} is kept as {aside.name} and not used")
        raise


def _list_names(part: SourcePart) -> Iterator[str]:
    """Paths that a file saved again can take a part's place under."""
    for form in part.forms:
        for file in form.files:
            yield file.path
            if file.is_index:
                yield file.path.removesuffix(".index.json")


def _take(
    file: PublicFile,
    path: Path,
    folder: SourcesFolder,
    progress: Progress,
    notify: Callable[[str], None],
    *,
    by_tensors: bool = False,
) -> None:
    """Puts a file of the user's in its place, linked where the disk can; a wrong one makes room."""
    target = folder.find(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.resolve() != target.resolve():
        if folder.check(file, progress) is State.WRONG:
            aside = folder.set_aside(file, target)
            notify(f"{file.path} is not the file it is called after; kept as {aside.name}")
        part = folder.find_part(file, "taken")
        with progress(f"taking {path.name}", path.stat().st_size, "bytes") as bar:
            take_link(path, part, bar)
        sha256 = hash_file(part)
        if file.sha256 not in ("", sha256):
            raise WeightsError(f"{path} changed while it was copied", "run the same command again")
        folder.remember(file, part.stat().st_size, sha256, str(path))
        folder.put_in_place(file, part)
    how = "told by its tensors" if by_tensors else "recognised"
    notify(f"{file.path}: {path}, {how}")
