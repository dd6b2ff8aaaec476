"""A port is bound, answered on until somebody ends it, and given back; nothing is answered here."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tinyv_cli.errors import DeviceError, TinyvError, describe_os_error
from tinyv_cli.machine.memory import return_large_blocks
from tinyv_cli.serving.answering import House
from tinyv_cli.serving.dialects.asking import Asked
from tinyv_cli.serving.jobs import Ended, Event, Failed, Job

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_HEADER_S = 10.0  # in which a request's header has to have come
_MOST_UNASKED = 128  # connections on which no request has come yet
_MOST_CONNECTIONS = 512
_MAX_HEADER_BYTES = 64 << 10
_IDLE_S = 30  # of a connection: longer than clients keep one, lest they ask while it is closed
_LAST_WORDS_S = 2.0  # for telling those whose answers were cut off
_WARM_UP = Asked(model=None, question="what is this?", max_tokens=1)


class PatientProtocol(H11Protocol):
    """HTTP that waits for a header only so long; where too many are waited for, the oldest go."""

    _unasked: dict["PatientProtocol", asyncio.TimerHandle] = {}  # noqa: RUF012 - of all connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a header."""
        super().connection_made(transport)
        # asyncio does so only for sockets that name their protocol; else a head without its body
        # waits 40 ms for the client's acknowledgement.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wait_for_header()
        while len(self._unasked) > _MOST_UNASKED:
            next(iter(self._unasked))._give_up()

    def data_received(self, data: bytes) -> None:
        """Waits on where a header is not whole yet."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._forget()
        elif self not in self._unasked:
            self._wait_for_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no more."""
        self._forget()
        super().connection_lost(exc)

    def _wait_for_header(self) -> None:
        self._unasked[self] = self.loop.call_later(_HEADER_S, self._give_up)

    def _give_up(self) -> None:
        self._forget()
        self.transport.abort()

    def _forget(self) -> None:
        timer = self._unasked.pop(self, None)
        if timer is not None:
            timer.cancel()


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to its caller."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """Takes a port.

    Raises:
        DeviceError: it is taken, or the host is none of this computer.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        reason = describe_os_error(error) if isinstance(error, OSError) else str(error)
        raise DeviceError(
            f"port {port} of {host} cannot be taken: {reason}",
            f"take another one: `tinyv serve --port {min(port + 1, 65535)}`",
        ) from error


def serve(house: House, app: "ASGIApp", bound: socket.socket, grace_s: float) -> None:
    """Answers on a port until a signal ends it.

    Args:
        house: what requests share; its worker is started and ended here.
        app: answers requests.
        bound: the port.
        grace_s: how long answers under way may go on after the first signal.

    Raises:
        TinyvError: the default model cannot be loaded, or the worker died.
        KeyboardInterrupt: Ctrl-C ended it.
    """
    return_large_blocks()  # bodies of 30 MB come and go
    asyncio.run(_serve(house, app, bound, grace_s))


async def _serve(house: House, app: "ASGIApp", bound: socket.socket, grace_s: float) -> None:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int | TinyvError] = loop.create_future()

    def end(how: int | TinyvError) -> None:
        if ended.done():
            sys.stderr.flush()
            os._exit(0 if how == signal.SIGTERM else 130)  # the second signal: at once
        ended.set_result(how)

    def end_once(how: TinyvError) -> None:
        if not ended.done():
            ended.set_result(how)

    def end_soon(how: TinyvError) -> None:
        with suppress(RuntimeError):  # the loop has ended already
            loop.call_soon_threadsafe(end_once, how)

    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, end, number)
    death = DeviceError("the thread that computes has died", "see the lines above; start it again")
    house.worker.on_death = lambda: end_soon(death)
    house.worker.start()
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_IDLE_S,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve([bound]))
    warming = asyncio.create_task(_warm_up(house, end_soon))
    how = await ended
    house.is_draining = True
    warming.cancel()
    if isinstance(how, int):
        house.log(f"ending; answers under way have {grace_s:g} s")
        await _wait_for_answers(house, grace_s)
    await asyncio.to_thread(house.worker.end)
    await _wait_for_answers(house, _LAST_WORDS_S)
    server.should_exit = True
    await running
    if isinstance(how, TinyvError):
        raise how
    if how == signal.SIGINT:
        raise KeyboardInterrupt


async def _warm_up(house: House, fail: Any) -> None:  # noqa: ANN401
    """Lets the default model answer once; its failure is the server's."""
    events: asyncio.Queue[Event] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def tell(event: Event) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    try:
        job: Job = await house.begin(_WARM_UP, "", tell)
        while not isinstance(event := await events.get(), Ended | Failed):
            pass
    except TinyvError as error:
        fail(error)
        return
    if isinstance(event, Failed):
        fail(house.worker.find_breakage(job.prepared.model) or event.refusal)
    else:
        house.is_ready = True
        house.log(f"{job.prepared.model.name} is ready")


async def _wait_for_answers(house: House, most_s: float) -> None:
    """Waits until no answer is under way, or the time is over."""
    until_s = monotonic() + most_s
    while (house.n_answering or house.worker.n_waiting) and monotonic() < until_s:
        await asyncio.sleep(0.02)
