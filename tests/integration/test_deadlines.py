"""The end of a call's time: what the caller is told depends on where it falls, and nothing waits for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import asyncpg
import pytest

from agentdb_mcp.errors import AgentDBError, DatabaseUnavailable, SqlError, StatementTimeout
from agentdb_mcp.execution import Call, Pools, Statement
from agentdb_mcp.models import DatabaseTarget, Limits, Result

if TYPE_CHECKING:
    from tests.integration.conftest import Relay

SHORT = Limits(timeout_s=0.5, max_rows=100, max_bytes=100_000)
# For what only makes ready or looks: opening a session counts too.
AMPLE = Limits(timeout_s=30, max_rows=100, max_bytes=100_000)
HANGS = 60.0
TABLE = "CREATE TABLE slow (n int)"
STUBBORN = """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN LOOP
    BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END;
    END LOOP; END$$
"""
OBEDIENT = """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(60); RETURN NULL; END$$
"""
AT_COMMIT = """
    CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION wait()
"""
RESET = b"CLOSE ALL"


async def run(
    pools: Pools, target: DatabaseTarget, *sqls: str, read_only: bool = False, limits: Limits = SHORT
) -> list[Result]:
    with anyio.fail_after(HANGS):
        return await pools.run(target, Call([Statement(sql) for sql in sqls], limits, read_only=read_only))


async def rows(pools: Pools, target: DatabaseTarget, sql: str) -> list[list[object]]:
    return (await run(pools, target, sql, read_only=True, limits=AMPLE))[0].rows


async def test_a_commit_that_outlives_the_deadline_has_an_unknown_outcome(
    pools: Pools, agent_database: DatabaseTarget, superuser: asyncpg.Connection
) -> None:
    await run(pools, agent_database, TABLE, STUBBORN, AT_COMMIT, limits=AMPLE)
    with pytest.raises(DatabaseUnavailable, match="may have taken effect or not") as unknown:
        await run(pools, agent_database, "INSERT INTO slow VALUES (1)")
    assert unknown.value.retryable is False
    assert unknown.value.ran
    alive = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND state = 'active'"
    assert await superuser.fetchval(alive, agent_database.role) == 0
    assert await rows(pools, agent_database, "SELECT * FROM slow") == []


@pytest.mark.parametrize("lift", [[], ["SET statement_timeout = 0"], ["SET LOCAL statement_timeout = 0"]])
async def test_a_commit_that_postgres_cancels_at_its_limit_is_a_timeout_and_took_no_effect(
    pools: Pools, agent_database: DatabaseTarget, lift: list[str]
) -> None:
    await run(pools, agent_database, TABLE, OBEDIENT, AT_COMMIT, limits=AMPLE)
    with pytest.raises(StatementTimeout):
        await run(pools, agent_database, "INSERT INTO slow VALUES (1)", *lift)
    assert await rows(pools, agent_database, "SELECT * FROM slow") == []


async def test_a_commit_whose_answer_does_not_come_is_never_called_a_timeout(
    pools: Pools, agent_database: DatabaseTarget, relayed_database: DatabaseTarget, relay: Relay
) -> None:
    await run(pools, relayed_database, TABLE, limits=AMPLE)
    relay.mute_at = b"COMMIT"
    with pytest.raises(DatabaseUnavailable, match="may have taken effect or not"):
        await run(pools, relayed_database, "INSERT INTO slow VALUES (1)")
    relay.mute_at = None
    assert await rows(pools, agent_database, "SELECT * FROM slow") == [[1]]
    assert await rows(pools, relayed_database, "SELECT * FROM slow") == [[1]]


@pytest.mark.parametrize("read_only", [False, True], ids=["a write", "a read"])
@pytest.mark.parametrize("fault", ["mute_at", "reset_at"], ids=["no answer", "connection reset"])
async def test_what_ends_in_the_reset_has_been_answered_and_costs_the_session_alone(
    pools: Pools, relayed_database: DatabaseTarget, relay: Relay, fault: str, read_only: bool
) -> None:
    (before,) = (await rows(pools, relayed_database, "SELECT pg_backend_pid()"))[0]
    setattr(relay, fault, RESET)
    (answer,) = await run(pools, relayed_database, "SELECT pg_backend_pid()", read_only=read_only)
    assert answer.rows == [[before]]
    setattr(relay, fault, None)
    (after,) = (await rows(pools, relayed_database, "SELECT pg_backend_pid()"))[0]
    assert after != before


async def test_an_error_stays_that_error_when_the_reset_after_it_gets_no_answer(
    pools: Pools, relayed_database: DatabaseTarget, relay: Relay
) -> None:
    await rows(pools, relayed_database, "SELECT 1")
    relay.mute_at = RESET
    with pytest.raises(SqlError, match="division by zero"):
        await run(pools, relayed_database, "SELECT 1/0")
    relay.mute_at = None
    assert await rows(pools, relayed_database, "SELECT 1") == [[1]]


async def test_a_statement_that_gets_no_answer_is_a_timeout_and_took_no_effect(
    pools: Pools, relayed_database: DatabaseTarget, relay: Relay
) -> None:
    await run(pools, relayed_database, TABLE, limits=AMPLE)
    relay.mute_at = b"INSERT INTO slow"
    with pytest.raises(StatementTimeout):
        await run(pools, relayed_database, "INSERT INTO slow VALUES (1)")
    relay.mute_at = None
    assert await rows(pools, relayed_database, "SELECT * FROM slow") == []


async def test_a_caller_who_goes_away_while_it_commits_leaves_a_pool_that_works(
    pools: Pools, agent_database: DatabaseTarget
) -> None:
    await run(pools, agent_database, TABLE, STUBBORN, AT_COMMIT, limits=AMPLE)
    with anyio.move_on_after(0.3):
        await run(pools, agent_database, "INSERT INTO slow VALUES (1)", limits=Limits(60, 10, 1000))
    for _ in range(6):
        assert await rows(pools, agent_database, "SELECT 1") == [[1]]


@pytest.mark.parametrize("read_only", [False, True], ids=["a write", "a read"])
async def test_a_connection_reset_while_a_statement_runs_is_not_sent_again_and_says_that_nothing_took_effect(
    pools: Pools, relayed_database: DatabaseTarget, relay: Relay, read_only: bool
) -> None:
    await run(pools, relayed_database, TABLE, limits=AMPLE)
    relay.sent.clear()
    relay.reset_at = b"just once"  # which goes out to be run, not before
    once = Call([Statement("SELECT $1::text", ["just once"])], SHORT, read_only=read_only)
    with anyio.fail_after(HANGS), pytest.raises(AgentDBError, match="nothing of it took effect") as lost:
        await pools.run(relayed_database, once)
    assert (lost.value.code, lost.value.retryable) == ("database_unavailable", True)
    assert sum(b"just once" in data for data in relay.sent) == 1


async def test_a_connection_reset_before_a_statement_runs_is_replaced(
    pools: Pools, relayed_database: DatabaseTarget, relay: Relay
) -> None:
    await rows(pools, relayed_database, "SELECT 1")
    relay.sent.clear()
    relay.reset_once = b"SELECT 'begun'"
    assert await rows(pools, relayed_database, "SELECT 'begun'") == [["begun"]]
    assert sum(b"SELECT 'begun'" in data for data in relay.sent) == 2
