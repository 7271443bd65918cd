"""uvicorn in the caller's event loop: ready when entered, ended in order by leaving."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import anyio
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from agentdb_mcp.errors import ConfigurationError
from agentdb_mcp.logs import get_logger
from agentdb_mcp.web import explorer
from agentdb_mcp.web.state import State

log = get_logger(__name__)

# What an answer takes beyond the longest statement.
GRACE_S = 5
MONITOR_PATIENCE_S = 10.0
# Of what a page of the explorer sends.
WS_MAX_BYTES = 1_000_000


class _Protocol(H11Protocol):
    """Closes connections on which nothing happens: no request begins, or its answer is not taken.

    uvicorn itself would wait for the rest of a request's first line, and for a reader, as long as the client likes. Not
    on httptools, which is faster: it takes the body of a request that asks for an upgrade for a request of its own, and
    trailers for headers, so that a proxy in front could be led past.
    """

    # Twice this is the longest that a client may take for a request's head, or take nothing of an answer.
    patience_s: float
    _timer: asyncio.TimerHandle | None = None
    _seen: tuple[object, int] = (None, 0)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # (as uvicorn has it)
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.patience_s, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        protocol, waiting = self.transport.get_protocol(), self.transport.get_write_buffer_size()
        doing: object = protocol
        rests = True
        if protocol is self:
            doing, rests = self.cycle, self.cycle is None or self.cycle.response_complete
        elif getattr(protocol, "handshake_complete", True):  # a socket of the explorer's now, which has its own pings
            return
        if (doing, waiting) == self._seen and (rests or waiting):
            self.transport.abort()
            return
        self._seen = (doing, waiting)
        self._timer = self.loop.call_later(self.patience_s, self._look)


class _Server(uvicorn.Server):
    """Signals are ours; `ready` is set when it serves, or has given up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = anyio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextlib.asynccontextmanager
async def serve(app: FastAPI, host: str, port: int) -> AsyncIterator[str]:
    """Serve for the time of the block; gives the base URL. Raises ConfigurationError for an address that is taken.

    At the end no request is taken any more, and running statements get their time to finish.
    """
    state: State = app.state.serving
    longest = state.application.policy.limits.timeout_s
    proxies = state.application.settings.trusted_proxies
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        http=type("_Patient", (_Protocol,), {"patience_s": state.patience_s}),
        ws="websockets-sansio" if explorer.is_installed() else "none",
        ws_max_size=WS_MAX_BYTES,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        # Too soon, and a busy client's next request meets a connection that is just being closed.
        timeout_keep_alive=max(5, int(state.patience_s)),
        timeout_graceful_shutdown=int(longest) + GRACE_S,
    )

    def stop() -> None:
        state.stopping = True
        for endpoint in state.endpoints.values():
            endpoint.end_streams()

    async with _running(config, _listen(host, port, "--host {host} --port {port}"), stop) as url:
        yield url


@contextlib.asynccontextmanager
async def serve_monitor(app: ASGIApp, host: str, port: int, setting: str) -> AsyncIterator[str]:
    """Serve what a monitor asks for, for the time of the block; gives the base URL.

    Raises ConfigurationError naming the setting for an address that is taken.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        http=type("_Patient", (_Protocol,), {"patience_s": MONITOR_PATIENCE_S}),
        ws="none",
        lifespan="off",
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    async with _running(config, _listen(host, port, f"{setting}={{host}}:{{port}}"), lambda: None) as url:
        yield url


@contextlib.asynccontextmanager
async def _running(config: uvicorn.Config, listener: socket.socket, stop: Callable[[], None]) -> AsyncIterator[str]:
    server = _Server(config)

    async def run() -> None:
        with anyio.CancelScope(shield=True):  # also a cancelled caller's connections are closed in order
            await server.serve(sockets=[listener])
        server.ready.set()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        try:
            await server.ready.wait()
            if not server.started:
                raise ConfigurationError("The HTTP server did not start; the log tells why.")
            bound = listener.getsockname()
            yield f"http://{_host_in_url(bound[0])}:{bound[1]}"
        finally:
            stop()
            server.should_exit = True


def _listen(host: str, port: int, where: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigurationError(
            f"{where.format(host=host, port=port)} cannot be listened on: {error.strerror or 'no such address'}.",
            hint="Choose another port, or 0 for a free one.",
        ) from None
    # asyncio does so only for sockets made with IPPROTO_TCP: without it each answer waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _host_in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
