"""The greeting, the tools and plain calls go past the SDK: nobody can tell by the answers."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from agentdb_mcp.local_stack import LocalStack

if TYPE_CHECKING:
    from tests.acceptance.conftest import Serve, ServeFactory

# With it the SDK takes a call.
THROUGH_THE_SDK: dict[str, Any] = {"_meta": {}}


@pytest.fixture(scope="module")
async def server(serve: ServeFactory, stack: LocalStack) -> AsyncIterator[Serve]:
    async with serve({"AGENT_DB_URL": stack.postgres.uri().reveal()}) as server:
        yield server


def without_chance(answer: dict[str, Any]) -> Any:
    """Without what differs from call to call: its number, its time, the marks of its frames and its handle."""
    text = json.dumps(answer["result"] if "result" in answer else answer["error"], sort_keys=True)
    text = re.sub(r"untrusted-data-[0-9a-f]{16}", "mark", text)
    text = re.sub(r"handle [A-Za-z0-9_-]+\.", "handle ", re.sub(r'"next_handle": "[^"]*"', '"next_handle"', text))
    return re.sub(r"\(\d+ ms\)", "(ms)", re.sub(r'"duration_ms": [0-9.]+', '"duration_ms"', text))


@pytest.mark.parametrize(
    "params",
    [
        {"name": "execute_sql", "arguments": {"sql": "SELECT 1 AS a, NULL AS b, 'é\u2028\"\\' AS c, 1.5::float8"}},
        {"name": "execute_sql", "arguments": {"sql": "SELECT $1::numeric", "params": [123456789012345678901234567890]}},
        {"name": "execute_sql", "arguments": {"sql": "SELECT '{\"a\": 123456789012345678901234567890}'::json AS j"}},
        {"name": "execute_sql", "arguments": {"sql": "SELECT repeat('[', 300) || repeat(']', 300) AS deep"}},
        {"name": "execute_sql", "arguments": {"sql": "SELECT (repeat('[', 300) || repeat(']', 300))::json AS deep"}},
        {"name": "execute_sql", "arguments": {"sql": "SELECT i FROM generate_series(1, 30) AS i", "max_rows": 10}},
        {"name": "execute_sql", "arguments": {"sql": "SELECT nothing"}},
        {"name": "execute_sql", "arguments": {"sql": "SELECT 1", "database": "nowhere"}},
        {"name": "execute_sql", "arguments": {}},
        {"name": "execute_sql"},
        {"name": "get_budget"},
        {"name": "no_such_tool", "arguments": {}},
        {"name": "execute_sql", "arguments": None},
        {"name": "execute_sql", "arguments": []},
    ],
    ids=lambda params: json.dumps(params)[:60],
)  # fmt: skip
async def test_a_plain_call_gets_what_the_sdk_answers(server: Serve, params: dict[str, Any]) -> None:
    plain = await server.request("tools/call", params)
    through = await server.request("tools/call", params | THROUGH_THE_SDK)
    assert without_chance(plain) == without_chance(through)


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_every_version_with_a_handshake_is_answered_in_its_own_shape(
    serve: ServeFactory, stack: LocalStack, version: str
) -> None:
    async with serve({"AGENT_DB_URL": stack.postgres.uri().reveal()}, greet=False) as server:
        assert (await server.initialize(version))["protocolVersion"] == version
        params = {"name": "execute_sql", "arguments": {"sql": "SELECT 1"}}
        plain = await server.request("tools/call", params)
        through = await server.request("tools/call", params | THROUGH_THE_SDK)
    assert without_chance(plain) == without_chance(through)


@pytest.mark.parametrize("identifier", [2_000_001, "a name", "7", ""])
async def test_an_answer_has_its_requests_id_and_a_cancelled_call_has_none(
    server: Serve, identifier: int | str
) -> None:
    def call(sql: str) -> str:
        params = {"name": "execute_sql", "arguments": {"sql": sql}}
        return json.dumps({"jsonrpc": "2.0", "id": identifier, "method": "tools/call", "params": params})

    await server.write(call("SELECT pg_sleep(20)"))
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": identifier}}
    await server.write(json.dumps(cancelled))
    await server.write(call("SELECT 7 AS seven"))
    answer = await server.receive(identifier)
    assert answer["result"]["structuredContent"]["rows"] == [[7]]


GREETING: dict[str, Any] = {"capabilities": {"roots": {}}, "clientInfo": {"name": "acceptance", "version": "1"}}


@pytest.mark.parametrize("version", ["2024-11-05", "2025-06-18", "2025-11-25", "1999-01-01"])
async def test_a_greeting_is_answered_as_the_sdk_answers(serve: ServeFactory, stack: LocalStack, version: str) -> None:
    answers: list[list[dict[str, Any]]] = []
    for more in ({}, THROUGH_THE_SDK):
        async with serve({"AGENT_DB_URL": stack.postgres.uri().reveal()}, greet=False) as server:
            hello = await server.request("initialize", GREETING | more | {"protocolVersion": version})
            await server.write(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}))
            others = [await server.request(method, more or None) for method in ("tools/list", "ping", "prompts/list")]
            answers.append([answer["result"] for answer in (hello, *others)])
    assert answers[0] == answers[1]


async def test_the_sdk_may_come_between_the_halves_of_a_greeting(serve: ServeFactory, stack: LocalStack) -> None:
    async with serve({"AGENT_DB_URL": stack.postgres.uri().reveal()}, greet=False) as server:
        await server.request("initialize", GREETING | {"protocolVersion": "2025-11-25"})
        assert (await server.request("prompts/list"))["result"]["prompts"]
        await server.write(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        assert (await server.request("resources/list"))["result"]["resources"]
        assert not (await server.request("tools/call", {"name": "get_budget"}))["result"]["isError"]


@pytest.mark.parametrize("method", ["tools/list", "tools/call", "prompts/list"])
async def test_whoever_does_not_greet_is_refused(serve: ServeFactory, stack: LocalStack, method: str) -> None:
    async with serve({"AGENT_DB_URL": stack.postgres.uri().reveal()}, greet=False) as server:
        assert (await server.request(method, {"name": "get_budget"}))["error"]["code"] == -32602
        await server.initialize()
        assert not (await server.call("get_budget")).is_error


CLIENT: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "acceptance", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
}


async def test_requests_that_stand_for_themselves_are_answered_as_the_sdk_answers(
    serve: ServeFactory, stack: LocalStack
) -> None:
    """With anything else in `_meta` they are the SDK's."""
    requests = [
        ("server/discover", {}),
        ("tools/list", {}),
        ("tools/list", {"cursor": "x"}),
        ("tools/call", {"name": "execute_sql", "arguments": {"sql": "SELECT 1 AS a"}}),
        ("tools/call", {"name": "execute_sql", "arguments": {"sql": "SELECT nothing"}}),
        ("tools/call", {"name": "get_budget"}),
        ("tools/call", {"name": "no_such_tool"}),
        ("prompts/list", {}),
        ("ping", {}),
        ("tools/list", None),
    ]
    answers: list[list[Any]] = []
    for more in ({}, {"example.com/other": "x"}):
        async with serve({"AGENT_DB_URL": stack.postgres.uri().reveal()}, greet=False) as server:
            given = [params if params is None else params | {"_meta": CLIENT | more} for _, params in requests]
            asked = [await server.request(method, params) for (method, _), params in zip(requests, given, strict=True)]
            answers.append([without_chance(answer) for answer in asked])
    assert answers[0] == answers[1]
    assert "supportedVersions" in answers[0][0]


