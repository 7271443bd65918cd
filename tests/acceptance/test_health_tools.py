"""get_top_queries and analyze_db_health through a real client; the answers are checked against the output schemas."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import pytest
from jsonschema import Draft202012Validator
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

if TYPE_CHECKING:
    from tests.acceptance.conftest import Serve, ServeFactory


@pytest.fixture(scope="module")
async def busy(serve: ServeFactory, tenant: Callable[..., dict[str, str]]) -> AsyncIterator[Serve]:
    """An agent that has worked, and made a mistake."""
    async with serve(tenant("health-user", "health-workspace")) as server:
        await server.sql("CREATE TABLE notes (id int PRIMARY KEY, body text)")
        await server.sql("INSERT INTO notes SELECT i, 'note ' || i FROM generate_series(1, 500) AS i")
        await server.sql("SELECT count(*) FROM notes WHERE body LIKE '%9'")
        await server.sql("CREATE INDEX ids ON notes (id)")
        yield server


@pytest.mark.parametrize("sort_by", ["resources", "total_time", "mean_time"])
async def test_the_costliest_queries_are_the_agents_own(busy: Serve, sort_by: str) -> None:
    answer = await busy.call("get_top_queries", sort_by=sort_by)
    assert not answer.is_error, answer.text
    texts = [each["query"] for each in answer.fields["queries"]]
    assert "INSERT INTO notes SELECT i, $1 || i FROM generate_series($2, $3) AS i" in texts
    assert not [text for text in texts if "pg_catalog" in text or text.startswith(("SET", "BEGIN"))]
    assert "untrusted-data" in answer.text
    assert len((await busy.call("get_top_queries", sort_by=sort_by, limit=1)).fields["queries"]) == 1


async def test_a_long_query_is_cut_and_its_length_told(busy: Serve) -> None:
    await busy.sql(f"SELECT count(*) AS long_one FROM notes /* {'x' * 5000} */ WHERE id > 1")
    queries = (await busy.call("get_top_queries", sort_by="total_time", limit=100)).fields["queries"]
    (found,) = [each for each in queries if "long_one" in each["query"]]
    assert len(found["query"]) == 2000
    assert found["query_chars"] > 5000


async def test_each_agent_sees_its_own_database_and_the_global_one_apart(busy: Serve) -> None:
    await busy.sql("CREATE TABLE shared_notes (id int)", database="global")
    shared = await busy.call("get_top_queries", sort_by="total_time", database="global")
    assert [each["query"] for each in shared.fields["queries"]] == ["CREATE TABLE shared_notes (id int)"]
    assert "shared_notes" not in (await busy.call("get_top_queries", sort_by="total_time", limit=100)).text


async def test_a_finding_is_mended_by_its_own_sql(busy: Serve) -> None:
    answer = await busy.call("analyze_db_health")
    assert not answer.is_error, answer.text
    (finding,) = answer.fields["findings"]
    assert finding == {
        "severity": "warning",
        "check": "duplicate_index",
        "object": "public.ids",
        "why": finding["why"],
        "sql": ["DROP INDEX public.ids"],
    }
    assert "public.notes_pkey has the same columns" in finding["why"]
    assert answer.text.startswith("Findings: 1 warning.\n<untrusted-data-")
    assert answer.fields["figures"]["size_bytes"] > 0
    assert any("pg_stat_activity" in each for each in answer.fields["not_seen"])
    await busy.sql(finding["sql"][0])
    mended = await busy.call("analyze_db_health", health_type="index, constraint")
    assert (mended.fields["findings"], mended.fields["not_seen"]) == ([], [])
    assert mended.text.startswith("Nothing was found that needs attention.")


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("get_top_queries", {"sort_by": "calls"}),
        ("get_top_queries", {"limit": 1.5}),
        ("analyze_db_health", {"health_type": "everything"}),
        ("analyze_db_health", {"health_type": None}),
    ],
)
async def test_a_wrong_argument_is_answered_with_what_would_be_right(
    busy: Serve, tool: str, arguments: dict[str, object]
) -> None:
    answer = await busy.call(tool, **arguments)
    assert answer.code == "invalid_argument"
    assert next(iter(arguments)) in answer.error["message"]


async def test_the_official_client_takes_their_answers(busy: Serve, tenant: Callable[..., dict[str, str]]) -> None:
    environ = tenant("health-user", "health-workspace")
    command = StdioServerParameters(command=sys.executable, args=["-m", "agentdb_mcp", "serve"], env=environ)
    async with Client(stdio_client(command)) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        for name, good, bad in (
            ("get_top_queries", {"sort_by": "mean_time", "limit": 3}, {"limit": "three"}),
            ("analyze_db_health", {"health_type": "growth"}, {"health_type": "growing"}),
        ):
            for arguments, fails in ((good, False), (bad, True)):
                answer = await client.call_tool(name, arguments)
                assert answer.is_error is fails
                Draft202012Validator(listed[name].output_schema).validate(answer.structured_content)
                assert ("error" in answer.structured_content) is fails
