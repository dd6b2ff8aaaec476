"""A request becomes an answer, whole or piece by piece, for as long as its client waits for it.

The event loop waits here; it hands everything long to threads.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse

from tinyv_cli.engine import Notify
from tinyv_cli.errors import TinyvError
from tinyv_cli.serving.catalog import Catalog
from tinyv_cli.serving.dialects.asking import Asked, Body, RefusedError, read_body
from tinyv_cli.serving.jobs import Ended, Event, Failed, Job, Piece, Step
from tinyv_cli.serving.metrics import Metrics
from tinyv_cli.serving.preparing import Preparer
from tinyv_cli.serving.worker import Worker

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

MAX_BODY_BYTES = 32 << 20
_LONG_BODY = 1 << 18  # bytes, whose parsing is worth a thread
_BODY_S = 60.0  # in which a body has to have come
_SEND_S = 60.0  # in which a client has to take what it is sent
_ALIVE_S = 10.0  # after which a waiting client gets a sign of life
_N_PREPARED = 4  # pictures opened at once: each may take 0.4 GB


class Talk(Protocol):
    """One request to answer a question, in one of the dialects."""

    asked: Asked
    media_type: str

    def write_whole(self, ended: Ended) -> dict[str, Any]:
        """Writes the answer as one document."""

    def write_first(self) -> bytes:
        """Writes what comes before a streamed answer."""

    def write_piece(self, text: str) -> bytes:
        """Writes more of it."""

    def write_last(self, ended: Ended) -> bytes:
        """Writes what comes behind it."""

    def write_failure(self, refusal: RefusedError) -> bytes:
        """Writes an error into a stream that has begun."""

    def write_step(self, step: Step | None) -> bytes:
        """Writes a sign of life before the first token."""


@dataclass
class House:
    """Everything that requests share.

    Attributes:
        catalog: of the models.
        preparer: makes questions ready.
        worker: answers them.
        metrics: counts.
        log: takes lines.
        is_ready: whether the default model has answered once.
        is_draining: whether nothing new is taken any more.
        n_answering: requests whose answer is under way.
    """

    catalog: Catalog
    preparer: Preparer
    worker: Worker
    metrics: Metrics
    log: Notify
    is_ready: bool = False
    is_draining: bool = False
    n_answering: int = 0
    prepares: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_N_PREPARED))

    async def begin(self, asked: Asked, owner: str, tell: Callable[[Event], None]) -> Job:
        """Makes a question ready and puts it into the queue.

        Raises:
            RefusedError: it cannot be answered, now or at all.
        """
        if self.is_draining:
            raise RefusedError(503, "the server is shutting down", None, 5)
        if asked.question is not None:
            self.worker.check_room()
        async with self.prepares:
            prepared = await asyncio.to_thread(self.preparer.prepare, asked, owner)
        for note in prepared.asked.notes:
            self.log(note)
        job = Job(prepared, tell)
        self.worker.submit(job)
        return job

    def find_unready(self) -> str | None:
        """Returns why questions would not be answered now; looks at the files of the default."""
        if self.is_draining:
            return "shutting down"
        if not self.is_ready:
            return "loading"
        try:
            model = self.catalog.find(None)
        except TinyvError as error:
            return error.problem
        if self.worker.find_breakage(model) is not None:
            return "the model cannot be loaded"
        if self.worker.has_old(model):
            prepared = self.preparer.prepare(Asked(None, None), "")
            self.worker.submit(Job(prepared, lambda _: None))
            return "loading"
        return None


class Answers:
    """The application behind a path on which questions are answered.

    Args:
        house: what requests share.
        read: makes a talk of a body.
    """

    def __init__(self, house: House, read: Callable[[Body], Talk]) -> None:
        self._house = house
        self._read = read

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answers one question."""
        content = await read_content(Request(scope, receive))
        name = self._house.catalog.default_name
        if len(content) > _LONG_BODY:
            body = await asyncio.to_thread(read_body, content, model=name)
        else:
            body = read_body(content, model=name)
        talk = self._read(body)
        del content, body
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event | None]()
        # The page asks for them; to all others they would only be wake-ups.
        shows_steps = any(name == b"tinyv-steps" for name, _ in scope["headers"])

        def tell(event: Event) -> None:
            if (shows_steps or not isinstance(event, Step)) and not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        job = await self._house.begin(talk.asked, scope["tinyv"]["owner"], tell)
        self._house.n_answering += 1
        watch = asyncio.create_task(_watch(receive, events))
        try:
            answer = _stream if talk.asked.streams else _wait
            await answer(talk, events, scope, send)
        finally:
            self._house.n_answering -= 1
            self._house.worker.cancel(job)
            watch.cancel()


async def _watch(receive: "Receive", events: "asyncio.Queue[Event | None]") -> None:
    """Waits until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
    events.put_nowait(None)


async def _wait(
    talk: Talk, events: "asyncio.Queue[Event | None]", scope: "Scope", send: "Send"
) -> None:
    """Answers with one document, when the answer has ended."""
    while (event := await events.get()) is not None:
        if isinstance(event, Failed):
            raise event.refusal
        if isinstance(event, Ended):
            scope["tinyv"]["n_tokens"] = event.n_answer
            media_type = "application/json; charset=utf-8"
            response = JSONResponse(talk.write_whole(event), media_type=media_type)
            async with asyncio.timeout(_SEND_S):
                await response(scope, _hear_nothing, send)
            return


async def _stream(
    talk: Talk, events: "asyncio.Queue[Event | None]", scope: "Scope", send: "Send"
) -> None:
    """Answers piece by piece; an error before the first one has its own status."""
    has_begun = is_over = False

    async def write(make: Callable[[], bytes]) -> None:
        nonlocal has_begun
        async with asyncio.timeout(_SEND_S):
            first = b""
            if not has_begun:
                has_begun = True
                kind = (b"content-type", talk.media_type.encode())
                headers = [kind, (b"x-accel-buffering", b"no")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                first = talk.write_first()  # its events are numbered before those that follow
            body = first + make()
            await send({"type": "http.response.body", "body": body, "more_body": not is_over})

    while not is_over:
        try:
            async with asyncio.timeout(_ALIVE_S):
                event = await events.get()
        except TimeoutError:
            if talk.write_step(None):
                await write(partial(talk.write_step, None))
            continue
        match event:
            case None:
                return
            case Step():
                if talk.write_step(event):
                    await write(partial(talk.write_step, event))
            case Piece(text):
                await write(partial(talk.write_piece, text))
            case Ended():
                scope["tinyv"]["n_tokens"] = event.n_answer
                is_over = True
                await write(partial(talk.write_last, event))
            case Failed(refusal):
                if not has_begun:
                    raise refusal
                is_over = True
                await write(partial(talk.write_failure, refusal))


async def _hear_nothing() -> Any:  # noqa: ANN401 - ASGI
    """Stands for the client where nothing more is expected of it."""
    return {"type": "http.disconnect"}


async def read_content(request: Request) -> bytes | bytearray:
    """Reads a body, within its limits of size and time.

    Raises:
        RefusedError: it is larger, or comes too slowly.
    """
    too_large = RefusedError(413, f"the body is larger than {MAX_BODY_BYTES >> 20} MiB")
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > MAX_BODY_BYTES:
        raise too_large
    content = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for piece in request.stream():
                content += piece
                if len(content) > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError as error:
        raise RefusedError(408, f"the body did not come within {_BODY_S:g} s") from error
    return content
