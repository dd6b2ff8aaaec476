"""A benchmark's records and a variant become uncut answers and losses, kept one by one.

Many are asked at once. A record that cannot be asked costs itself alone.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from tinyv_cli.answers.generate import ImageEncoder, ImageTokens
from tinyv_cli.answers.reply import Answer, Reply
from tinyv_cli.answers.scheduler import Finished, Request, Scheduler
from tinyv_cli.answers.tokenizer import END_OF_TEXT, Tokenizer
from tinyv_cli.backends.prefetch_pictures import Encoded, PicturePrefetcher, Unreadable
from tinyv_cli.engine import Engine, OpenEngine
from tinyv_cli.errors import InputError, TinyvError
from tinyv_cli.evaluation.divergence import log_softmax
from tinyv_cli.evaluation.ledger import Ledger, Uncut
from tinyv_cli.evaluation.published.benchmarks import END_MARK, MAX_NEW_TOKENS, Benchmark
from tinyv_cli.evaluation.published.records import Record
from tinyv_cli.pictures.image import PLAINLY, read_picture
from tinyv_cli.progress import Progress
from tinyv_cli.session import AnswerOptions, Session

_UNCUT = AnswerOptions(max_new_tokens=MAX_NEW_TOKENS, ends_at_mark=False)


def ask_records(
    engine: Engine,
    benchmark: Benchmark,
    records: Sequence[Record],
    ledger: Ledger[Uncut],
    progress: Progress,
) -> dict[int, str]:
    """Fills the ledger with what it does not hold yet; may be interrupted at any time.

    Pictures are read as the published scripts read them, by Pillow's plain conversion to RGB, and
    nothing but the end id ends an answer before its twentieth token.

    Args:
        engine: the variant that answers.
        benchmark: that the records are of.
        records: those about one picture are asked together, and it is encoded once.
        ledger: of this variant and these records.
        progress: is told of records.

    Returns:
        By index, why a record could not be asked.

    Raises:
        DeviceError: the device fails, or answers cannot be written.
    """
    groups: dict[Path, list[Record]] = {}  # by the name of their picture
    for record in records:
        if record.index not in ledger.entries:
            groups.setdefault(Path(record.picture.name), []).append(record)
    n_pending = sum(map(len, groups.values()))
    if not n_pending:
        return {}
    begun: list[PicturePrefetcher] = []

    def prefetch(encoder: ImageEncoder) -> PicturePrefetcher:
        def read(name: Path) -> Image.Image:
            return read_picture(groups[name][0].picture.read(), PLAINLY)

        begun.append(PicturePrefetcher(encoder, groups, read, engine.preparing))
        return begun[0]

    label = f"asking {engine.variant.name}"
    try:
        with progress(label, n_pending) as bar, engine.open(prefetch) as opened:
            asker = _Asker(opened, benchmark, ledger)
            scheduler: Scheduler[_Task] = Scheduler(opened.slots)
            pictures = begun[0].as_ready(lambda: scheduler.is_idle)
            for finished in scheduler.run(asker.list_requests(pictures, groups)):
                asker.take(finished)
                bar.advance(asker.count_done())
            bar.advance(asker.count_done())
            return asker.failures
    finally:
        ledger.sync()


@dataclass(frozen=True, eq=False)
class _Task:
    """A text that is to be generated, or one whose loss is wanted, behind one record's prompt.

    Attributes:
        record: that is asked.
        image: its picture.
        text: the one to rank; None where one is generated.
        ids: of that text and its end, as many as there are to be losses of; none where the
            likelihoods of first tokens are wanted.
        losses: in nats, as they become known: of each id, or of each of `firsts`.
        firsts: ids that could be first.
    """

    record: Record
    image: ImageTokens
    text: str | None = None
    ids: tuple[int, ...] = ()
    losses: list[float] = field(default_factory=list)
    firsts: tuple[int, ...] = ()

    def take(self, logits: np.ndarray) -> None:
        """Takes the logits (V,) of the next position."""
        n_known = len(self.losses)
        wanted = self.ids[n_known : n_known + 1] if self.ids else self.firsts
        if wanted:
            losses = -log_softmax(logits[None])[0]
            self.losses.extend(float(losses[each]) for each in wanted)


class _Asker:
    """Asks about each picture's records, and keeps a record's entry once all of it is known."""

    def __init__(self, opened: OpenEngine, benchmark: Benchmark, ledger: Ledger[Uncut]) -> None:
        self._tokenizer = opened.tokenizer
        self._benchmark = benchmark
        self._ledger = ledger
        end = opened.tokenizer.find_special(END_OF_TEXT)
        stop_ids = () if end is None else (end,)
        template, notify = benchmark.template, opened.engine.notify
        self._sessions = [
            Session(
                opened.encoder, each, opened.tokenizer, template, notify=notify, stop_ids=stop_ids
            )
            for each in opened.slots.decoders
        ]
        self._answers: dict[int, str] = {}
        self._losses: dict[int, dict[str, float]] = {}
        self._n_open: Counter[int] = Counter()  # tasks of each record
        self._n_done = 0
        self.failures: dict[int, str] = {}

    def list_requests(
        self,
        pictures: Iterator[Encoded | Unreadable | None],
        groups: Mapping[Path, Sequence[Record]],
    ) -> Iterator[Request[_Task] | None]:
        """Lists what is to be asked, as pictures become ready; None where one is waited for."""
        for picture in pictures:
            if picture is None:
                yield None
                continue
            for record in groups[picture.path]:
                if isinstance(picture, Unreadable):
                    self._fail(record, picture.error)
                    continue
                tasks = self._make_tasks(record, picture.image)
                self._n_open[record.index] = len(tasks)
                for task in tasks:
                    yield Request(task, partial(self._begin, task))

    def take(self, finished: Finished[_Task]) -> None:
        """Takes what came of one request."""
        task, record = finished.identity, finished.identity.record
        self._n_open[record.index] -= 1
        n_wanted = len(task.ids or task.firsts)
        if finished.error is not None:
            self._fail(record, finished.error)
        elif len(task.losses) < n_wanted:
            self._fail(record, InputError("the context is full", "make room: `--ctx-size N`"))
        elif finished.answer is not None:
            self._keep(task, finished.answer)
        if self._n_open[record.index] == 0 and record.index not in self.failures:
            answer, losses = (
                self._answers.pop(record.index, None),
                self._losses.pop(record.index, None),
            )
            self._ledger.add(Uncut(record.index, record.question, answer, losses))
            self._n_done += 1

    def count_done(self) -> int:
        """Counts the records that are done since it was last asked."""
        n_done, self._n_done = self._n_done, 0
        return n_done

    def _fail(self, record: Record, error: TinyvError) -> None:
        """Notes why a record cannot be asked; the first reason stays."""
        if record.index not in self.failures:
            self.failures[record.index] = f"{record.place} cannot be asked: {error.problem}"
            self._n_done += 1

    def _make_tasks(self, record: Record, image: ImageTokens) -> list[_Task]:
        """Makes what a record needs: a text, likelihoods of first tokens, losses of choices."""
        encode = self._tokenizer.encode
        if self._benchmark.ranks:
            texts = record.candidates
            return [_Task(record, image, each, tuple(encode(each + END_MARK))) for each in texts]
        tasks = [_Task(record, image)]
        if words := self._benchmark.words:
            tasks.append(_Task(record, image, firsts=tuple(encode(word)[0] for word in words)))
        return tasks

    def _begin(self, task: _Task, slot: int) -> Reply:
        """Begins a conversation of its own in a slot."""
        session = self._sessions[slot]
        session.show_images(task.image)
        prompt = self._benchmark.write_prompt(task.record.question)
        if task.ids or task.firsts:
            return session.recite(prompt, task.ids[:-1], task.take)  # the last one is not read on
        return session.ask(prompt, _UNCUT)

    def _keep(self, task: _Task, answer: Answer) -> None:
        """Keeps a text, a choice's mean loss, or the losses of words that could be first."""
        losses = self._losses.setdefault(task.record.index, {}) if task.losses else {}
        if task.firsts:
            losses |= zip(self._benchmark.words, task.losses, strict=True)
        elif task.text is not None:
            losses[task.text] = sum(task.losses) / len(task.losses)
        else:
            self._answers[task.record.index] = to_uncut(answer, self._tokenizer)


def to_uncut(answer: Answer, tokenizer: Tokenizer) -> str:
    """Returns the text of an answer as the published scripts see it: a first id of 0 goes."""
    if answer.token_ids[:1] == (0,):
        return tokenizer.decode(answer.token_ids[1:]).strip()
    return answer.text
