"""uvicorn inside the caller's event loop: no signal handlers, no access log, ready when entered."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from agentdb_mcp.neon_emulator.tasks import task_group

GRACE_S = 5
# Longer than clients keep one (httpx: 5 s), so that none is closed under the next request.
KEEP_ALIVE_S = 60
UNDO_S = 10


class _QuietProtocol(H11Protocol):
    """Without an access log (uvicorn's own setting is the whole process's), and able to drop a connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **options)
        self.access_log = False
        app = self.app

        async def with_abort(scope: Scope, receive: Receive, send: Send) -> None:
            scope["abort"] = self.transport.abort
            await app(scope, receive, send)

        self.app = with_abort


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = anyio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the caller."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


def listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2048)
    # asyncio does so only for sockets made with IPPROTO_TCP: without it each answer waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


@contextlib.asynccontextmanager
async def serve(app: Starlette, host: str, port: int) -> AsyncIterator[int]:
    """Serve for the time of the block; gives the port. Raises OSError when it is taken."""
    listener = listen(host, port)
    config = uvicorn.Config(
        app,
        http=_QuietProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=KEEP_ALIVE_S,
        server_header=False,
    )
    server = _Server(config)

    async def run() -> None:
        # Shielded, so that a cancelled caller too gets its connections closed in order.
        with anyio.CancelScope(shield=True):
            await server.serve(sockets=[listener])
            # Those that outlived the grace are cancelled by now, but may still be undoing their work.
            if tasks := set(server.server_state.tasks):
                await asyncio.wait(tasks, timeout=UNDO_S)

    async with task_group() as group:
        group.start_soon(run)
        try:
            await server.ready.wait()
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
