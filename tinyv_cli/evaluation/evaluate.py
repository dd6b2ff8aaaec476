"""Questions and one or two variants become answers and divergences, kept one by one; scores none.

Two variants are never in memory at once. For blocks of questions, the one compared with answers
first and leaves its logits along the reference answers in a nameless file on disk, in float32: a
full vocabulary takes 0.2 MB a position, so blocks bound the file, not the memory. The most likely
tokens alone would be a hundred times smaller, but no exact divergence can be had of them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np

from tinyv_cli.answers.generate import ImageEncoder, ImageTokens
from tinyv_cli.answers.reply import Answer, Reply
from tinyv_cli.answers.scheduler import Request, Scheduler
from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.backends.prefetch_pictures import PicturePrefetcher, Unreadable
from tinyv_cli.disk.writing import writing
from tinyv_cli.engine import Engine, OpenEngine
from tinyv_cli.errors import InputError
from tinyv_cli.evaluation.divergence import compute_divergences
from tinyv_cli.evaluation.ledger import Answered, Compared, Ledger
from tinyv_cli.evaluation.questions import Question
from tinyv_cli.evaluation.scoring import is_right
from tinyv_cli.pictures.image import AS_PUBLISHED, read_picture
from tinyv_cli.progress import Progress
from tinyv_cli.session import AnswerOptions, Session

BLOCK_BYTES = 1 << 30  # of logits on disk: some 700 short answers at the full vocabulary

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Candidate:
    """A variant that is to answer, and what it has answered so far."""

    engine: Engine
    answers: Ledger[Answered]

    @property
    def name(self) -> str:
        """The variant's."""
        return self.engine.variant.name


@dataclass(frozen=True)
class Comparison:
    """A second variant, and how far the first is from it.

    Attributes:
        candidate: the variant compared with.
        results: what was found out so far.
        tokenizer: of both variants.
        vocab_size: logits a position has.
        folder: takes the file of logits.
        block_bytes: the most that file may hold, unless the questions about one picture need more.
    """

    candidate: Candidate
    results: Ledger[Compared]
    tokenizer: Tokenizer
    vocab_size: int
    folder: Path
    block_bytes: int = BLOCK_BYTES

    def is_done(self, question: Question) -> bool:
        """Whether the two were compared along this question's reference answer."""
        return question.index in self.results.entries

    def count_bytes(self, questions: Iterable[Question]) -> int:
        """Bytes of the logits that are still to be compared."""
        texts = [question.reference for question in questions if not self.is_done(question)]
        n_positions = sum(len(self.tokenizer.encode(text)) + 1 for text in texts)
        return n_positions * self.vocab_size * _FLOAT_BYTES


def evaluate(
    candidate: Candidate,
    comparison: Comparison | None,
    questions: Iterable[Question],
    options: AnswerOptions,
    progress: Progress,
) -> None:
    """Fills the ledgers with what they do not hold yet; may be interrupted at any time.

    Args:
        candidate: the variant to judge.
        comparison: the variant to compare it with, if any.
        questions: a picture is encoded once for all of those about it.
        options: how answers are made.
        progress: is told of questions.

    Raises:
        InputError: a picture cannot be read, or a question does not fit the context.
        DeviceError: answers or logits cannot be written, as when the disk is full.
    """
    pictures: dict[Path, list[Question]] = {}
    for question in questions:
        pictures.setdefault(question.picture, []).append(question)
    with ExitStack() as ledgers:  # kept on disk whatever ends this
        ledgers.callback(candidate.answers.sync)
        if comparison is None:
            by_picture = [each for group in pictures.values() for each in group]
            pending = [each for each in by_picture if each.index not in candidate.answers.entries]
            _examine(candidate, pending, options, progress)
            return
        ledgers.callback(comparison.candidate.answers.sync)
        ledgers.callback(comparison.results.sync)
        # Pictures' questions stand together while their logits have room; no picture is split.
        block: list[Question] = []
        n_bytes = 0
        for group in pictures.values():
            more_bytes = comparison.count_bytes(group)
            if block and n_bytes + more_bytes > comparison.block_bytes:
                _compare_block(candidate, comparison, block, options, progress)
                block, n_bytes = [], 0
            block, n_bytes = [*block, *group], n_bytes + more_bytes
        _compare_block(candidate, comparison, block, options, progress)


def _compare_block(
    candidate: Candidate,
    comparison: Comparison,
    block: Sequence[Question],
    options: AnswerOptions,
    progress: Progress,
) -> None:
    """Asks the one compared with, then the variant to judge, and compares their logits."""
    undone = {each.index for each in block if not comparison.is_done(each)}

    def list_pending(each: Candidate) -> list[Question]:
        return [q for q in block if q.index in undone or q.index not in each.answers.entries]

    folder = comparison.folder
    with writing(folder), TemporaryFile(dir=folder) as file:
        kept = _LogitsFile(file)

        def compare(question: Question, logits: np.ndarray) -> None:
            exact = kept.read(question)  # (T, V), as the variant's own
            kl_sum = float(compute_divergences(exact, logits).sum())
            n_same = int((exact.argmax(-1) == logits.argmax(-1)).sum())
            comparison.results.add(Compared(question.index, len(exact), kl_sum, n_same))

        passes = ((comparison.candidate, kept.write), (candidate, compare))
        for each, take in passes:
            wanted = _WantedLogits(undone, take)
            _examine(each, list_pending(each), options, progress, wanted)


