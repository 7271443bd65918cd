"""uvicorn in the caller's event loop: ready when entered, ended in order by leaving."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import anyio
import uvicorn
from fastapi import FastAPI

from agentdb_mcp.errors import ConfigurationError
from agentdb_mcp.logs import get_logger
from agentdb_mcp.web import explorer
from agentdb_mcp.web.state import State

log = get_logger(__name__)

# What an answer takes beyond the longest statement.
GRACE_S = 5
# Of what a page of the explorer sends.
WS_MAX_BYTES = 1_000_000


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
    listener = _listen(host, port)
    longest = state.application.policy.limits.timeout_s
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        http="h11",  # whatever else is installed, one parser
        ws="websockets-sansio" if explorer.is_installed() else "none",
        ws_max_size=WS_MAX_BYTES,
        timeout_graceful_shutdown=int(longest) + GRACE_S,
    )
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
            yield f"http://{_host_in_url(host)}:{listener.getsockname()[1]}"
        finally:
            state.stopping = True
            for endpoint in state.endpoints.values():
                endpoint.end_streams()
            server.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigurationError(
            f"--host {host} --port {port} cannot be listened on: {error.strerror or 'no such address'}.",
            hint="Choose another port, or 0 for a free one.",
        ) from None
    # asyncio does so only for sockets made with IPPROTO_TCP: without it each answer waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _host_in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
