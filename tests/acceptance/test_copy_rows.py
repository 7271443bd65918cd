"""`copy_rows` as an agent calls it: answers, progress, and processes that are ended in its midst."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentdb_mcp.local_stack import LocalStack
from copying_sides import STALLING, Outside, outside

if TYPE_CHECKING:
    from tests.acceptance.conftest import Serve, ServeFactory

MEGABYTE = 1024 * 1024
Tenants = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
async def target(agent: Serve, stack: LocalStack) -> AsyncIterator[Outside]:
    """The global database of the shared agent's user."""
    ((name,),) = (await agent.sql("SELECT current_database()", database="global")).rows
    async with outside(stack.postgres, name) as seen:
        yield seen


@pytest.fixture(scope="module")
async def source(agent: Serve, stack: LocalStack) -> AsyncIterator[Outside]:
    ((name,),) = (await agent.sql("SELECT current_database()")).rows
    async with outside(stack.postgres, name) as seen:
        yield seen


def copying(query: str, table: str, mode: str = "create", **more: Any) -> dict[str, Any]:
    return {"from_database": "agent", "query": query, "to_table": table, "mode": mode} | more


async def with_progress(server: Serve, token: Any, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """A call that must succeed, and what was notified in its course."""
    begin = len(server.wire)
    params = {"name": "copy_rows", "arguments": arguments, "_meta": {"progressToken": token}}
    answer = await server.request("tools/call", params)
    assert not answer["result"]["isError"]
    messages = [json.loads(line) for line in server.wire[begin:]]
    assert "method" not in messages[-1], "nothing is notified after the answer"
    return [each["params"] for each in messages if each.get("method") == "notifications/progress"]


async def test_rows_are_copied_and_the_answer_says_what_came_to_be(agent: Serve) -> None:
    await agent.sql("CREATE TABLE orders AS SELECT i AS id, 'item ' || i AS item FROM generate_series(1, 2500) AS i")
    answer = await agent.call("copy_rows", **copying("SELECT * FROM orders WHERE id > 500;", "orders"))
    assert not answer.is_error
    assert answer.fields["rows"] == 2000
    assert (answer.fields["database"], answer.fields["table"]) == ("global", "public.orders")
    assert answer.fields["columns"] == [{"name": "id", "type": "integer"}, {"name": "item", "type": "text"}]
    assert "2,000 rows copied into public.orders of global" in answer.text
    back = await agent.call("copy_rows", from_database="global", query="TABLE orders", to_table="orders")
    assert back.fields["rows"] == 2000
    assert (await agent.sql("SELECT count(*), count(DISTINCT id) FROM orders")).rows == [[4500, 2500]]
    again = await agent.call("copy_rows", **copying("SELECT 1 AS id", "orders", "replace"))
    assert again.fields["rows"] == 1
    assert (await agent.sql("SELECT * FROM orders", database="global")).rows == [[1, None]]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ({}, "invalid_argument", "from_database"),
        ({"from_database": "other"}, "invalid_argument", "from_database"),
        (copying("SELECT 1 AS a", "x", "upsert"), "invalid_argument", "mode"),
        (copying("SELECT 1 AS a", "x" * 64), "invalid_argument", "to_table"),
        (copying("", "x"), "invalid_argument", "query"),
        (copying("SELECT 1 AS a", "x", database="agent"), "invalid_argument", "database"),
        (copying("SELECT 1 AS a", "x", to_schema=None), "invalid_argument", "to_schema"),
        (copying("SELECT 1 AS a", "x", "append"), "sql_error", "There is no table public.x"),
        (copying("SELECT 1 AS a", "x", to_schema="nowhere"), "sql_error", 'schema "nowhere" does not exist'),
        (copying("SELECT 1 AS a", "x", to_schema="pg_temp"), "invalid_argument", "temporary"),
        (copying("SELECT a FROM nothing", "x"), "sql_error", 'relation "nothing" does not exist'),
        (copying("SELEC 1", "x"), "sql_error", "syntax error"),
        (copying("DELETE FROM orders RETURNING 1 AS a", "x"), "invalid_argument", "must read"),
        (copying("SELECT 1 AS a) TO PROGRAM 'id'; COPY (SELECT 1 AS a", "x"), "statement_refused", "2 statements"),
        (copying("SELECT 'x' AS id", "numbers", "append"), "sql_error", "COPY numbers, line 1, column id"),
    ],
)
async def test_what_is_wrong_is_said(agent: Serve, arguments: dict[str, Any], code: str, said: str) -> None:
    await agent.sql("CREATE TABLE IF NOT EXISTS numbers (id int)", database="global")
    answer = await agent.call("copy_rows", **arguments)
    assert (answer.code, said in answer.error["message"]) == (code, True), answer.text
    assert answer.error["hint"]


