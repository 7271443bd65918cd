"""Rows passed on as they come: every one of them, in bounded portions, and nothing left when the reader goes."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import asyncpg
import pytest

from agentdb_mcp.errors import ResultTooLarge, SqlError
from agentdb_mcp.execution import Call, Pools, Sink, Statement
from agentdb_mcp.models import Column, DatabaseTarget, Limits

LIMITS = Limits(timeout_s=20, max_rows=10, max_bytes=1000)


async def stream(pools: Pools, target: DatabaseTarget, sql: str, sink: Sink) -> None:
    await pools.run(target, Call([Statement(sql)], LIMITS, sink=sink))


class Kept:
    def __init__(self) -> None:
        self.portions: list[list[list[object]]] = []
        self.columns: Sequence[Column] = ()

    async def __call__(self, columns: Sequence[Column], rows: list[list[object]]) -> None:
        self.columns = columns
        self.portions.append(rows)

    @property
    def rows(self) -> list[list[object]]:
        return [row for portion in self.portions for row in portion]


async def test_every_row_arrives_once_and_in_order_whatever_the_limits_of_an_answer(
    pools: Pools, agent_database: DatabaseTarget
) -> None:
    kept = Kept()
    await stream(pools, agent_database, "SELECT i, 'row ' || i AS text FROM generate_series(1, 50000) AS i", kept)
    assert kept.rows == [[i, f"row {i}"] for i in range(1, 50001)]
    assert [(column.name, column.type) for column in kept.columns] == [("i", "integer"), ("text", "text")]


@pytest.mark.parametrize(("width", "count"), [(10, 100_000), (200_000, 200)])
async def test_portions_are_about_as_large_for_small_rows_as_for_large_ones(
    pools: Pools, agent_database: DatabaseTarget, width: int, count: int
) -> None:
    sizes: list[int] = []

    async def sink(_: Sequence[Column], rows: list[list[object]]) -> None:
        sizes.append(sum(len(str(row[0])) for row in rows))

    await stream(pools, agent_database, f"SELECT repeat('x', {width}) FROM generate_series(1, {count})", sink)
    assert sum(sizes) == width * count
    assert max(sizes) <= 16 * 200_000  # the first portion is of sixteen rows, however large


async def test_no_rows_are_one_portion_with_their_columns(pools: Pools, agent_database: DatabaseTarget) -> None:
    kept = Kept()
    await stream(pools, agent_database, "SELECT 1 AS one WHERE false", kept)
    assert kept.portions == [[]]
    assert [column.name for column in kept.columns] == ["one"]


async def test_a_stream_cannot_write(pools: Pools, agent_database: DatabaseTarget) -> None:
    with pytest.raises(SqlError) as caught:
        await stream(pools, agent_database, "CREATE TABLE t (i int)", Kept())
    assert caught.value.sqlstate == "25006"


async def test_a_failure_half_way_reaches_the_caller_after_what_was_passed_on(
    pools: Pools, agent_database: DatabaseTarget
) -> None:
    kept = Kept()
    with pytest.raises(SqlError, match="division by zero"):
        await stream(pools, agent_database, "SELECT 1 / (5000 - i) FROM generate_series(1, 10000) AS i", kept)
    assert 0 < len(kept.rows) < 5000


async def test_rows_that_no_memory_should_hold_end_the_stream(pools: Pools, agent_database: DatabaseTarget) -> None:
    with pytest.raises(ResultTooLarge):
        await stream(pools, agent_database, "SELECT repeat('x', 90000000)", Kept())


async def test_a_reader_that_goes_away_ends_the_statement(
    pools: Pools, agent_database: DatabaseTarget, superuser: asyncpg.Connection
) -> None:
    with anyio.CancelScope() as scope:

        async def sink(_: Sequence[Column], rows: list[list[object]]) -> None:
            scope.cancel()
            await anyio.lowlevel.checkpoint()

        await stream(pools, agent_database, "SELECT i AS left_behind FROM generate_series(1, 10000000) AS i", sink)
    assert scope.cancelled_caught
    with anyio.fail_after(30):
        while await superuser.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%left_behind%' AND pid <> pg_backend_pid()"
        ):
            await anyio.sleep(0.02)


async def test_rows_may_become_a_thousand_times_larger_on_the_way(pools: Pools, agent_database: DatabaseTarget) -> None:
    count = 0

    async def sink(_: Sequence[Column], rows: list[list[object]]) -> None:
        nonlocal count
        count += len(rows)

    sql = "SELECT repeat('x', CASE WHEN i <= 20000 THEN 10 ELSE 20000 END) FROM generate_series(1, 25000) AS i"
    await stream(pools, agent_database, sql, sink)
    assert count == 25_000
