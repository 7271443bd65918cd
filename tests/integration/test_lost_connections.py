"""A connection that ends in the middle of a call: what the caller is told depends on how far the call had come."""

from __future__ import annotations

import pytest

from agentdb_mcp.errors import DatabaseUnavailable, SqlError
from agentdb_mcp.execution import Call, Pools, Statement
from agentdb_mcp.models import DatabaseTarget, Limits, Result

LIMITS = Limits(timeout_s=10, max_rows=100, max_bytes=100_000)
# The backend ends at the moment of the commit, when all statements have been answered.
DIE = """
    CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql
    AS $$BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END$$
"""
DIES = """
    CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON fragile DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION die()
"""
DIES_AT_COMMIT = ["CREATE TABLE fragile (n int)", DIE, DIES]


async def run(pools: Pools, target: DatabaseTarget, *sqls: str, read_only: bool = False) -> list[Result]:
    return await pools.run(target, Call([Statement(sql) for sql in sqls], LIMITS, read_only=read_only))


@pytest.mark.parametrize(
    "sqls",
    [["INSERT INTO fragile VALUES (1)"], ["SELECT 1", "INSERT INTO fragile VALUES (1) RETURNING n", "SELECT 2"]],
    ids=["one statement", "a transaction"],
)
async def test_lost_while_committing_the_outcome_is_unknown_and_the_call_is_not_to_be_repeated_blindly(
    pools: Pools, agent_database: DatabaseTarget, sqls: list[str]
) -> None:
    await run(pools, agent_database, *DIES_AT_COMMIT)
    with pytest.raises(DatabaseUnavailable, match="may have taken effect or not") as lost:
        await run(pools, agent_database, *sqls)
    assert lost.value.retryable is False
    assert "Look whether it took effect" in (lost.value.hint or "")


async def test_the_next_call_after_a_lost_commit_works_and_can_look(
    pools: Pools, agent_database: DatabaseTarget
) -> None:
    await run(pools, agent_database, *DIES_AT_COMMIT)
    with pytest.raises(DatabaseUnavailable):
        await run(pools, agent_database, "INSERT INTO fragile VALUES (1)")
    (looked,) = await run(pools, agent_database, "SELECT count(*) FROM fragile", read_only=True)
    assert looked.rows == [[0]]


async def test_lost_while_a_statement_runs_nothing_took_effect_and_it_may_be_run_again(
    pools: Pools, agent_database: DatabaseTarget
) -> None:
    await run(pools, agent_database, "CREATE TABLE t (n int)")
    with pytest.raises(DatabaseUnavailable, match="while the statement ran") as lost:
        await run(pools, agent_database, "INSERT INTO t VALUES (1)", "SELECT pg_terminate_backend(pg_backend_pid())")
    assert lost.value.retryable is True
    (looked,) = await run(pools, agent_database, "SELECT count(*) FROM t")
    assert looked.rows == [[0]]


async def test_a_commit_that_postgres_refuses_is_its_own_error_and_took_no_effect(
    pools: Pools, agent_database: DatabaseTarget
) -> None:
    await run(pools, agent_database, "CREATE TABLE late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(SqlError) as refused:
        await run(pools, agent_database, "INSERT INTO late VALUES (1), (1)")
    assert refused.value.sqlstate == "23505"
    (looked,) = await run(pools, agent_database, "SELECT count(*) FROM late")
    assert looked.rows == [[0]]
