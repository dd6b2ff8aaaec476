"""One thread computes: it opens models, encodes pictures and makes tokens; no other does.

Questions wait in one queue, first come, first served; what programs ask for themselves goes last. A
question whose asker has left ends within one token, one picture or one piece of a prompt.
"""

import threading
import traceback
from collections.abc import Callable
from functools import partial

from tinyv_cli.answers.scheduler import Request
from tinyv_cli.engine import Notify
from tinyv_cli.errors import DeviceError, InputError, TinyvError
from tinyv_cli.serving.catalog import Model
from tinyv_cli.serving.dialects.asking import RefusedError
from tinyv_cli.serving.jobs import Failed, Job, Step
from tinyv_cli.serving.metrics import Metrics
from tinyv_cli.serving.shelf import Loaded, OpenModel, Shelf


class Worker:
    """The thread, its queue, and what it says of itself.

    Args:
        shelf: of the models; used by the thread alone.
        n_queue: questions that may wait.
        keep_alive_s: how long a model stays where a question does not say.
        metrics: counts.
        log: takes lines.

    Attributes:
        on_death: is called if the thread ends without being asked to; in that thread.
    """

    def __init__(
        self,
        shelf: Shelf,
        n_queue: int,
        keep_alive_s: float,
        metrics: Metrics,
        log: Notify,
    ) -> None:
        self._shelf = shelf
        self._n_queue = n_queue
        self._keep_alive_s = keep_alive_s
        self._metrics = metrics
        self._log = log
        self._changed = threading.Condition()
        self._waiting: list[Job] = []
        self._n_running = 0
        self._is_ending = False
        self._broken: dict[str, tuple[Model, TinyvError]] = {}  # that could not be opened, by name
        self._thread = threading.Thread(target=self._live, name="worker", daemon=True)
        self.on_death: Callable[[], None] = lambda: None

    @property
    def is_alive(self) -> bool:
        """Whether it computes, or waits to."""
        return self._thread.is_alive()

    @property
    def n_waiting(self) -> int:
        """Questions in the queue."""
        return len(self._waiting)

    @property
    def n_running(self) -> int:
        """Questions being answered."""
        return self._n_running

    def find_breakage(self, model: Model) -> TinyvError | None:
        """Returns why a model could not be opened, if its files are still the same."""
        tried, error = self._broken.get(model.name, (model, None))
        return error if tried.stamp == model.stamp else None

    def list_loaded(self) -> tuple[Loaded, ...]:
        """Lists the models in memory."""
        return self._shelf.list_loaded()

    def has_old(self, model: Model) -> bool:
        """Returns whether a model is in memory whose files are others by now."""
        loaded = [each.model for each in self.list_loaded() if each.model.name == model.name]
        return any(each.stamp != model.stamp for each in loaded)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def check_room(self) -> None:
        """Raises a `RefusedError` where the queue is full."""
        if len(self._waiting) >= self._n_queue:
            problem = f"{len(self._waiting)} questions wait already"
            raise RefusedError(429, f"{problem}; try again later", "queue_full", 1)

    def submit(self, job: Job) -> None:
        """Puts a question into the queue.

        Raises:
            RefusedError: it is full, or the server ends.
        """
        with self._changed:
            if self._is_ending or not self._thread.is_alive():
                raise RefusedError(503, "the server is shutting down", None, 5)
            self.check_room()
            is_chore = job.prepared.asked.is_chore
            places = [i for i, each in enumerate(self._waiting) if each.prepared.asked.is_chore]
            place = len(self._waiting) if is_chore or not places else places[0]
            self._waiting.insert(place, job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Ends a question that nobody waits for any more."""
        job.is_cancelled = True
        with self._changed:
            self._changed.notify()

    def end(self, timeout_s: float = 10.0) -> None:
        """Ends all questions, as failed, and the thread."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _live(self) -> None:
        try:
            while not self._is_ending:
                self._work()
        except BaseException:  # noqa: BLE001 - whatever it is, the process must not live on without it
            self._log(f"the worker died:\n{traceback.format_exc()}")
        finally:
            refusal = RefusedError(503, "the server is shutting down", None, 5)
            for job in [
                *self._waiting,
                *(job for each in self._shelf.models for job in each.running),
            ]:
                job.tell(Failed(refusal))
            self._waiting = []
            for each in self._shelf.models:
                self._shelf.close(each)
            if not self._is_ending:
                self.on_death()

    def _work(self) -> None:
        """Does one round: waits for work, begins what there is room for, makes a token of each."""
        with self._changed:
            for job in [each for each in self._waiting if each.is_cancelled]:
                self._waiting.remove(job)
                self._metrics.count_dropped()
            if not self._waiting and not self._n_running and not self._is_ending:
                self._changed.wait(self._shelf.count_seconds())
            waiting = list(self._waiting)
        self._begin(waiting)
        for model in self._shelf.models:
            self._advance(model)
        self._n_running = sum(len(each.running) for each in self._shelf.models)
        self._shelf.close_unused()
        for place, job in enumerate(self._waiting, 1):
            if place != job.place:
                job.place = place
                job.tell(Step("queued", place))

    def _begin(self, waiting: list[Job]) -> None:
        """Begins waiting questions, in their order; between two tokens it encodes one picture."""
        for job in waiting:
            if job.is_cancelled:
                continue
            try:
                asked = job.prepared.asked
                if asked.question is None and asked.keep_alive_s == 0:
                    self._unload(job)
                    continue
                model = self._open(job)
                if model is None:
                    return  # memory is held by one that answers: nobody overtakes, so that it ends
                if not model.scheduler.has_room:
                    continue
                n_images = len(job.images)
                if n_images < len(job.prepared.pixels):
                    job.tell(Step("looking"))
                    key, pixels = job.prepared.pixels[n_images]
                    with self._metrics.time_encoding() as spent:
                        job.images.append(model.look(job.prepared.owner, key, pixels))
                    job.encode_s += spent.elapsed_s
                    if self._n_running or len(job.images) < len(job.prepared.pixels):
                        return
                self._start(model, job)
            except TinyvError as error:
                self._fail(job, error)
            except Exception:  # noqa: BLE001 - one question's bug is not the others' end
                self._log(f"a bug:\n{traceback.format_exc()}")
                self._fail(job, RefusedError(500, "a bug in the server; its log says where"))

    def _open(self, job: Job) -> OpenModel | None:
        """Returns the question's model, opened if it is not or if its files are others by now.

        Returns:
            None where models that are answering hold the memory, or the old files.
        """
        model, keep_alive_s = job.prepared.model, self._get_keep_alive_s(job)
        opened = self._shelf.find(model)
        if opened is not None and opened.model.stamp != model.stamp:
            if opened.running:
                return None
            self._shelf.close(opened)
            opened = None
        if opened is None:
            job.tell(Step("loading"))
            try:
                opened = self._shelf.open(model, keep_alive_s)
            except TinyvError as error:
                self._broken[model.name] = model, error
                self._log(f"{model.name} cannot be loaded: {error.problem}")
                is_short = isinstance(error, DeviceError)
                reason = "memory does not suffice" if is_short else "its files cannot be used"
                problem = f"model '{model.name}' cannot be loaded: {reason}"
                raise RefusedError(503, problem, None, 30) from error
            if opened is not None:
                self._broken.pop(model.name, None)
                job.load_s = opened.load_s
        return opened

    def _unload(self, job: Job) -> None:
        """Lets a model go as soon as it answers nothing."""
        with self._changed:
            self._waiting.remove(job)
        opened = self._shelf.find(job.prepared.model)
        if opened is not None:
            self._shelf.use(opened, 0.0)
        job.end(None)

    def _start(self, model: OpenModel, job: Job) -> None:
        """Starts an answer, or ends at once where nothing is asked.

        Until then it waits, so that it hears of it if the thread dies meanwhile.
        """
        is_asked = job.prepared.asked.question is not None
        if is_asked:
            job.tell(Step("reading"))
            failed = model.scheduler.start(Request(job, partial(model.begin, job)))
            if failed:
                self._fail(job, failed[0].error)
                return
        with self._changed:
            self._waiting.remove(job)
        if not is_asked:
            self._shelf.use(model, self._get_keep_alive_s(job))
            job.end(None)
            return
        model.running.append(job)
        self._n_running += 1

    def _advance(self, model: OpenModel) -> None:
        """Makes a token of each answer of a model, and tells what came of it."""
        for job in [each for each in model.running if each.is_cancelled]:
            model.scheduler.cancel(job)
            model.running.remove(job)
            self._metrics.count_dropped()
            self._shelf.use(model, self._get_keep_alive_s(job))
        if not model.running:
            return
        try:
            finished = model.scheduler.advance()
        except Exception as error:  # noqa: BLE001 - the model is closed, the worker goes on
            self._log(f"{model.model.name} failed:\n{traceback.format_exc()}")
            status = 503 if isinstance(error, DeviceError | MemoryError) else 500
            refusal = RefusedError(status, "the model failed; the server's log says why")
            jobs, model.running = model.running, []
            for job in jobs:
                self._fail(job, refusal)
            self._shelf.close(model)
            return
        for job in model.running:
            if job.reply is not None:
                job.tell_text(job.reply.text)
        for each in finished:
            job = each.identity
            model.running.remove(job)
            self._shelf.use(model, self._get_keep_alive_s(job))
            if each.answer is None:
                self._fail(job, each.error)
            else:
                self._metrics.count_answer(job.end(each.answer))

    def _fail(self, job: Job, error: TinyvError | None) -> None:
        """Tells that there is no answer."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
        if isinstance(error, InputError):
            error = RefusedError(400, error.problem)
        if not isinstance(error, RefusedError):
            error = RefusedError(503, "the model failed; the server's log says why")
        job.tell(Failed(error))

    def _get_keep_alive_s(self, job: Job) -> float:
        asked_s = job.prepared.asked.keep_alive_s
        return self._keep_alive_s if asked_s is None else asked_s
