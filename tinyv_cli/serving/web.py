"""Paths become what is answered on them; the event loop hands everything long to threads."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tinyv_cli.engine import Notify
from tinyv_cli.errors import TinyvError
from tinyv_cli.serving.catalog import Catalog, Model
from tinyv_cli.serving.dialects import ollama, openai, responses
from tinyv_cli.serving.dialects.asking import Asked, Body, RefusedError, read_body
from tinyv_cli.serving.guard import Gate, Guard, make_error
from tinyv_cli.serving.jobs import Ended, Event, Failed, Job, Piece, Step
from tinyv_cli.serving.metrics import Metrics
from tinyv_cli.serving.preparing import Preparer
from tinyv_cli.serving.worker import Worker

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

MAX_BODY_BYTES = 32 << 20
_BODY_S = 60.0  # in which a body has to have come
_SEND_S = 60.0  # in which a client has to take what it is sent
_ALIVE_S = 10.0  # after which a waiting client gets a sign of life
_N_PREPARED = 4  # pictures opened at once: each may take 0.4 GB
_PAGE = Path(__file__).with_name("page")
_CSP = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


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
        body = await asyncio.to_thread(read_body, content, model=name)
        talk = self._read(body)
        del content, body
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event | None]()

        def tell(event: Event) -> None:
            if not loop.is_closed():
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
    shows_steps = any(name == b"tinyv-steps" for name, _ in scope["headers"])
    has_begun = is_over = False

    async def write(content: bytes) -> None:
        nonlocal has_begun
        async with asyncio.timeout(_SEND_S):
            if not has_begun:
                has_begun = True
                kind = (b"content-type", talk.media_type.encode())
                headers = [kind, (b"x-accel-buffering", b"no")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                content = talk.write_first() + content
            await send({"type": "http.response.body", "body": content, "more_body": not is_over})

    while not is_over:
        try:
            async with asyncio.timeout(_ALIVE_S):
                event = await events.get()
        except TimeoutError:
            if sign := talk.write_step(None):
                await write(sign)
            continue
        match event:
            case None:
                return
            case Step():
                if shows_steps and (sign := talk.write_step(event)):
                    await write(sign)
            case Piece(text):
                if not has_begun:
                    await write(b"")
                await write(talk.write_piece(text))
            case Ended():
                scope["tinyv"]["n_tokens"] = event.n_answer
                if not has_begun:
                    await write(b"")
                is_over = True
                await write(talk.write_last(event))
            case Failed(refusal):
                if not has_begun:
                    raise refusal
                is_over = True
                await write(talk.write_failure(refusal))


async def _hear_nothing() -> Any:  # noqa: ANN401 - ASGI
    """Stands for the client where nothing more is expected of it."""
    return {"type": "http.disconnect"}


async def read_content(request: Request) -> bytes:
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
    return bytes(content)


def make_app(house: House, gate: Gate) -> "ASGIApp":
    """Makes the application of all paths."""
    asks: dict[str, Callable[[Body], Talk]] = {
        "/v1/chat/completions": openai.ChatCompletion,
        "/v1/responses": responses.Response,
        "/api/chat": ollama.Chat,
        "/api/generate": ollama.Generate,
    }
    views = Views(house)
    reads: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/": views.show_front,
        "/health": views.show_health,
        "/ready": views.show_ready,
        "/metrics": views.show_metrics,
        "/props": views.show_props,
        "/v1/models": views.list_models,
        "/v1/models/{name:path}": views.show_model,
        "/api/version": views.show_version,
        "/api/tags": views.list_tags,
        "/api/ps": views.list_loaded,
        "/page.js": views.show_page_file,
        "/page.css": views.show_page_file,
    }
    posts = {"/api/show": views.show_whole, "/api/pull": views.pull}
    routes = [Route(path, Answers(house, read), methods=["POST"]) for path, read in asks.items()]
    routes += [Route(path, read, methods=["GET"]) for path, read in reads.items()]
    routes += [Route(path, post, methods=["POST"]) for path, post in posts.items()]
    # Some clients are given the bare address, and do not put `/v1` behind it.
    routes += [
        Route(each.path.removeprefix("/v1"), each.endpoint, methods=list(each.methods or ()))
        for each in routes
        if each.path.startswith("/v1/")
    ]
    labels = [(each.path_regex, each.path) for each in routes]
    handlers = {HTTPException: _describe_http, RefusedError: _describe_refusal}
    app = Starlette(routes=routes, exception_handlers={**handlers, Exception: _describe_bug})
    app.router.redirect_slashes = False

    async def note_path(scope: "Scope", receive: "Receive", send: "Send") -> None:
        found = (label for regex, label in labels if regex.match(scope["path"]))
        scope["tinyv"]["path"] = next(found, "other")
        await app(scope, receive, send)

    return Guard(note_path, gate, house.metrics, house.log)


def _describe_http(request: Request, error: Exception) -> Response:
    """Lays out a path that there is not, or a method that it does not have."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    problem = "there is nothing at this path"
    if error.status_code == 405:
        problem = f"{request.method} is no method of this path"
    response = make_error(path, RefusedError(error.status_code, problem))
    response.headers.update(error.headers or {})
    return response