class _LogitsFile:
    """Logits of questions, on disk."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._positions: dict[int, tuple[int, tuple[int, ...]]] = {}

    def write(self, question: Question, logits: np.ndarray) -> None:
        """Keeps float32 logits (T, V)."""
        self._positions[question.index] = (self._file.tell(), logits.shape)
        self._file.write(logits.tobytes())

    def read(self, question: Question) -> np.ndarray:
        """Reads them back, (T, V)."""
        start, (n_positions, vocab_size) = self._positions[question.index]
        self._file.seek(start)
        content = self._file.read(n_positions * vocab_size * _FLOAT_BYTES)
        return np.frombuffer(content, np.float32).reshape(n_positions, vocab_size)


@dataclass(frozen=True)
class _WantedLogits:
    """Along which questions' reference answers logits are wanted, and what takes them."""

    indices: set[int]
    take: Callable[[Question, np.ndarray], None]


def _examine(
    candidate: Candidate,
    pending: Sequence[Question],
    options: AnswerOptions,
    progress: Progress,
    wanted: _WantedLogits | None = None,
) -> None:
    """Opens a variant, asks it, and frees it, so that the next one has the memory.

    Every question is a conversation of its own. `pending` has the questions about one picture one
    after the other: it is encoded once for all of them.
    """
    if not pending:
        return
    engine = candidate.engine
    groups = {path: [*each] for path, each in groupby(pending, lambda question: question.picture)}
    begun: list[PicturePrefetcher] = []

    def prefetch(encoder: ImageEncoder) -> PicturePrefetcher:
        read = partial(read_picture, reading=AS_PUBLISHED)
        begun.append(PicturePrefetcher(encoder, groups, read, engine.preparing))
        return begun[0]

    label = f"asking {candidate.name}"
    with progress(label, len(pending)) as bar, engine.open(prefetch) as opened:
        sessions = [opened.start_session(slot) for slot in range(len(opened.slots.decoders))]
        scheduler: Scheduler[_Task] = Scheduler(opened.slots)
        n_open: Counter[int] = Counter()  # tasks of each question that have begun or wait

        def list_requests() -> Iterator[Request[_Task] | None]:
            for picture in begun[0].as_ready(lambda: scheduler.is_idle):
                if picture is None:
                    yield None
                    continue
                if isinstance(picture, Unreadable):
                    raise picture.error
                for question in groups[picture.path]:
                    ask = question.index not in candidate.answers.entries
                    recite = wanted is not None and question.index in wanted.indices
                    n_open[question.index] = ask + recite
                    for recites in [False] * ask + [True] * recite:
                        task = _Task(question, picture.image, options, recites, [])
                        yield Request(task, partial(task.begin, sessions, opened.tokenizer))

        for each in scheduler.run(list_requests()):
            task = each.identity
            question = task.question
            if each.error is not None:
                problem = f"{question.place} cannot be asked: {each.error.problem}"
                raise InputError(problem, each.error.hint) from each.error
            assert each.answer is not None
            if not task.recites:
                right = is_right(question.task, each.answer.text, question.reference)
                about = (each.answer.text, question.text, question.reference, right)
                candidate.answers.add(Answered(question.index, *about))
            elif wanted:
                _check_room(question, each.answer, task.logits, opened)
                wanted.take(question, np.stack(task.logits))
            n_open[question.index] -= 1
            bar.advance(int(n_open[question.index] == 0))


def _check_room(
    question: Question, answer: Answer, logits: Sequence[np.ndarray], opened: OpenEngine
) -> None:
    """Checks that there are logits for the whole of a reference answer.

    Raises:
        InputError: the context was full before.
    """
    n_ids = len(opened.tokenizer.encode(question.reference))
    if len(logits) > n_ids:
        return
    n_needed, n_room = answer.usage.prompt_tokens + n_ids, opened.decoder.context_length
    raise InputError(
        f"{question.place} cannot be asked: prompt and answer need {n_needed} positions, the "
        f"context has {n_room}",
        f"leave it out, or make room: `tinyv eval --ctx-size {n_needed} …`",
    )


@dataclass(frozen=True, eq=False)
class _Task:
    """A question that is to be answered, or whose reference answer is recited for its logits."""

    question: Question
    image: ImageTokens
    options: AnswerOptions
    recites: bool
    logits: list[np.ndarray]

    def begin(self, sessions: Sequence[Session], tokenizer: Tokenizer, slot: int) -> Reply:
        """Begins a conversation in a slot."""
        session = sessions[slot]
        session.show_images(self.image)
        if not self.recites:
            return session.ask(self.question.text, self.options)
        ids = tokenizer.encode(self.question.reference)
        return session.recite(self.question.text, ids, self.logits.append)
