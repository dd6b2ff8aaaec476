"""Paths become what is answered on them."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tinyv_cli.serving.answering import Answers, House, Talk, read_content
from tinyv_cli.serving.catalog import Model
from tinyv_cli.serving.dialects import ollama, openai, responses
from tinyv_cli.serving.dialects.asking import Body, RefusedError, read_body
from tinyv_cli.serving.guard import EXAMPLES, Gate, Guard, make_error
from tinyv_cli.variants.miniature import list_examples

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_PAGE = Path(__file__).with_name("page")
_CSP = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


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
        EXAMPLES + "{name}": views.show_example,
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
    path = request.scope["path"]
    problem = "there is nothing at this path"
    if error.status_code == 405:
        problem = f"{request.method} is no method of this path"
    response = make_error(path, RefusedError(error.status_code, problem))
    response.headers.update(error.headers or {})
    return response


def _describe_refusal(request: Request, error: Exception) -> Response:
    """Lays out why there is no answer."""
    assert isinstance(error, RefusedError)
    return make_error(request.scope["path"], error)


def _describe_bug(request: Request, error: Exception) -> Response:
    """Tells of a bug, and nothing about it."""
    bug = RefusedError(500, "a bug in the server; its log says where")
    return make_error(request.scope["path"], bug)


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
        name = request.scope["path"].removeprefix("/") or "page.html"
        kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
        content = await asyncio.to_thread((_PAGE / name).read_bytes)
        headers = {"content-security-policy": _CSP}
        return Response(content, 200, headers, kinds[name.rpartition(".")[2]])

    async def show_example(self, request: Request) -> Response:
        """Shows one of the pictures that come along, for the page; its name is never a path."""
        name = request.path_params["name"]
        found = [each for each in await asyncio.to_thread(list_examples) if each.name == name]
        if not found:
            raise RefusedError(404, "there is no such picture")
        return Response(await asyncio.to_thread(found[0].read_bytes), media_type="image/png")

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
