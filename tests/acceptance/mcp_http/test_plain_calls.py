"""Plain calls over HTTP go past the SDK: nobody can tell by the answers, and a session's walls are theirs."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest
from serving import CANCELLED, LEGACY, MODERN, Holder, HttpServer, Json, execute, request

from agentdb_mcp.mcp_server.http_sessions import MAX_SESSIONS

if TYPE_CHECKING:
    import httpx
    from tests.acceptance.mcp_http.conftest import Shared

IN_JSON = ["stateless-json", "sessions-json"]
THROUGH_THE_SDK: Json = {"_meta": {}}
MODERN_ERA = {"MCP-Protocol-Version": MODERN}  # which has no sessions

Running = Callable[[str], Awaitable[bool]]
Until = Callable[..., Awaitable[None]]


@pytest.fixture
async def server(shared: Shared, way: str) -> HttpServer:
    return await shared(way)


def without_chance(answer: httpx.Response) -> tuple[int, dict[str, str], str]:
    """What it says, without its own id, its time and the marks of its frames."""
    text = re.sub(r"untrusted-data-[0-9a-f]{16}", "mark", json.dumps(answer.json(), sort_keys=True))
    text = re.sub(r"\(\d+ ms\)", "(ms)", re.sub(r'"duration_ms": [0-9.]+', '"duration_ms"', text))
    headers = {
        name: value for name, value in answer.headers.items() if name not in {"x-request-id", "date", "content-length"}
    }
    return answer.status_code, headers, re.sub(r'"id": \d+', '"id"', text)


@pytest.mark.parametrize("way", IN_JSON)
@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/mcp", execute("SELECT 1 AS a, 'é\u2028' AS b")),
        ("/mcp", execute("SELECT 1") | {"arguments": {"sql": "SELECT 1", "database": "global"}}),
        ("/mcp/global", execute("SELECT 1")),
        ("/mcp/agent", execute("SELECT nothing")),
        ("/mcp/agent", {"name": "copy_rows", "arguments": {}}),
        ("/mcp/agent", {"name": "list_schemas"}),
        ("/mcp", {"name": "no_such_tool", "arguments": {}}),
        ("/mcp", {"name": "execute_sql", "arguments": None}),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
async def test_a_plain_call_gets_what_the_sdk_answers(
    server: HttpServer, holder: Holder, path: str, params: Json
) -> None:
    async with server.greeted(holder, path) as wire:
        for _ in range(2):  # of which the first may make and wake a database
            plain = await wire.send(request("tools/call", params))
        through = await wire.send(request("tools/call", params | THROUGH_THE_SDK))
    assert without_chance(plain) == without_chance(through)


@pytest.mark.parametrize("way", IN_JSON)
@pytest.mark.parametrize(
    "headers",
    [{"Accept": "text/event-stream"}, {"Content-Type": "text/plain"}, {"MCP-Protocol-Version": "1999-01-01"}],
    ids=str,
)
async def test_what_the_sdk_refuses_by_its_headers_is_refused(
    server: HttpServer, holder: Holder, headers: dict[str, str]
) -> None:
    async with server.greeted(holder) as wire:
        answer = await wire.send(request("tools/call", execute("SELECT 1")), **headers)
    assert 400 <= answer.status_code < 500
    assert '"result"' not in answer.text


@pytest.mark.parametrize("way", ["sessions-json"])
async def test_a_call_needs_its_session(server: HttpServer, holder: Holder) -> None:
    call = request("tools/call", execute("SELECT 1"))
    async with server.greeted(holder) as wire, server.wire(await server.holder()) as stranger:
        assert (await wire.send(call)).status_code == 200
        kept, wire.session = wire.session, {"MCP-Protocol-Version": LEGACY}
        assert (await wire.send(call)).status_code == 400
        stranger.session = kept
        assert (await stranger.send(call)).status_code == 404
        wire.session = kept
        assert (await wire.delete()).status_code == 200
        assert (await wire.send(call)).status_code == 404


@pytest.mark.parametrize("way", ["sessions-json"])
async def test_a_call_ends_with_its_session(server: HttpServer, holder: Holder, running: Running, until: Until) -> None:
    sql = "SELECT pg_sleep(25) /* in a session that ends */"
    answers: list[httpx.Response] = []

    async def is_gone() -> bool:
        return not await running(sql)

    async with server.greeted(holder) as wire, anyio.create_task_group() as group:

        async def call() -> None:
            answers.append(await wire.send(request("tools/call", execute(sql), request_id=4711)))

        group.start_soon(call)
        await until(lambda: running(sql))
        assert (await wire.delete()).status_code == 200
        await until(is_gone, within=12)
    assert answers[0].json()["error"]["code"] == CANCELLED


@pytest.mark.parametrize("way", ["sessions-json"])
async def test_nobody_else_ends_a_call(server: HttpServer, holder: Holder, running: Running, until: Until) -> None:
    sql = "SELECT pg_sleep(2) /* in a session that goes on */"
    answers: list[httpx.Response] = []
    async with (
        server.greeted(holder) as wire,
        server.wire(await server.holder()) as stranger,
        anyio.create_task_group() as group,
    ):

        async def call() -> None:
            answers.append(await wire.send(request("tools/call", execute(sql), request_id=4711)))

        group.start_soon(call)
        await until(lambda: running(sql))
        stranger.session = wire.session
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 4711}}
        assert (await stranger.send(cancelled)).status_code == 404
        assert (await stranger.delete()).status_code == 404
        assert (await replace(wire, session=wire.session | MODERN_ERA).delete()).status_code == 405
    assert answers[0].json()["result"]["isError"] is False


@pytest.mark.parametrize("way", ["sessions-json"])
async def test_a_session_that_was_not_ended_still_counts(server: HttpServer) -> None:
    greedy = await server.holder()
    async with server.greeted(greedy) as wire:
        first = wire.session
        assert (await replace(wire, session=first | MODERN_ERA).delete()).status_code == 405
        for _ in range(MAX_SESSIONS):
            await wire.initialize()
        wire.session = first
        assert (await wire.send(request("ping"))).status_code == 404


@pytest.mark.parametrize("way", ["sessions-json"])
async def test_calls_of_the_same_id_all_end_with_their_session(
    server: HttpServer, holder: Holder, running: Running, until: Until
) -> None:
    statements = [f"SELECT pg_sleep(25) /* twice the same id, {number} */" for number in range(2)]
    answers: list[httpx.Response] = []

    async def are_gone() -> bool:
        return not any([await running(sql) for sql in statements])

    async with server.greeted(holder) as wire, anyio.create_task_group() as group:

        async def call(sql: str) -> None:
            answers.append(await wire.send(request("tools/call", execute(sql), request_id=4711)))

        for sql in statements:
            group.start_soon(call, sql)
            await until(partial(running, sql))
        assert (await wire.delete()).status_code == 200
        await until(are_gone, within=12)
    assert [answer.json()["error"]["code"] for answer in answers] == [CANCELLED] * 2


@pytest.mark.parametrize("way", ["sessions-json"])
async def test_a_call_is_cancelled_however_its_message_is_written(
    server: HttpServer, holder: Holder, running: Running, until: Until
) -> None:
    sql = "SELECT pg_sleep(25) /* cancelled by a client that escapes slashes */"
    message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 4712}}
    answers: list[httpx.Response] = []
    async with server.greeted(holder) as wire, anyio.create_task_group() as group:

        async def call() -> None:
            answers.append(await wire.send(request("tools/call", execute(sql), request_id=4712)))

        group.start_soon(call)
        await until(lambda: running(sql))
        assert (await wire.send(json.dumps(message).replace("/", r"\/"))).status_code == 202
        await until(lambda: bool(answers), within=12)
    assert answers[0].json()["error"]["code"] == CANCELLED


@pytest.mark.parametrize("way", IN_JSON)
async def test_a_client_that_goes_away_ends_its_plain_call(
    server: HttpServer, holder: Holder, running: Running, until: Until, way: str
) -> None:
    sql = f"SELECT pg_sleep(25) /* of whom goes away, {way} */"

    async def is_gone() -> bool:
        return not await running(sql)

    async with server.greeted(holder) as wire, anyio.create_task_group() as group:
        group.start_soon(wire.send, request("tools/call", execute(sql)))
        await until(lambda: running(sql))
        group.cancel_scope.cancel()
    await until(is_gone, within=12)
