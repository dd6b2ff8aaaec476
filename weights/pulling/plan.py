"""A list of parts and a folder become what is there and what is still to be fetched."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tinyv_cli.console import to_size
from tinyv_cli.errors import DeviceError, WeightsError
from tinyv_cli.progress import Progress
from weights.pulling.catalog import Catalog, PublicFile, SourceForm, SourcePart, extend_url
from weights.pulling.folder import SourcesFolder, State, measure_free
from weights.reading.sources import PHI_FOLDER, find_phi_weights, is_weight_file, read_weight_map

_FILE_OF_URL = re.compile(r"/[^/?]*(?=\?|$)")


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
        """Bytes that are still to be fetched, about."""
        rest = (max(e.file.planned_bytes - e.begun_bytes, 0) for e in self.files if not e.is_there)
        return sum(rest) + self.shards_bytes


def plan_pull(
    catalog: Catalog, stage: int, folder: SourcesFolder, progress: Progress, *, anew: bool = False
) -> list[PartPlan]:
    """Compares a stage's files with those that are there; hashes what changed since the last time.

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
    """Yields a form's files, and behind an index in the folder the shards that it names.

    Raises:
        WeightsError: an index is damaged, or names a file elsewhere.
    """
    for file in form.files:
        yield file
        path = folder.find(file)
        if not file.is_index or not path.is_file():
            continue
        home = file.path.rpartition("/")[0]
        for name in sorted(set(read_weight_map(path).values())):
            origins = []  # a shard lies beside its index everywhere
            for origin in file.origins:
                there = file.name_at(origin).rpartition("/")[0]
                origins.append(
                    replace(origin, url=extend_url(_FILE_OF_URL.sub("", origin.url, 1), name))
                    if origin.url
                    else replace(origin, name=f"{there}/{name}" if there else "")
                )
            yield PublicFile(f"{home}/{name}" if home else name, tuple(origins))


def check_room(plans: Sequence[PartPlan], folder: Path) -> None:
    """Compares what is to be fetched with what the disk has free.

    Raises:
        DeviceError: it has too little.
    """
    needed = sum(plan.missing_bytes for plan in plans)
    free = measure_free(folder)
    if needed > free:
        raise DeviceError(
            f"the disk has {to_size(free, 2)} free for {folder}, the files need "
            f"{to_size(needed, 2)}",
            "free some space, or name a folder on another disk with `--to DIR`",
        )


def _plan_part(part: SourcePart, folder: SourcesFolder, progress: Progress, anew: bool) -> PartPlan:
    """Plans the first form that is all there, a form of the user's own, or else the first."""

    def plan_file(file: PublicFile) -> FilePlan:
        begun_bytes = sum(path.stat().st_size for path in folder.list_parts(file))
        return FilePlan(file, folder.check(file, progress, anew=anew), begun_bytes)

    plans = []
    for form in part.forms:
        try:
            files = list(list_form_files(form, folder))
        except WeightsError:  # a damaged index: to be fetched again
            files = list(form.files)
        has_index = any(file.is_index for file in form.files)
        lacks_shards = has_index and len(files) == len(form.files)
        planned = tuple(plan_file(file) for file in files)
        plan = PartPlan(part, planned, form.shards_bytes if lacks_shards else 0)
        if plan.is_there:
            return plan
        plans.append(plan)
    # Phi-2's weights may be there in a form that the list does not have, put there by someone.
    listed = {file.path for form in part.forms for file in form.files}
    places = [path.rpartition("/") for path in listed]
    if any(home == PHI_FOLDER and is_weight_file(name) for home, _, name in places):
        own = [f"{PHI_FOLDER}/{path.name}" for path in find_phi_weights(folder.path)]
        if own and not listed & set(own):
            plan = PartPlan(part, tuple(plan_file(PublicFile(name, ())) for name in own))
            if plan.is_there:
                return plan
    return plans[0]
