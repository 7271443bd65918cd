"""Sessions over HTTP: whose they are, how they end, and how many one token keeps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest
from serving import CANCELLED, SESSIONS, Holder, HttpServer, execute, message_of, request

if TYPE_CHECKING:
    from tests.acceptance.mcp_http.conftest import Shared

MOST = 100

pytestmark = pytest.mark.parametrize("way", SESSIONS)


@pytest.fixture
async def server(shared: Shared, way: str) -> HttpServer:
    return await shared(way)


async def test_a_session_ends_by_delete(server: HttpServer, holder: Holder) -> None:
    async with server.greeted(holder) as wire:
        assert (await wire.send(request("ping"))).status_code == 200
        assert (await wire.delete()).status_code == 200
        assert (await wire.send(request("ping"))).status_code == 404
        assert (await wire.delete()).status_code == 404


async def test_a_session_of_another_token_is_as_if_it_did_not_exist(server: HttpServer, holder: Holder) -> None:
    of_same_user = await server.token(holder.user_id, holder.workspace_id)
    stranger = await server.holder()
    async with server.greeted(holder) as wire:
        for other in (of_same_user, stranger):
            async with server.wire(other) as thief:
                thief.session = wire.session
                taken = await thief.send(request("tools/list"))
                assert (await thief.delete()).status_code == 404
                thief.session = wire.session | {"Mcp-Session-Id": "0" * 32}
                unknown = await thief.send(request("tools/list"))
            assert taken.status_code == unknown.status_code == 404
            assert taken.json() == unknown.json()
        assert (await wire.send(request("ping"))).status_code == 200


async def test_a_session_belongs_to_its_path(server: HttpServer, holder: Holder) -> None:
    async with server.greeted(holder) as wire:
        elsewhere = replace(wire, path="/mcp/global")
        assert (await elsewhere.send(request("ping"))).status_code == 404


async def test_a_session_ends_with_its_token(server: HttpServer, holder: Holder) -> None:
    token = await server.token(holder.user_id, holder.workspace_id)
    async with server.greeted(token) as wire:
        revoked = await server.backend.delete(f"/api/tokens/{token.token_id}")
        assert revoked.status_code == 204
        assert (await wire.send(request("ping"))).status_code == 401


async def test_a_request_that_opens_no_session_says_what_is_missing(server: HttpServer, holder: Holder) -> None:
    async with server.wire(holder) as wire:
        assert (await wire.send(request("tools/list"))).status_code == 400
        assert (await wire.delete()).status_code == 400
        assert (await wire.http.get(wire.path)).status_code == 400


async def test_a_cancelled_call_ends_its_statement(
    server: HttpServer,
    holder: Holder,
    running: Callable[[str], Awaitable[bool]],
    until: Callable[..., Awaitable[None]],
    way: str,
) -> None:
    sql = f"SELECT pg_sleep(14) /* {way} cancelled */"

    async def is_gone() -> bool:
        return not await running(sql)

    async with server.greeted(holder) as wire, anyio.create_task_group() as group:
        answers = []

        async def call() -> None:
            answers.append(message_of(await wire.send(request("tools/call", execute(sql), request_id=4711))))

        group.start_soon(call)
        await until(lambda: running(sql))
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 4711}}
        assert (await wire.send(cancelled)).status_code == 202
        await until(is_gone, within=12)
    assert answers[0]["error"]["code"] == CANCELLED


async def test_one_more_than_a_token_may_keep_ends_its_oldest_idle_session(server: HttpServer) -> None:
    greedy = await server.holder()
    async with AsyncExitStack() as stack:
        others = await stack.enter_async_context(server.greeted(await server.holder()))
        wire = await stack.enter_async_context(server.wire(greedy))
        sessions = []
        for _ in range(MOST):
            await wire.initialize()
            sessions.append(wire.session)

        async def status(number: int) -> int:
            wire.session = sessions[number]
            return (await wire.send(request("ping"))).status_code

        listening = wire.http.stream("GET", wire.path, headers=sessions[1])
        assert (await stack.enter_async_context(listening)).status_code == 200
        assert await status(0) == 200  # used last, so that the next is the oldest, which is not idle
        await wire.initialize()
        sessions.append(wire.session)
        assert [await status(number) for number in (0, 1, 2, 3, MOST)] == [200, 200, 404, 200, 200]
        assert (await others.send(request("ping"))).status_code == 200
