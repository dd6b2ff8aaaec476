"""Models are opened when they are asked for and closed when they are not, within one memory budget.

One thread uses a shelf. Whoever looks on from another sees `list_loaded`, which is never half made.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from time import monotonic, time

import numpy as np

from tinyv_cli.answers.generate import ImageTokens
from tinyv_cli.answers.reply import Reply
from tinyv_cli.answers.scheduler import Scheduler
from tinyv_cli.backends.backend import BackendOptions
from tinyv_cli.devices.names import is_cuda
from tinyv_cli.engine import Demand, Engine, Notify, OpenEngine, plan_engine
from tinyv_cli.errors import DeviceError
from tinyv_cli.machine.memory import read_main_memory
from tinyv_cli.serving.catalog import Model
from tinyv_cli.serving.jobs import Job
from tinyv_cli.serving.preparing import Kept

_N_IMAGES = 64  # of a model, whose image tokens are kept: 21 MB at full size
_WAY_OUT = "close other programs, allow fewer at once (`--parallel 1`) or less context (`-c 512`)"


@dataclass(frozen=True)
class Loaded:
    """An open model, for whoever looks on.

    Attributes:
        model: that is open.
        needed_bytes: of memory, as estimated.
        device: where it runs.
        expires_s: when it will be closed, in seconds since 1970; infinite for never.
    """

    model: Model
    needed_bytes: int
    device: str
    expires_s: float


class OpenModel:
    """A model in memory, and the questions it is answering.

    Attributes:
        model: that is open.
        opened: the engine.
        scheduler: of its answers.
        running: questions that it is answering.
        load_s: what opening took.
    """

    def __init__(self, model: Model, engine: Engine) -> None:
        """Opens it.

        Raises:
            TinyvError: it cannot be opened.
        """
        self._stack = ExitStack()
        started = monotonic()
        self.model = model
        self.engine = engine
        self.opened: OpenEngine = self._stack.enter_context(engine.open())
        self.load_s = monotonic() - started
        self.scheduler: Scheduler[Job] = Scheduler(self.opened.slots)
        self.running: list[Job] = []
        self.unused_since_s = monotonic()
        self.keep_alive_s = 0.0
        self._images: Kept[ImageTokens] = Kept(_N_IMAGES)

    def look(self, owner: str, key: str, pixels: np.ndarray) -> ImageTokens:
        """Returns a picture's image tokens, computed if that owner has not shown it lately."""

        def encode() -> ImageTokens:
            return ImageTokens(self.opened.encoder.encode(pixels)[0], key)

        return self._images.find(f"{owner} {key}", encode)

    def begin(self, job: Job, slot: int) -> Reply:
        """Begins an answer in a slot."""
        asked = job.prepared.asked
        self.opened.slots.decoders[slot].lend(job.prepared.owner)
        session = self.opened.start_session(slot)
        session.show_images(*job.images)
        session.recall(asked.turns)
        job.reply = session.ask(asked.question or "", job.prepared.options)
        return job.reply

    def close(self) -> None:
        """Frees it."""
        self._stack.close()


class Shelf:
    """The open models.

    Args:
        wanted: device, threads, context and budget of all together.
        n_parallel: answers at once of each model.
        notify: takes lines for the log.
    """

    def __init__(self, wanted: BackendOptions, n_parallel: int, notify: Notify) -> None:
        self._wanted = wanted
        # One alone is computed as `tinyv ask` computes it, to the bit.
        self._n_slots = n_parallel if n_parallel > 1 else None
        self._notify = notify
        self._free_bytes = read_main_memory().available_bytes
        self._open: dict[str, OpenModel] = {}
        self._loaded: tuple[Loaded, ...] = ()

    @property
    def models(self) -> list[OpenModel]:
        """The open models."""
        return list(self._open.values())

    def list_loaded(self) -> tuple[Loaded, ...]:
        """Lists them for another thread."""
        return self._loaded

    def find(self, model: Model) -> OpenModel | None:
        """Returns a model if it is open, whether or not its files are still the same."""
        return self._open.get(model.name)

    def open(self, model: Model, keep_alive_s: float) -> OpenModel | None:
        """Opens a model; others that answer nothing are closed where memory is short.

        Returns:
            None where memory is held by models that are answering.

        Raises:
            WeightsError: its files cannot be used.
            DeviceError: memory does not suffice for it alone.
        """
        while True:
            wanted = replace(self._wanted, memory_budget_bytes=self._count_left())
            demand = Demand(way_out=_WAY_OUT, n_slots=self._n_slots)
            try:
                engine = plan_engine(model.found, wanted, demand, self._notify)
                opened = OpenModel(model, engine)
            except DeviceError:
                idle = [each for each in self.models if not each.running]
                if idle:
                    self.close(min(idle, key=lambda each: each.unused_since_s))
                    continue
                if self._open:
                    return None
                raise
            opened.keep_alive_s = keep_alive_s
            self._open[model.name] = opened
            self._look_on()
            return opened

    def use(self, model: OpenModel, keep_alive_s: float) -> None:
        """Notes that a model was just used, and how long it is to stay."""
        model.unused_since_s, model.keep_alive_s = monotonic(), keep_alive_s
        self._look_on()

    def close(self, model: OpenModel) -> None:
        """Closes a model."""
        del self._open[model.model.name]
        self._look_on()
        model.close()

    def close_unused(self) -> None:
        """Closes the models that answer nothing and whose time is over."""
        now_s = monotonic()
        for each in self.models:
            if not each.running and now_s - each.unused_since_s >= each.keep_alive_s:
                self.close(each)

    def count_seconds(self) -> float | None:
        """Counts the seconds until a model is to be closed; None where none is."""
        ends = [each.unused_since_s + each.keep_alive_s for each in self.models if not each.running]
        soonest_s = min(ends, default=float("inf")) - monotonic()
        return None if soonest_s == float("inf") else max(0.0, soonest_s)

    def _count_left(self) -> int | None:
        """Counts the bytes that open models leave of the budget; None lets the planner look."""
        budget = self._wanted.memory_budget_bytes
        if not self._open or any(is_cuda(each.engine.options.device) for each in self.models):
            return budget
        total = self._free_bytes if budget is None else budget
        return max(1, total - sum(each.engine.needed_bytes for each in self.models))

    def _look_on(self) -> None:
        now_s = time() - monotonic()
        self._loaded = tuple(
            Loaded(
                each.model,
                each.engine.needed_bytes,
                each.opened.backend.device,
                now_s + each.unused_since_s + each.keep_alive_s,
            )
            for each in self.models
        )
