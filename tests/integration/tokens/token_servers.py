"""Server processes that know tokens, and what is done to them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
import asyncpg
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from agentdb_mcp.errors import (
    NotAuthenticated,
)
from agentdb_mcp.models import Secret, TokenScope
from agentdb_mcp.services import IssuedToken, Tokens
from agentdb_mcp.store import ControlDatabase, TokenRow, TokenStore

MCP = [TokenScope.MCP]
UNKNOWN = "adb_" + "A" * 43


class Clock:
    """The time of day, moved by hand, and the monotonic one beside it."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)
        self.seconds = 0.0

    def __call__(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.seconds


class Counting(TokenStore):
    """The real store; tells how often it was asked for a token, and can be held up once it has read one."""

    def __init__(self, control: ControlDatabase) -> None:
        super().__init__(control)
        self.lookups = 0
        self.after_reading: dict[Secret, Callable[[], Awaitable[None]]] = {}

    async def find_by_hash(self, token_hash: bytes) -> TokenRow | None:
        self.lookups += 1
        row = await super().find_by_hash(token_hash)
        for token, then in self.after_reading.items():
            if hashlib.sha256(token.reveal().encode()).digest() == token_hash:
                await then()
        return row


class Process:
    """What one server process has: connections, a store and `Tokens` of its own."""

    def __init__(self, uri: Secret, clock: Clock) -> None:
        self.control = ControlDatabase(uri)
        self.store = Counting(self.control)
        self.tokens = Tokens(self.store, clock, monotonic=clock.monotonic)

    async def accepts(self, issued: IssuedToken, *, source: str = "") -> bool:
        try:
            await self.tokens.authenticate(issued.token.reveal(), source=source)
        except NotAuthenticated:
            return False
        return True

    async def asks_nothing(self, issued: IssuedToken) -> bool:
        """Whether the token is accepted from memory."""
        before = self.store.lookups
        return await self.accepts(issued) and self.store.lookups == before


@asynccontextmanager
async def without_notices(upstream: int) -> AsyncIterator[tuple[int, anyio.Event]]:
    """A port before Postgres that withholds notices and is set off by the first one; nothing else is changed."""
    withheld = anyio.Event()

    async def questions(client: SocketStream, server: SocketStream) -> None:
        async for data in client:
            await server.send(data)
        await server.send_eof()

    async def serve(client: SocketStream) -> None:
        async with client, await anyio.connect_tcp("127.0.0.1", upstream) as server, anyio.create_task_group() as group:
            group.start_soon(questions, client, server)
            answers = BufferedByteReceiveStream(server)
            with contextlib.suppress(anyio.IncompleteRead, anyio.BrokenResourceError):
                while True:
                    head = await answers.receive_exactly(5)
                    body = await answers.receive_exactly(int.from_bytes(head[1:]) - 4)
                    if head[:1] == b"A":
                        withheld.set()
                    else:
                        await client.send(head + body)
            group.cancel_scope.cancel()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield listener.extra(SocketAttribute.local_port), withheld
        group.cancel_scope.cancel()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(30):
        while not await condition():
            await anyio.sleep(0.01)


async def remembered(process: Process, issued: IssuedToken) -> None:
    await until(lambda: process.asks_nothing(issued))


async def cut(superuser: asyncpg.Connection, uri: Secret, application_name: str | None = None) -> None:
    """End connections to the control database: those of the name, or all."""
    await superuser.fetch(
        "SELECT pg_terminate_backend(pid, 3000) FROM pg_stat_activity"
        " WHERE datname = $1 AND application_name = coalesce($2, application_name)",
        uri.reveal().rpartition("/")[2],
        application_name,
    )


async def refuses(process: Process, issued: IssuedToken) -> bool:
    return not await process.accepts(issued, source=issued.id)


@asynccontextmanager
async def closed_to_new_connections(superuser: asyncpg.Connection, uri: Secret) -> AsyncIterator[None]:
    name = uri.reveal().rpartition("/")[2]
    await superuser.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        yield
    finally:
        await superuser.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
