"""Servers over HTTP, each started once where a test asks for it. Helper modules are imported by their plain names."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from agentdb_mcp.local_stack import LocalStack, local_stack
from processes import Launch

sys.path.insert(0, str(Path(__file__).parent))

from serving import SERVICE_KEY, SESSIONS, Holder, HttpServer, arguments, serving_at

ServeHttp = Callable[..., AbstractAsyncContextManager[HttpServer]]
Shared = Callable[[str], Awaitable[HttpServer]]


@pytest.fixture(scope="session")
async def stack(anyio_backend: str) -> AsyncIterator[LocalStack]:
    """Postgres, the local Neon API and a control database for all tests over HTTP."""
    async with local_stack() as running:
        yield running


@pytest.fixture(scope="session")
def serve_http(stack: LocalStack, forked: Launch, log_file: Callable[[], Path]) -> ServeHttp:
    """`async with serve_http(way, *arguments, **environment) as server`."""

    @asynccontextmanager
    async def run(way: str, *more: str, **environment: str) -> AsyncIterator[HttpServer]:
        log = log_file()
        environ = stack.environ() | {"AGENTDB_SERVICE_KEY": SERVICE_KEY} | environment
        async with forked(environ, log, *arguments(way, more)) as process:
            url = await serving_at(process, log)
            headers = {"Authorization": f"Bearer {SERVICE_KEY}"}
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as backend:
                yield HttpServer(url, process, log, way in SESSIONS, backend)

    return run


@pytest.fixture(scope="session")
async def shared(serve_http: ServeHttp) -> AsyncIterator[Shared]:
    """`await shared(way)`: the one server of that way, for tests that leave it as it was."""
    async with AsyncExitStack() as servers:
        running: dict[str, HttpServer] = {}

        async def server(way: str) -> HttpServer:
            if way not in running:
                running[way] = await servers.enter_async_context(serve_http(way))
            return running[way]

        yield server


@pytest.fixture(scope="session")
async def holder(shared: Shared) -> Holder:
    """Whoever's database may be used by any test, and whose token every server takes."""
    return await (await shared("stateless-json")).holder()


@pytest.fixture
async def outside(stack: LocalStack) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection, to see what runs."""
    connection = await asyncpg.connect(stack.postgres.uri().reveal())
    yield connection
    await connection.close()


@pytest.fixture
def running(outside: asyncpg.Connection) -> Callable[[str], Awaitable[bool]]:
    """`await running(sql)`: whether a statement of that text is being executed."""

    async def is_running(sql: str) -> bool:
        query = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query = $1 AND state = 'active')"
        return bool(await outside.fetchval(query, sql))

    return is_running
