"""What an agent does to its own session: the answer tells what happened, and the process stays small."""

from __future__ import annotations

import anyio
import pytest

from agentdb_mcp.errors import SqlError
from agentdb_mcp.execution import Call, Pools, Statement
from agentdb_mcp.models import DatabaseTarget, Limits, Result

LIMITS = Limits(10, 1000, 1_000_000)


async def run(pools: Pools, target: DatabaseTarget, *sqls: str, read_only: bool = False) -> list[Result]:
    return await pools.run(target, Call([Statement(sql) for sql in sqls], LIMITS, read_only=read_only))


async def test_a_committed_write_is_a_success_whatever_the_session_does_to_its_own_reset(
    pools: Pools, agent_database: DatabaseTarget
) -> None:
    await run(pools, agent_database, "CREATE TABLE c (n int)")
    await run(
        pools,
        agent_database,
        """DO $$BEGIN INSERT INTO c VALUES (1);
           FOR i IN 1..8000 LOOP EXECUTE format('DECLARE c%s CURSOR WITH HOLD FOR SELECT 1', i); END LOOP;
           PERFORM set_config('statement_timeout', '1', false); END$$""",
    )
    (count,) = await run(pools, agent_database, "SELECT count(*), current_setting('statement_timeout') FROM c")
    assert count.rows == [[1, "10s"]]


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "EUC_TW"])
async def test_another_encoding_is_a_clear_error_and_the_next_call_works(
    pools: Pools, agent_database: DatabaseTarget, encoding: str
) -> None:
    with pytest.raises(SqlError, match="client_encoding"):
        await run(pools, agent_database, f"SET LOCAL client_encoding = '{encoding}'", "SELECT 'é'")
    (answer,) = await run(pools, agent_database, "SELECT 'é'")
    assert answer.rows == [["é"]]


async def test_a_function_runs_for_every_row_although_few_are_shown(
    pools: Pools, agent_database: DatabaseTarget
) -> None:
    await run(pools, agent_database, "CREATE SEQUENCE calls")
    (answer,) = await run(pools, agent_database, "SELECT nextval('calls') FROM generate_series(1, 50000)")
    assert (len(answer.rows), answer.truncated, answer.command_tag) == (1000, True, "SELECT 50000")
    (last,) = await run(pools, agent_database, "SELECT last_value FROM calls")
    assert last.rows == [[50000]]


@pytest.mark.parametrize("rows", [999, 1000, 1001])
@pytest.mark.parametrize("read_only", [True, False])
async def test_an_answer_is_cut_just_past_its_limit(
    pools: Pools, agent_database: DatabaseTarget, rows: int, read_only: bool
) -> None:
    sql = f"SELECT n, n, n FROM generate_series(1, {rows}) AS n"
    (answer,) = await run(pools, agent_database, sql, read_only=read_only)
    assert (len(answer.rows), answer.truncated) == (min(rows, 1000), rows > 1000)


async def test_wide_rows_come_in_portions_and_in_order(pools: Pools, agent_database: DatabaseTarget) -> None:
    columns = ", ".join(f"n AS c{number}" for number in range(300))
    (answer,) = await run(pools, agent_database, f"SELECT {columns} FROM generate_series(1, 400) AS n", read_only=True)
    assert [row[0] for row in answer.rows] == list(range(1, 401))
    assert not answer.truncated


async def test_calls_at_once_do_not_mix_their_portions(pools: Pools, agent_database: DatabaseTarget) -> None:
    async def one(start: int) -> None:
        sql = f"SELECT n FROM generate_series({start}, {start} + 60000) AS n"
        (answer,) = await run(pools, agent_database, sql)
        assert answer.rows == [[start + each] for each in range(1000)]

    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(one, number * 100_000)
