"""MCP on the wire: both eras of the protocol, what is malformed, and that listing tools costs nothing."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from jsonschema import Draft202012Validator
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from agentdb_mcp.local_stack import LocalStack

if TYPE_CHECKING:
    from tests.acceptance.conftest import Serve, ServeFactory


@pytest.fixture(scope="session")
def serve(fresh_serve: ServeFactory) -> ServeFactory:
    """Each starts from nothing."""
    return fresh_serve


class Listener:
    """A port that counts who comes, and answers nobody."""

    def __init__(self) -> None:
        self.visits = 0
        self.port = 0

    def visited(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        writer.close()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    listener = Listener()
    server = await asyncio.start_server(listener.visited, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    yield listener
    server.close()
    await server.wait_closed()


def nowhere(port: int) -> dict[str, str]:
    """All settings that could make a server connect, pointing to one port."""
    return {
        "AGENTDB_CONTROL_URL": f"postgresql://u:p@127.0.0.1:{port}/control?sslmode=disable",
        "AGENTDB_ENCRYPTION_KEYS": "0" * 64,
        "NEON_API_HOST": f"http://127.0.0.1:{port}/api/v2",
        "NEON_API_KEY": "no-key",
        "AGENTDB_USER_ID": "listed",
        "AGENTDB_WORKSPACE_ID": "listed",
    }


@pytest.mark.parametrize("plain", [False, True], ids=["control database and Neon", "plain URLs too"])
async def test_listing_tools_and_refusing_arguments_open_no_connection(
    serve: ServeFactory, listener: Listener, plain: bool
) -> None:
    url = f"postgresql://u:p@127.0.0.1:{listener.port}/x?sslmode=disable"
    urls = {"AGENT_DB_URL": url, "GLOBAL_DB_URL": url} if plain else {}
    async with serve(nowhere(listener.port) | urls) as server:
        await server.request("tools/list")
        await server.request("ping")
        assert (await server.call("execute_sql", sql=1)).code == "invalid_argument"
        assert (await server.call("execute_sql", sql="")).code == "invalid_argument"
        assert "error" in await server.request("tools/call", {"name": "nothing", "arguments": {}})
        assert await server.end() == 0
    assert listener.visits == 0


async def test_a_call_does_connect_and_a_dead_control_database_is_a_tool_error(
    serve: ServeFactory, listener: Listener
) -> None:
    async with serve(nowhere(listener.port)) as server:
        answer = await server.refused("SELECT 1")
        assert answer.code == "database_unavailable"
        assert answer.error["hint"]
    assert listener.visits > 0


@asynccontextmanager
async def connected(environ: dict[str, str], log: Path, **options: Any) -> AsyncIterator[Client]:
    """The SDK's own client."""
    parameters = StdioServerParameters(command=sys.executable, args=["-m", "agentdb_mcp", "serve"], env=environ)
    with log.open("w") as errors:
        async with Client(stdio_client(parameters, errlog=errors), **options) as client:
            yield client


