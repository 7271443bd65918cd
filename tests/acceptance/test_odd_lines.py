"""Lines on stdin that are longer than a request may be, and objects in which a key stands twice."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from agentdb_mcp.local_stack import LocalStack

if TYPE_CHECKING:
    from tests.acceptance.conftest import Serve, ServeFactory

# As mcp_server/stdio.py has it: the error tells it to the client.
LONGEST = 32 * 1024 * 1024
# Identifiers of requests that are written by hand.
LONG, TWICE = 1_000_001, 1_000_002


@pytest.fixture(scope="module")
async def server(serve: ServeFactory, stack: LocalStack) -> AsyncIterator[Serve]:
    async with serve({"AGENT_DB_URL": stack.postgres.uri().reveal()}) as server:
        yield server


def request(request_id: int, sql: str) -> str:
    params = {"name": "execute_sql", "arguments": {"sql": sql}}
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params})


@pytest.mark.parametrize("over", [1, 8_000_000], ids=["by a byte", "by megabytes"])
async def test_a_line_over_the_longest_is_answered_with_an_error_and_the_next_one_works(
    server: Serve, over: int
) -> None:
    blank = len(request(LONG, ""))
    line = request(LONG, "x" * (LONGEST - blank + over))
    assert len(line) == LONGEST + over
    await server.write(line)
    refused = await server.receive(None)
    assert refused["error"]["code"] == -32700
    assert f"{LONGEST:,} bytes" in refused["error"]["message"]
    assert (await server.sql("SELECT 1")).rows == [[1]]


async def test_every_line_over_the_longest_is_answered(server: Serve) -> None:
    for _ in range(3):
        await server.write("x" * (LONGEST + 1))
        assert (await server.receive(None))["error"]["code"] == -32700
    assert (await server.sql("SELECT 1")).rows == [[1]]


async def test_the_rest_of_such_a_line_is_not_read_as_a_request(server: Serve) -> None:
    ping = '{"jsonrpc": "2.0", "id": 999999, "method": "ping"}'
    await server.write('"' + "x" * (LONGEST + 1_000) + " " * (LONGEST + 1_000) + ping)
    assert (await server.receive(None))["error"]["code"] == -32700
    assert (await server.sql("SELECT 1")).rows == [[1]]
    assert [line for line in server.wire if json.loads(line).get("id") == 999_999] == []


async def test_a_line_of_just_the_longest_length_is_read(server: Serve) -> None:
    """It is refused for its SQL, as an answer to its request."""
    blank = len(request(LONG, ""))
    await server.write(request(LONG, "x" * (LONGEST - blank)))
    answer = await server.receive(LONG)
    assert answer["result"]["structuredContent"]["error"]["code"] in ("invalid_argument", "statement_refused")


async def test_a_call_that_runs_meanwhile_gets_its_answer(server: Serve) -> None:
    running = await server.send_call("execute_sql", sql="SELECT 7 FROM pg_sleep(0.5)")
    await server.write("x" * (LONGEST + 1))
    assert (await server.receive(None))["error"]["code"] == -32700
    assert (await server.receive_answer("execute_sql", running)).rows == [[7]]


@pytest.mark.parametrize("key", ["sql", "\\u0073ql"], ids=["as it is", "escaped"])
async def test_of_an_argument_given_twice_the_last_counts_and_the_first_does_not_run(server: Serve, key: str) -> None:
    arguments = f'{{"sql": "CREATE TABLE of_the_first (n int)", "{key}": "SELECT 2"}}'
    await server.write(call(arguments))
    answer = await server.receive(TWICE)
    assert answer["result"]["structuredContent"]["rows"] == [[2]]
    assert (await server.sql("SELECT to_regclass('of_the_first')")).rows == [[None]]


@pytest.mark.parametrize(
    "arguments",
    [
        '{"sql": "SELECT 1", "sql": ""}',
        '{"sql": "SELECT 1", "sql": 7}',
        '{"sql": "SELECT 1", "database": "agent", "database": "nobody\'s"}',
        '{"sql": "SELECT 1", "max_rows": 1, "max_rows": 0}',
        '{"sql": "SELECT 1", "more": 1, "more": 2}',
    ],
)
async def test_an_argument_given_twice_is_checked_as_what_it_is_taken_for(server: Serve, arguments: str) -> None:
    await server.write(call(arguments))
    answer = await server.receive(TWICE)
    assert answer["result"]["structuredContent"]["error"]["code"] == "invalid_argument"


async def test_a_value_keeps_only_the_last_of_a_key_given_twice(server: Serve) -> None:
    await server.write(call('{"sql": "SELECT $1::json", "params": [{"a": 1, "a": 2}]}'))
    answer = await server.receive(TWICE)
    assert answer["result"]["structuredContent"]["rows"] == [[{"a": 2}]]


async def test_json_from_the_database_with_a_key_twice_stays_text_so_that_nothing_is_lost(server: Serve) -> None:
    answer = await server.sql('SELECT \'{"a": 1, "a": 2}\'::json, \'{"a": 1, "a": 2}\'::jsonb')
    assert answer.rows == [['{"a": 1, "a": 2}', {"a": 2}]]


def call(arguments: str) -> str:
    return (
        f'{{"jsonrpc": "2.0", "id": {TWICE}, "method": "tools/call",'
        f' "params": {{"name": "execute_sql", "arguments": {arguments}}}}}'
    )