def _describe_refusal(request: Request, error: Exception) -> Response:
    """Lays out why there is no answer."""
    assert isinstance(error, RefusedError)
    return make_error(request.url.path, error)


def _describe_bug(request: Request, error: Exception) -> Response:
    """Tells of a bug, and nothing about it."""
    bug = RefusedError(500, "a bug in the server; its log says where")
    return make_error(request.url.path, bug)


class Views:
    """What is answered without the worker, at once also while it computes."""

    def __init__(self, house: House) -> None:
        self._house = house
        numbers = re.findall(r"\d+", metadata.version("tinyv"))[:3]
        self._version = ".".join([*numbers, "0", "0"][:3])

    async def show_front(self, request: Request) -> Response:
        """Shows the page to browsers, and what health checks look for to all others."""
        if "text/html" not in request.headers.get("accept", ""):
            return PlainTextResponse("Ollama is running")
        return await self.show_page_file(request)

    async def show_page_file(self, request: Request) -> Response:
        """Shows one of the page's three files."""
        name = request.url.path.removeprefix("/") or "page.html"
        kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
        content = await asyncio.to_thread((_PAGE / name).read_bytes)
        headers = {"content-security-policy": _CSP}
        return Response(content, 200, headers, kinds[name.rpartition(".")[2]])

    async def show_health(self, request: Request) -> Response:
        """Tells whether the process can compute at all."""
        is_alive = self._house.worker.is_alive
        state = "ok" if is_alive else "the worker has died"
        return JSONResponse({"status": state}, 200 if is_alive else 503)

    async def show_ready(self, request: Request) -> Response:
        """Tells whether a question would be answered."""
        problem = await asyncio.to_thread(self._house.find_unready)
        if problem is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": problem}, 503, {"retry-after": "2"})

    async def show_metrics(self, request: Request) -> Response:
        """Shows the counts."""
        worker = self._house.worker
        text = self._house.metrics.write(worker.n_waiting, worker.n_running, worker.list_loaded())
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def show_props(self, request: Request) -> Response:
        """Shows what Frigate asks llama.cpp's server for."""
        model = await asyncio.to_thread(self._house.catalog.find, None)
        context = {"n_ctx": model.context_length}
        return JSONResponse(
            {"default_generation_settings": context, "modalities": {"vision": True}}
        )

    async def list_models(self, request: Request) -> Response:
        """Lists the models as OpenAI does."""
        models = await asyncio.to_thread(self._house.catalog.list_models)
        return JSONResponse({"object": "list", "data": [*map(openai.describe_model, models)]})

    async def show_model(self, request: Request) -> Response:
        """Shows one model as OpenAI does."""
        name = request.path_params["name"]
        return JSONResponse(
            openai.describe_model(await asyncio.to_thread(self._house.catalog.find, name))
        )

    async def show_version(self, request: Request) -> Response:
        """Shows three numbers, which clients compare."""
        return JSONResponse({"version": self._version})

    async def list_tags(self, request: Request) -> Response:
        """Lists the models as Ollama does."""
        models = await asyncio.to_thread(self._house.catalog.list_models)
        return JSONResponse({"models": [each.describe() for each in models]})

    async def list_loaded(self, request: Request) -> Response:
        """Lists the models in memory as Ollama does."""
        loaded = self._house.worker.list_loaded()
        return JSONResponse({"models": [*map(ollama.describe_loaded, loaded)]})

    async def show_whole(self, request: Request) -> Response:
        """Shows one model as Ollama does."""
        return JSONResponse(ollama.describe_whole(await self._find_named(request)))

    async def pull(self, request: Request) -> Response:
        """Tells that a model is there; none is fetched."""
        await self._find_named(request)
        return JSONResponse({"status": "success"})

    async def _find_named(self, request: Request) -> Model:
        body = await asyncio.to_thread(read_body, await read_content(request))
        name = body.text("model") or body.text("name")
        if name is None:
            raise RefusedError(400, "`model` is missing")
        return await asyncio.to_thread(self._house.catalog.find, name)