@pytest.mark.parametrize(
    "changed",
    [
        {"io.modelcontextprotocol/protocolVersion": "2027-01-01"},
        {"io.modelcontextprotocol/clientCapabilities": None},
        {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": 5}}},
        {"io.modelcontextprotocol/clientInfo": {"name": "acceptance"}},
        {"io.modelcontextprotocol/clientInfo": {"name": "acceptance", "version": "1", "title": 5}},
    ],
    ids=["version", "no capabilities", "odd capabilities", "no version", "odd title"],
)
async def test_a_request_that_stands_for_itself_badly_is_refused_as_the_sdk_refuses(
    serve: ServeFactory, stack: LocalStack, changed: dict[str, Any]
) -> None:
    async with serve({"AGENT_DB_URL": stack.postgres.uri().reveal()}, greet=False) as server:
        assert "result" in await server.request("server/discover", {"_meta": CLIENT})
        assert "error" in await server.request("tools/list", {"_meta": CLIENT | changed})
        assert "result" in await server.request("tools/list", {"_meta": CLIENT})


@pytest.mark.parametrize("first", ["server/discover", "tools/list"])
async def test_one_request_that_says_nothing_of_its_client_does_not_spoil_the_others(
    serve: ServeFactory, stack: LocalStack, first: str
) -> None:
    async with serve({"AGENT_DB_URL": stack.postgres.uri().reveal()}, greet=False) as server:
        assert "result" in await server.request(first, {"_meta": CLIENT})
        for params in ({}, None):
            assert (await server.request("ping", params))["error"]["code"] == -32602
        for method in ("resources/list", "prompts/list", "tools/list"):
            assert "result" in await server.request(method, {"_meta": CLIENT | {"example.com/other": "x"}})
            assert "result" in await server.request(method, {"_meta": CLIENT})


async def test_a_greeting_that_says_it_all_is_a_greeting(serve: ServeFactory, stack: LocalStack) -> None:
    async with serve({"AGENT_DB_URL": stack.postgres.uri().reveal()}, greet=False) as server:
        hello = GREETING | {"protocolVersion": "2025-11-25", "_meta": CLIENT}
        assert "result" in await server.request("initialize", hello)
        assert (await server.request("tools/list", {"_meta": CLIENT}))["error"]["code"] == -32600


async def test_a_client_that_looked_first_may_greet_all_the_same(serve: ServeFactory, stack: LocalStack) -> None:
    async with serve({"AGENT_DB_URL": stack.postgres.uri().reveal()}, greet=False) as server:
        assert "result" in await server.request("server/discover", {"_meta": CLIENT})
        assert (await server.initialize("2025-11-25"))["protocolVersion"] == "2025-11-25"
        answer = await server.request("tools/call", {"name": "get_budget"})
        assert not answer["result"]["isError"]
        assert "resultType" not in answer["result"]
