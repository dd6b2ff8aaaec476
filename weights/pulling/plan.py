"""A list of parts and a folder become what is there and what is still to be fetched."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tinyv_cli.console import to_size
from tinyv_cli.errors import DeviceError, WeightsError
from tinyv_cli.progress import Progress
from weights.pulling.catalog import Catalog, FileOrigin, PublicFile, SourceForm, SourcePart
from weights.pulling.folder import SourcesFolder, State, measure_free
from weights.reading.sources import PHI_FOLDER, find_phi_weights, is_weight_file, read_weight_map


@dataclass(frozen=True)
class FilePlan:
    """A file and how it lies in the folder.

    Attributes:
        file: as it should be; of the user's own form of Phi-2 only the path is known.
        state: how it is now.
        begun_bytes: of it that were fetched before.
    """

    file: PublicFile
    state: State
    begun_bytes: int = 0

    @property
    def is_there(self) -> bool:
        """Whether it need not be fetched."""
        return self.state in (State.RIGHT, State.UNKNOWN)


@dataclass(frozen=True)
class PartPlan:
    """A part with the files of the form that is there, or else of the first one.

    Attributes:
        part: of the list.
        files: of that form; shards of an index that is not there yet are not among them.
        shards_bytes: what those take, about.
    """

    part: SourcePart
    files: tuple[FilePlan, ...]
    shards_bytes: int = 0

    @property
    def is_there(self) -> bool:
        """Whether nothing of it is to be fetched."""
        return not self.shards_bytes and all(each.is_there for each in self.files)

    @property
    def missing_bytes(self) -> int:
        """What is still to be fetched, about."""
        rest = (max(e.file.planned_bytes - e.begun_bytes, 0) for e in self.files if not e.is_there)
        return sum(rest) + self.shards_bytes


def plan_pull(
    catalog: Catalog, stage: int, folder: SourcesFolder, progress: Progress, *, anew: bool = False
) -> list[PartPlan]:
    """Looks at what of a stage's files is there; hashes those that changed since the last time.

    Args:
        catalog: all public files.
        stage: 1 to 4.
        folder: where they should lie.
        progress: is told of the bytes hashed.
        anew: hashes all of them.

    Raises:
        WeightsError: the folder cannot be read, or there is no such stage.
    """
    parts = catalog.list_parts(stage)
    if not any(part.stage == stage for part in parts):
        raise WeightsError(f"there is no stage {stage}", "use `--stage 1`, 2, 3 or 4")
    return [_plan_part(part, folder, progress, anew) for part in parts]


def list_form_files(form: SourceForm, folder: SourcesFolder) -> Iterator[PublicFile]:
    """A form's files, with the shards that an index in the folder names.

    Raises:
        WeightsError: an index is none, or names a file elsewhere.
    """
    for file in form.files:
        yield file
        path = folder.find(file)
        if file.is_index and path.is_file():
            for name in sorted(set(read_weight_map(path).values())):
                yield _make_shard(file, name)


def check_room(plans: Sequence[PartPlan], folder: Path) -> None:
    """Compares what is to be fetched with what the disk has free.

    Raises:
        DeviceError: it has too little.
    """
    needed = sum(plan.missing_bytes for plan in plans)
    free = measure_free(folder)
    if needed > free:
        raise DeviceError(
            f"the disk has {to_size(free)} free for {folder}, the files need {to_size(needed)}",
            "free some space, or name a folder on another disk with `--to DIR`",
        )


def _plan_part(part: SourcePart, folder: SourcesFolder, progress: Progress, anew: bool) -> PartPlan:
    """The first form that is all there, a form of the user's own, or else the first."""
    plans = []
    for form in part.forms:
        plan = _plan_form(part, form, folder, progress, anew)
        if plan.is_there:
            return plan
        plans.append(plan)
    return _find_own_form(part, folder, progress, anew) or plans[0]


def _plan_form(
    part: SourcePart, form: SourceForm, folder: SourcesFolder, progress: Progress, anew: bool
) -> PartPlan:
    try:
        files = list(list_form_files(form, folder))
    except WeightsError:  # a damaged index: to be fetched again
        files = list(form.files)
    planned = tuple(_plan_file(file, folder, progress, anew) for file in files)
    has_shards = any(file.is_index for file in form.files)
    names_shards = len(files) > len(form.files)
    return PartPlan(part, planned, form.shards_bytes if has_shards and not names_shards else 0)


def _plan_file(file: PublicFile, folder: SourcesFolder, progress: Progress, anew: bool) -> FilePlan:
    begun = sum(path.stat().st_size for path in folder.list_parts(file))
    return FilePlan(file, folder.check(file, progress, anew=anew), begun)


def _find_own_form(
    part: SourcePart, folder: SourcesFolder, progress: Progress, anew: bool
) -> PartPlan | None:
    """Phi-2's weights in a form that the list does not have, as someone put them there."""
    listed = {file.path for form in part.forms for file in form.files}
    if not any(_is_phi_weight(path) for path in listed):
        return None
    paths = find_phi_weights(folder.path)
    names = [f"{PHI_FOLDER}/{path.name}" for path in paths]
    if not names or listed & set(names):
        return None
    files = [PublicFile(name, ()) for name in names]
    plan = PartPlan(part, tuple(_plan_file(file, folder, progress, anew) for file in files))
    return plan if plan.is_there else None


def _is_phi_weight(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return folder == PHI_FOLDER and is_weight_file(name)


def _make_shard(index: PublicFile, name: str) -> PublicFile:
    """A shard beside its index, to be had where that can be."""
    folder = index.path.rpartition("/")[0]
    origins = tuple(_move_origin(origin, index, name) for origin in index.origins)
    return PublicFile(f"{folder}/{name}" if folder else name, origins)


def _move_origin(origin: FileOrigin, index: PublicFile, name: str) -> FileOrigin:
    if origin.url:
        return replace(origin, url=f"{origin.url.rpartition('/')[0]}/{name}")
    there = index.name_at(origin).rpartition("/")[0]
    return replace(origin, name=f"{there}/{name}" if there else "")
