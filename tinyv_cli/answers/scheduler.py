"""Questions become answers, several at once, in any order; reads no file and asks nothing itself.

This is continuous batching: a question that has its answer makes room for the next one at once,
and the others go on meanwhile.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

from tinyv_cli.answers.reply import Answer, Reply
from tinyv_cli.answers.slots import Slots
from tinyv_cli.errors import InputError, TinyvError

T = TypeVar("T")


@dataclass(frozen=True)
class Request(Generic[T]):
    """A question that waits for its turn.

    Attributes:
        identity: names it among the others, for whoever asks.
        begin: is given a slot below `Slots.decoders`' number, and begins the answer there.
    """

    identity: T
    begin: Callable[[int], Reply]


@dataclass(frozen=True)
class Finished(Generic[T]):
    """A request that has ended.

    Attributes:
        identity: of the request.
        answer: what was said; None where there is an error.
        error: why there is no answer.
    """

    identity: T
    answer: Answer | None
    error: TinyvError | None = None


@dataclass(frozen=True)
class _Running(Generic[T]):
    """A request that has a slot."""

    identity: T
    reply: Reply


class Scheduler(Generic[T]):
    """Keeps the slots of a decoder busy; one thread uses it.

    A request that fails ends alone. What concerns them all, as a device that fails, is raised.

    Args:
        slots: of an open decoder, one for each answer at once.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._free = list(range(len(slots.decoders)))
        self._running: dict[int, _Running[T]] = {}  # by slot, oldest first

    @property
    def has_room(self) -> bool:
        """Whether a further request can begin."""
        return bool(self._free)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being answered."""
        return not self._running

    def start(self, request: Request[T]) -> list[Finished[T]]:
        """Begins an answer; there must be room.

        Returns:
            The request, if it failed at once.
        """
        slot = min(self._free)
        try:
            reply = request.begin(slot)
        except TinyvError as error:
            return [Finished(request.identity, None, error)]
        self._free.remove(slot)
        self._running[slot] = _Running(request.identity, reply)
        return []

    def advance(self) -> list[Finished[T]]:
        """Reads a piece of one prompt, and makes one token of each answer that has begun.

        Tokens wait while more prompts are unread than answers have begun: a step costs little more
        for eight answers than for one.

        Returns:
            The requests that ended.

        Raises:
            DeviceError, WeightsError: the decoder cannot go on.
        """
        unread = [slot for slot, each in self._running.items() if not each.reply.pending]
        answering = [slot for slot in self._running if slot not in unread]
        ended = self._advance(unread[0]) if unread else []
        if len(answering) < len(unread):
            return ended
        started = perf_counter()
        pending = {slot: self._running[slot].reply.pending for slot in answering}
        tokens = {slot: tokens[0] for slot, tokens in pending.items() if len(tokens) == 1}
        if tokens:
            self._slots.compute_ahead(tokens)
            share_s = (perf_counter() - started) / len(tokens)
            for slot in tokens:
                self._running[slot].reply.book(share_s)
        for slot in answering:
            ended += self._advance(slot)
        return ended

    def cancel(self, identity: T) -> None:
        """Ends a request that is being answered; the others do not notice."""
        for slot, each in list(self._running.items()):
            if each.identity == identity:
                self._end(slot)

    def run(self, requests: Iterator[Request[T] | None]) -> Generator[Finished[T]]:
        """Answers requests as they come.

        Args:
            requests: None stands for one that is not ready yet. While nothing is being answered,
                the next is waited for.

        Raises:
            DeviceError, WeightsError: the decoder cannot go on.
        """
        try:
            has_more = True
            while has_more or self._running:
                while has_more and self._free:
                    request = next(requests, _NO_MORE)
                    has_more = request is not _NO_MORE
                    if not isinstance(request, Request):
                        break
                    yield from self.start(request)
                if self._running:
                    yield from self.advance()
        finally:
            for slot in list(self._running):
                self._end(slot)

    def _advance(self, slot: int) -> list[Finished[T]]:
        """Advances one answer by a pass; returns it if it ended."""
        running = self._running[slot]
        reply = running.reply
        try:
            with suppress(StopIteration):
                reply.advance()
            if not reply.is_over:
                return []
            finished = Finished(running.identity, reply.finish())
        except InputError as error:
            finished = Finished(running.identity, None, error)
        self._end(slot)
        return [finished]

    def _end(self, slot: int) -> None:
        """Gives a slot back; an unfinished answer is dropped."""
        self._running.pop(slot).reply.close()
        self._free.append(slot)


_NO_MORE = object()
