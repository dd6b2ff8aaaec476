"""Questions and one or two variants become answers and divergences, kept one by one; scores none.

Two variants are never in memory at once. For blocks of questions, the one compared with answers
first and leaves its logits along the reference answers in a nameless file on disk, in float32: a
full vocabulary takes 0.2 MB a position, so blocks bound the file, not the memory. The most likely
tokens alone would be a hundred times smaller, but no exact divergence can be had of them.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np

from tinyv_cli.answers.generate import Decoder
from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.disk.writing import writing
from tinyv_cli.engine import Engine
from tinyv_cli.errors import InputError
from tinyv_cli.evaluation.divergence import compute_divergences
from tinyv_cli.evaluation.ledger import Answered, Compared, Ledger
from tinyv_cli.evaluation.questions import Question
from tinyv_cli.evaluation.scoring import is_right
from tinyv_cli.pictures.image import AS_PUBLISHED, read_picture
from tinyv_cli.progress import Progress
from tinyv_cli.prompts.prompt import make_prompt
from tinyv_cli.session import AnswerOptions

BLOCK_BYTES = 1 << 30  # of logits on disk: some 700 short answers at the full vocabulary

_FLOAT_BYTES = 4
_FILL_PROMPT = AnswerOptions(max_new_tokens=1)


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
    after the other: a session encodes a picture that it is shown again only once.
    """
    if not pending:
        return
    engine = candidate.engine
    with progress(f"asking {candidate.name}", len(pending)) as bar, engine.open() as opened:
        session = opened.start_session()
        for path, group in groupby(pending, lambda question: question.picture):
            picture = read_picture(path, AS_PUBLISHED)
            for question in group:
                session.show(picture, engine.image_px)
                try:
                    is_new = question.index not in candidate.answers.entries
                    reply = session.ask(question.text, options if is_new else _FILL_PROMPT)
                    answer = reply.finish()
                    n_prompt = answer.usage.prompt_tokens  # which are cached now
                    if is_new:
                        right = is_right(question.task, answer.text, question.reference)
                        about = (answer.text, question.text, question.reference, right)
                        candidate.answers.add(Answered(question.index, *about))
                    if wanted and question.index in wanted.indices:
                        prompt = make_prompt(engine.template, (), question.text)
                        last = opened.tokenizer.encode(prompt.pieces[-1])[-1]
                        ids = opened.tokenizer.encode(question.reference)
                        logits = compute_answer_logits(opened.decoder, n_prompt, [last, *ids])
                        wanted.take(question, logits)
                except InputError as error:
                    problem = f"{question.place} cannot be asked: {error.problem}"
                    raise InputError(problem, error.hint) from error
                bar.advance()


def compute_answer_logits(decoder: Decoder, n_prompt: int, ids: Sequence[int]) -> np.ndarray:
    """Computes the logits along a given answer, at each of its tokens and at its end.

    Args:
        decoder: holds a prompt of `n_prompt` positions and what a session has put behind it. It is
            left with the prompt alone, so that the session's record of it stays true.
        n_prompt: positions.
        ids: the prompt's last token, then those of the answer.

    Returns:
        (len(ids), V) float32.

    Raises:
        InputError: prompt and answer do not fit the context.
    """
    n_needed = n_prompt - 1 + len(ids)
    if n_needed > decoder.context_length:
        raise InputError(
            f"prompt and answer need {n_needed} positions, the context has "
            f"{decoder.context_length}",
            f"leave it out, or make room: `tinyv eval --ctx-size {n_needed} …`",
        )
    decoder.rewind(n_prompt - 1)
    logits = np.stack([decoder.extend([(token,)]) for token in ids])
    decoder.rewind(n_prompt)
    return logits