@pytest.mark.parametrize("token", ["a token", 7])
async def test_a_client_that_gave_a_token_is_told_how_far_it_is(agent: Serve, token: Any) -> None:
    query = "SELECT i AS id FROM generate_series(1, 20000) AS i"
    told = await with_progress(agent, token, copying(query, f"told_{type(token).__name__}"))
    assert {each["progressToken"] for each in told} == {token}
    steps = [each["progress"] for each in told]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, 20_000)
    assert told[-1]["message"].startswith("20,000 rows")


async def test_where_one_database_is_served_there_is_no_copy(serve: ServeFactory, tenant: Tenants) -> None:
    async with serve(tenant("shared-user", "shared-workspace"), "--scope", "agent") as server:
        assert "copy_rows" not in server.tools
        params = {"name": "copy_rows", "arguments": copying("SELECT 1 AS id", "x")}
        result = (await server.request("tools/call", params))["result"]
        assert result["structuredContent"]["error"]["code"] == "not_allowed"


async def test_a_client_that_cancels_leaves_nothing(agent: Serve, target: Outside, source: Outside) -> None:
    request = await agent.send_call("copy_rows", **copying(STALLING, "cancelled"))
    await target.arriving()
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": request}}
    await agent.write(json.dumps(cancelled))
    await target.quiet()
    await source.quiet()
    assert "cancelled" not in await target.tables()
    assert not (await agent.call("copy_rows", **copying("SELECT 1 AS id", "after_cancelled"))).is_error


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGTERM, None])
async def test_a_server_that_is_ended_in_its_midst_leaves_nothing(
    serve: ServeFactory, tenant: Tenants, target: Outside, source: Outside, way: signal.Signals | None
) -> None:
    """By SIGKILL, which nobody can tidy up after, or by the end of its input, as when its client goes away."""
    await target.connection.execute("CREATE TABLE IF NOT EXISTS kept (id int, text text)")
    before = await target.tables()
    async with serve(tenant("shared-user", "shared-workspace")) as server:
        await server.send_call("copy_rows", **copying(STALLING, f"ended_by_{way}".lower()))
        await target.arriving()
        if way is signal.SIGKILL:
            server.process.kill()
            await server.process.wait()
        else:
            assert await server.end(way) == 0
    await target.quiet()
    await source.quiet()
    assert await target.tables() == before


async def test_memory_does_not_grow_with_the_rows(agent: Serve) -> None:
    await agent.call("copy_rows", **copying("SELECT 1 AS id, '' AS text", "grown"))
    before = peak(agent.pid)
    query = "SELECT i AS id, repeat('x', 200) AS text FROM generate_series(1, 300000) AS i"  # 62 MB
    assert (await agent.call("copy_rows", **copying(query, "grown", "append"))).fields["rows"] == 300_000
    assert peak(agent.pid) - before < 20 * MEGABYTE
    assert peak(agent.pid) < 150 * MEGABYTE


def peak(pid: int) -> int:
    """The most bytes that the process ever had in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
