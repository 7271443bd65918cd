"""MCP over HTTP on the wire: who may ask, what is malformed, and many clients at once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from serving import (
    LEGACY,
    MODERN,
    SERVICE_KEY,
    STATELESS,
    WAYS,
    Holder,
    HttpServer,
    execute,
    message_of,
    modern,
    request,
)

if TYPE_CHECKING:
    from tests.acceptance.mcp_http.conftest import Shared

Status = tuple[int, str]
PATHS = ["/mcp", "/mcp/agent", "/mcp/global"]
MIB = 1024 * 1024
MALFORMED = ("", "\0", "no json", "{", "[" * 100_000, '"x"', "null", "{}", '{"jsonrpc": "1.0", "id": 1}')


@pytest.fixture
async def server(shared: Shared) -> HttpServer:
    return await shared("stateless-json")


def refusal(answer: httpx.Response) -> Status:
    """The status and code of an answer in the shape of all routes."""
    error = answer.json()["error"]
    assert error["message"]
    assert error["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, error["code"]


# --- who may ask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
@pytest.mark.parametrize("path", PATHS)
async def test_nobody_is_answered_without_a_token(server: HttpServer, path: str, method: str) -> None:
    async with server.wire(None, path) as wire:
        answer = await wire.http.request(method, path)
    assert refusal(answer) == (401, "not_authenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_token_that_never_was_is_refused(server: HttpServer) -> None:
    async with server.wire(Holder("", "", "adb_" + "x" * 43, "")) as wire:
        answer = await wire.send(request("tools/list"))
    assert refusal(answer) == (401, "not_authenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_token_is_refused_once_it_is_revoked(server: HttpServer, holder: Holder) -> None:
    token = await server.token(holder.user_id, holder.workspace_id)
    async with server.wire(token) as wire:
        assert (await wire.send(request("tools/list"))).status_code == 200
        await server.backend.delete(f"/api/tokens/{token.token_id}")
        answer = await wire.send(request("tools/list"))
    assert refusal(answer) == (401, "not_authenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_token_is_refused_once_it_has_expired(
    server: HttpServer, holder: Holder, until: Callable[..., Awaitable[None]]
) -> None:
    token = await server.token(holder.user_id, holder.workspace_id, expires_in=1)
    async with server.wire(token) as wire:

        async def is_refused() -> bool:
            return (await wire.send(request("tools/list"))).status_code == 401

        await until(is_refused)


async def test_a_token_without_the_scope_is_refused(server: HttpServer, holder: Holder) -> None:
    explorer = await server.token(holder.user_id, holder.workspace_id, scopes=["explorer"])
    admin = await server.token(holder.user_id, None, scopes=["admin"])
    for other in (explorer, admin, Holder("", "", SERVICE_KEY, "")):
        async with server.wire(other) as wire:
            assert refusal(await wire.send(request("tools/list"))) == (403, "not_allowed")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
    ids=str,
)
async def test_other_hosts_and_origins_are_refused(server: HttpServer, holder: Holder, headers: dict[str, str]) -> None:
    async with server.wire(holder) as wire:
        assert refusal(await wire.send(request("tools/list"), **headers)) == (403, "not_allowed")


async def test_a_page_of_the_server_itself_may_ask(server: HttpServer, holder: Holder) -> None:
    async with server.wire(holder) as wire:
        assert (await wire.send(request("tools/list"), Origin=server.url)).status_code == 200


# --- what is malformed ------------------------------------------------------------------------------------------------


async def chunks(total: int) -> AsyncIterator[bytes]:
    for _ in range(total // MIB):
        yield b" " * MIB


async def test_a_body_that_is_too_long_is_refused(server: HttpServer, holder: Holder) -> None:
    async with server.wire(holder) as wire:
        told = await wire.http.post(wire.path, content=b" " * (4 * MIB + 1))
        untold = await wire.http.post(wire.path, content=chunks(5 * MIB))
    assert refusal(told) == refusal(untold) == (413, "result_too_large")


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
@pytest.mark.parametrize("way", STATELESS)
async def test_without_sessions_there_is_nothing_but_post(
    shared: Shared, holder: Holder, way: str, method: str
) -> None:
    async with (await shared(way)).wire(holder) as wire:
        answer = await wire.http.request(method, wire.path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("version", [LEGACY, MODERN])
@pytest.mark.parametrize("way", WAYS)
async def test_what_is_no_request_is_answered_as_such(shared: Shared, holder: Holder, way: str, version: str) -> None:
    async with (await shared(way)).wire(holder) as wire:
        await wire.initialize()
        headers = {"MCP-Protocol-Version": version}
        batch = json.dumps([request("ping"), request("ping")])
        for body in (
            "no json",
            "{",
            "[" * 100_000,
            '"x"',
            "null",
            "{}",
            '{"jsonrpc": "1.0", "id": 1}',
            batch,
            "\0",
            "",
        ):
            answer = await wire.send(body, **headers)
            assert answer.status_code == 400, body[:40]
            error = answer.json()["error"]
            assert error["code"] in (-32700, -32600, -32602), body[:40]
            assert "Traceback" not in answer.text
        assert not (await wire.sql("SELECT 1")).get("isError")


@pytest.mark.parametrize("way", WAYS)
async def test_unknown_methods_and_tools_are_protocol_errors(shared: Shared, holder: Holder, way: str) -> None:
    unknown: list[tuple[str, dict[str, Any], int]] = [
        ("tools/none", {}, -32601),
        ("tools/call", {"name": "no_such_tool", "arguments": {}}, -32602),
        ("tools/call", {"name": "execute_sql", "arguments": []}, -32602),
        ("tools/call", {"arguments": {}}, -32602),
    ]
    async with (await shared(way)).wire(holder) as wire:
        await wire.initialize()
        for method, params, code in unknown:
            assert (await wire.call(method, params))["error"]["code"] == code
            body, headers = modern(method, params)
            assert message_of(await wire.send(body, **headers))["error"]["code"] == code


@pytest.mark.parametrize("version", ["2024-01-01", "nonsense"])
async def test_a_version_that_nobody_speaks_is_refused(server: HttpServer, holder: Holder, version: str) -> None:
    async with server.wire(holder) as wire:
        answer = await wire.send(request("tools/list"), **{"MCP-Protocol-Version": version})
    assert answer.status_code == 400
    assert "error" in answer.json()


# --- many -------------------------------------------------------------------------------------------------------------


async def test_any_process_answers_a_client_that_another_one_greeted(shared: Shared) -> None:
    first, second = await shared("stateless-json"), await shared("stateless-sse")
    token = await first.holder()
    async with first.wire(token) as here, second.wire(token) as there:
        await here.initialize()
        await here.sql("CREATE TABLE moved (id int)")
        there.session = here.session
        assert (await there.sql("INSERT INTO moved VALUES (7)"))["structuredContent"]["command_tag"] == "INSERT 0 1"
        assert (await here.sql("SELECT id FROM moved"))["structuredContent"]["rows"] == [[7]]


@pytest.mark.parametrize(("way", "mode"), [("stateless-json", "auto"), ("sessions-sse", "legacy")])
async def test_fifty_clients_at_once_get_each_its_own_answer(shared: Shared, way: str, mode: str) -> None:
    server = await shared(way)
    holders = [await server.holder() for _ in range(2)]
    answers: dict[int, Any] = {}

    async def work(number: int) -> None:
        async with server.client(holders[number % 2], mode=mode) as client:
            assert len((await client.list_tools()).tools) >= 6
            answers[number] = await client.call_tool("execute_sql", {"sql": "SELECT $1::int", "params": [number]})

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(work, number)
    assert {number: answer.structured_content["rows"] for number, answer in answers.items()} == {
        number: [[number]] for number in range(50)
    }


async def test_a_tenant_reaches_no_other_tenant_s_database(server: HttpServer, holder: Holder) -> None:
    stranger = await server.holder()
    async with server.wire(holder) as mine, server.wire(stranger) as theirs:
        await mine.sql("CREATE TABLE IF NOT EXISTS mine_alone (id int)")
        answer = await theirs.call("tools/call", execute("SELECT * FROM mine_alone"))
        assert answer["result"]["structuredContent"]["error"]["sqlstate"] == "42P01"