@pytest.mark.parametrize(
    ("mode", "version"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")], ids=["stateless", "initialize"]
)
async def test_the_sdk_s_client_works_in_both_eras(
    tenant: Callable[..., dict[str, str]], tmp_path: Path, mode: str, version: str
) -> None:
    async with connected(tenant("sdk", "sdk"), tmp_path / "log", mode=mode) as client:
        assert client.protocol_version == version
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        answer = await client.call_tool("execute_sql", {"sql": "SELECT $1::int AS n", "params": [7]})
        assert not answer.is_error
        assert answer.structured_content is not None
        assert answer.structured_content["rows"] == [[7]]
        wrong = await client.call_tool("execute_sql", {"sql": "SELECT"[:3]})
        assert wrong.is_error
        assert wrong.structured_content is not None
        assert wrong.structured_content["error"]["sqlstate"] == "42601"
        output_schema = tools["execute_sql"].output_schema
        assert output_schema is not None
        for given in (answer, wrong):
            Draft202012Validator(output_schema).validate(given.structured_content)
        with pytest.raises(Exception, match="nothing_of_ours"):
            await client.call_tool("nothing_of_ours", {})


@pytest.mark.parametrize("version", ["2024-11-05"])
async def test_initialize_agrees_on_the_version_that_the_client_speaks(
    serve: ServeFactory, tenant: Callable[..., dict[str, str]], version: str
) -> None:
    async with serve(tenant("shared-user", "shared-workspace"), greet=False) as server:
        hello = await server.request(
            "initialize",
            {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
        )
        result = hello["result"]
        assert result["protocolVersion"] == version
        assert "tools" in result["capabilities"]
        assert result["serverInfo"]["name"] == "agentdb-mcp"
        assert result["serverInfo"]["version"]
        assert result["instructions"]


async def test_an_unknown_tool_is_a_protocol_error(agent: Serve) -> None:
    message = await agent.request("tools/call", {"name": "no_such_tool", "arguments": {}})
    assert message["error"]["code"] == -32602
    assert "no_such_tool" in message["error"]["message"]


@pytest.mark.parametrize(
    "params",
    [
        None,
        {},
        {"name": 7},
        {"name": "execute_sql", "arguments": []},
        {"name": "execute_sql", "arguments": "SELECT 1"},
        {"arguments": {"sql": "SELECT 1"}},
    ],
)
async def test_a_malformed_call_is_a_protocol_error(agent: Serve, params: Any) -> None:
    message = await agent.request("tools/call", params)
    assert message["error"]["code"] == -32602


async def test_an_unknown_method_is_a_protocol_error(agent: Serve) -> None:
    assert (await agent.request("tools/none"))["error"]["code"] == -32601


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "{",
        "[]",
        '"x"',
        "null",
        "{}",
        '{"jsonrpc": "1.0", "id": 1, "method": "ping"}',
        "",
        "\x00\x01",
        "[" * 9999,
    ],
)
async def test_a_line_that_is_no_request_does_not_stop_the_server(agent: Serve, line: str) -> None:
    await agent.write(line)
    assert (await agent.sql("SELECT 1")).rows == [[1]]


async def test_bytes_that_are_no_text_do_not_stop_the_server(agent: Serve) -> None:
    assert agent.process.stdin is not None
    agent.process.stdin.write(b'\xff\xfe{"jsonrpc"\n')
    assert (await agent.sql("SELECT 1")).rows == [[1]]


async def test_a_request_over_the_longest_line_does_not_stop_the_server(agent: Serve) -> None:
    await agent.write("x" * 40_000_000)
    assert (await agent.sql("SELECT 1")).rows == [[1]]


async def test_a_cancelled_call_ends_its_statement(
    agent: Serve, stack: LocalStack, until: Callable[..., Awaitable[None]]
) -> None:
    outside = await asyncpg.connect(stack.postgres.uri().reveal())
    request = await agent.send_call("execute_sql", sql="SELECT pg_sleep(25)")

    async def is_running() -> bool:
        sql = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(25)' AND state = 'active'"
        return bool(await outside.fetchval(sql))

    async def is_gone() -> bool:
        return not await is_running()

    await until(is_running)
    cancelled = {"method": "notifications/cancelled", "params": {"requestId": request, "reason": "enough"}}
    await agent.write(json.dumps({"jsonrpc": "2.0"} | cancelled))
    await until(is_gone, within=12)
    await outside.close()
    assert (await agent.sql("SELECT 1")).rows == [[1]]


async def test_stdout_carries_nothing_but_mcp_with_debug_logs_and_tools_list_provisions_nothing(
    serve: ServeFactory, tenant: Callable[..., dict[str, str]], projects: Callable[[], Awaitable[list[str]]]
) -> None:
    async with serve(tenant("debug", "debugged", AGENTDB_LOG="debug")) as server:
        assert "agent-debugged" not in await projects()
        await server.sql("SELECT 1")
        assert "agent-debugged" in await projects()
        assert "global-debug" not in await projects()
        await server.refused("SELECT nothing")
        assert server.stderr()
        assert await server.end() == 0
        assert server.process.stdout is not None
        assert await server.process.stdout.read() == b""
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in server.wire)
