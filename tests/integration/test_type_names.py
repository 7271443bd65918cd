"""Names of types that an agent made, in the columns of answers, when they change."""

from __future__ import annotations

import pytest

from agentdb_mcp.execution import Call, Pools, Statement
from agentdb_mcp.models import DatabaseTarget, Limits, Result

LIMITS = Limits(timeout_s=10, max_rows=100, max_bytes=100_000)


async def run(pools: Pools, target: DatabaseTarget, *sqls: str, read_only: bool = False) -> list[Result]:
    return await pools.run(target, Call([Statement(sql) for sql in sqls], LIMITS, read_only=read_only))


async def types(pools: Pools, target: DatabaseTarget, sql: str, *, read_only: bool = True) -> list[str]:
    (answer,) = await run(pools, target, sql, read_only=read_only)
    return [column.type for column in answer.columns]


@pytest.fixture
async def made(pools: Pools, agent_database: DatabaseTarget) -> DatabaseTarget:
    """A table of an enumeration, a composite type and their arrays, met once already."""
    await run(
        pools,
        agent_database,
        "CREATE TYPE mood AS ENUM ('happy', 'sad')",
        "CREATE TYPE pair AS (x int, y text)",
        "CREATE TABLE made (m mood, p pair, ms mood[], ps pair[])",
        "INSERT INTO made VALUES ('sad', '(1,a)', '{happy,NULL}', ARRAY['(2,b)'::pair])",
    )
    assert await types(pools, agent_database, "SELECT * FROM made") == ["mood", "pair", "mood[]", "pair[]"]
    return agent_database


@pytest.mark.parametrize("read_only", [True, False])
async def test_a_renamed_type_has_its_new_name_in_the_next_answer(
    pools: Pools, made: DatabaseTarget, read_only: bool
) -> None:
    await run(pools, made, "ALTER TYPE mood RENAME TO feeling")
    await run(pools, made, "ALTER TYPE pair RENAME TO couple")
    names = ["feeling", "couple", "feeling[]", "couple[]"]
    assert await types(pools, made, "SELECT * FROM made", read_only=read_only) == names
    (answer,) = await run(pools, made, "SELECT * FROM made", read_only=read_only)
    assert answer.rows == [["sad", "(1,a)", ["happy", None], ["(2,b)"]]]


async def test_two_types_that_swap_their_names_swap_them_in_answers(pools: Pools, made: DatabaseTarget) -> None:
    await run(
        pools,
        made,
        "ALTER TYPE mood RENAME TO parked",
        "ALTER TYPE pair RENAME TO mood",
        "ALTER TYPE parked RENAME TO pair",
    )
    assert await types(pools, made, "SELECT m, p FROM made") == ["pair", "mood"]


async def test_a_rename_that_failed_changes_no_name(pools: Pools, made: DatabaseTarget) -> None:
    with pytest.raises(Exception, match="division by zero"):
        await run(pools, made, "ALTER TYPE mood RENAME TO feeling", "SELECT 1 / 0")
    assert await types(pools, made, "SELECT m FROM made") == ["mood"]


async def test_a_type_moved_to_another_schema_is_named_with_it(pools: Pools, made: DatabaseTarget) -> None:
    await run(pools, made, "CREATE SCHEMA elsewhere", "ALTER TYPE mood SET SCHEMA elsewhere")
    assert await types(pools, made, "SELECT m, ms FROM made") == ["elsewhere.mood", "elsewhere.mood[]"]


async def test_a_type_made_anew_under_an_old_name_is_itself(pools: Pools, made: DatabaseTarget) -> None:
    await run(pools, made, "DROP TABLE made", "DROP TYPE mood", "CREATE TYPE mood AS (a int)")
    (answer,) = await run(pools, made, "SELECT row(1)::mood AS m, ARRAY[row(2)::mood] AS ms")
    assert [column.type for column in answer.columns] == ["mood", "mood[]"]
    assert answer.rows == [["(1)", ["(2)"]]]
