"""A client that goes away takes its statement with it; a server that is ended lets statements finish."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from serving import LEGACY, MODERN, SESSIONS, WAYS, Holder, execute, message_of, modern
from serving import request as message

if TYPE_CHECKING:
    from tests.acceptance.mcp_http.conftest import ServeHttp, Shared

Running = Callable[[str], Awaitable[bool]]
Until = Callable[..., Awaitable[None]]


def sleeping(seconds: int, mark: str) -> str:
    """A statement that is its own, so that nobody else's is taken for it."""
    return f"SELECT pg_sleep({seconds}) /* {mark} */"


def gone(running: Running, sql: str) -> Callable[[], Awaitable[bool]]:
    async def is_gone() -> bool:
        return not await running(sql)

    return is_gone


# The other two in `make mcp-clients`.
MOST_DIFFERENT = [
    pytest.param(way, marks=[] if way in {"stateless-json", "sessions-sse"} else pytest.mark.long) for way in WAYS
]


@pytest.mark.parametrize("version", [LEGACY, MODERN])
@pytest.mark.parametrize("way", WAYS)
async def test_a_statement_ends_with_the_connection_of_its_client(
    shared: Shared, holder: Holder, running: Running, until: Until, way: str, version: str
) -> None:
    server = await shared(way)
    sql = sleeping(14, f"{way} {version}")
    async with server.wire(holder) as wire:
        if version == LEGACY:
            await wire.initialize()
            body, headers = message("tools/call", execute(sql)), {}
        else:
            body, headers = modern("tools/call", execute(sql))
        async with anyio.create_task_group() as clients:
            clients.start_soon(lambda: wire.send(body, **headers))
            await until(lambda: running(sql))
            clients.cancel_scope.cancel()
    await until(gone(running, sql), within=12)
    async with server.wire(holder) as wire:
        await wire.initialize()
        assert not (await wire.sql("SELECT 1")).get("isError")


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize("way", MOST_DIFFERENT)
async def test_a_statement_ends_where_the_sdk_s_client_gives_up(
    shared: Shared, holder: Holder, running: Running, until: Until, way: str, mode: str
) -> None:
    server = await shared(way)
    sql = sleeping(14, f"{way} {mode}")
    async with server.client(holder, mode=mode) as client:
        async with anyio.create_task_group() as calls:
            calls.start_soon(client.call_tool, "execute_sql", {"sql": sql})
            await until(lambda: running(sql))
            calls.cancel_scope.cancel()
        if way in SESSIONS or mode == "auto":
            await until(gone(running, sql), within=12)
    # Without sessions nobody takes that era's notice, and its client keeps the connection until it ends itself.
    await until(gone(running, sql), within=12)


@pytest.mark.parametrize("way", MOST_DIFFERENT)
async def test_a_server_that_is_ended_answers_what_runs_and_leaves_nothing(
    serve_http: ServeHttp,
    holder: Holder,
    running: Running,
    until: Until,
    left_of: Callable[[int], list[str]],
    way: str,
) -> None:
    statements = {version: sleeping(2, f"{way} {version} finishes") for version in (LEGACY, MODERN)}
    answers: dict[str, Any] = {}
    async with serve_http(way) as server, server.wire(holder) as wire:
        await wire.initialize()

        async def call(version: str) -> None:
            body, headers = modern("tools/call", execute(statements[version]))
            if version == LEGACY:
                body, headers = message("tools/call", execute(statements[version])), {}
            answers[version] = message_of(await wire.send(body, **headers))

        async with AsyncExitStack() as streams, anyio.create_task_group() as group:
            if server.sessions:
                await streams.enter_async_context(wire.http.stream("GET", wire.path, headers=wire.session))
            for version in statements:
                group.start_soon(call, version)
            for version, sql in statements.items():  # a busy machine may have ended one before the other begins
                await until(lambda version=version, sql=sql: version in answers or running(sql))
            server.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(30):
            assert await server.process.wait() == 0
        with pytest.raises(httpx.ConnectError):
            await wire.send(message("ping"))
    for answer in answers.values():
        assert not answer["result"].get("isError")
        assert answer["result"]["structuredContent"]["row_count"] == 1
    assert len(answers) == 2
    assert left_of(server.process.pid) == []
    assert "Traceback" not in server.stderr()
