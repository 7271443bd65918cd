"""The month that is over: the first who looks starts the next one, once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import anyio
import asyncpg
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.costs import period_of
from agentdb_mcp.models import BudgetState, Scope, Secret
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store import BudgetStore, ControlDatabase, DatabaseStore, IdentityStore

COST = 500_000_000
# Counts the periods that began, whoever began them.
COUNT_PERIODS = """
    CREATE TABLE begun (start timestamptz);
    CREATE FUNCTION count_begun() RETURNS trigger LANGUAGE plpgsql
        AS $$BEGIN INSERT INTO begun VALUES (new.current_period_start); RETURN NULL; END$$;
    CREATE TRIGGER count_begun AFTER UPDATE OF current_period_start ON user_db_budget FOR EACH ROW
        EXECUTE FUNCTION count_begun();
"""


def period_end(start: datetime) -> datetime:
    return period_of(start, start)[1]


@pytest.fixture
async def control(empty_database: Secret) -> AsyncIterator[ControlDatabase]:
    control = ControlDatabase(empty_database)
    yield control
    await control.close()


@pytest.fixture
async def outside(control: ControlDatabase, empty_database: Secret) -> AsyncIterator[asyncpg.Connection]:
    """A user `u` whose period began long ago, whose databases cost something in it; and who looks at the tables."""
    identity, store = IdentityStore(control), DatabaseStore(control)
    await identity.ensure_user("u")
    await identity.ensure_workspace("w", "Notes", "u")
    await store.declare(Scope.GLOBAL, "u", user_id="u", project_name="global-u")
    await store.declare(Scope.AGENT, "w", user_id="u", project_name="agent-w")
    await spend(control)
    await BudgetStore(control).ensure("u")
    connection = await asyncpg.connect(empty_database.reveal())
    await connection.execute("UPDATE user_db_budget SET current_period_start = $1", long_ago())
    await connection.execute(COUNT_PERIODS)
    yield connection
    await connection.close()


@pytest.fixture
async def servers(empty_database: Secret, outside: asyncpg.Connection) -> AsyncIterator[list[Application]]:
    settings = load_settings({"AGENTDB_CONTROL_URL": empty_database.reveal()})
    async with open_application(settings) as one, open_application(settings) as other:
        yield [one, other]


def long_ago() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(days=75)


async def spend(control: ControlDatabase) -> None:
    store = DatabaseStore(control)
    await store.add_costs({(row.scope, row.id): COST for row in await store.of_user("u")})


async def spent(control: ControlDatabase) -> list[int]:
    return [row.cost_microcents for row in await DatabaseStore(control).of_user("u")]


async def begun(outside: asyncpg.Connection) -> list[datetime]:
    return [row[0] for row in await outside.fetch("SELECT start FROM begun")]


async def test_a_new_period_begins_once_for_all_who_saw_the_old_one(
    control: ControlDatabase, outside: asyncpg.Connection
) -> None:
    budgets = BudgetStore(control)
    before = (await budgets.ensure("u")).period_start
    start = period_end(before)
    await budgets.reset_period("u", start=start, before=before)
    assert await spent(control) == [0, 0]
    assert (await budgets.ensure("u")).period_start == start
    await spend(control)
    await budgets.reset_period("u", start=start, before=before)
    assert await spent(control) == [COST, COST]
    assert await begun(outside) == [start]


async def test_of_two_who_start_a_period_at_the_same_time_one_does(
    control: ControlDatabase, outside: asyncpg.Connection, empty_database: Secret
) -> None:
    """Both have begun before either can go on: the row is held until they wait for it."""
    others = ControlDatabase(empty_database)
    before = (await BudgetStore(control).ensure("u")).period_start
    start = period_end(before)

    async def start_one(through: ControlDatabase) -> None:
        await BudgetStore(through).reset_period("u", start=start, before=before)
        await spend(through)

    async with anyio.create_task_group() as group, outside.transaction():
        await outside.execute("SELECT FROM user_db_budget FOR UPDATE")
        group.start_soon(start_one, control)
        group.start_soon(start_one, others)
        await until_two_wait(outside)
    await others.close()
    assert await begun(outside) == [start]
    assert await spent(control) == [2 * COST, 2 * COST]


async def until_two_wait(outside: asyncpg.Connection) -> None:
    with anyio.fail_after(10):
        while await outside.fetchval("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted") < 2:
            await anyio.sleep(0.02)


async def test_a_report_after_the_periods_end_is_of_a_new_period_with_nothing_spent(
    control: ControlDatabase, outside: asyncpg.Connection, servers: list[Application]
) -> None:
    anchor = (await BudgetStore(control).ensure("u")).period_start
    report = await servers[0].managed().usage.report("u")
    assert (report.used_microcents, report.state) == (0, BudgetState.OK)
    assert await spent(control) == [0, 0]
    start, end = (datetime.fromisoformat(moment) for moment in (report.period_start, report.period_end))
    assert start <= datetime.now(UTC) < end
    assert start in (period_end(anchor), period_end(period_end(anchor)))
    assert end == period_end(start)
    stored = await outside.fetchrow("SELECT total_cost_cents, budget_exceeded FROM user_db_budget")
    assert tuple(stored) == (0, False)


async def test_two_servers_that_look_at_the_same_time_start_one_period_and_lose_no_later_cost(
    control: ControlDatabase, outside: asyncpg.Connection, servers: list[Application]
) -> None:
    async with anyio.create_task_group() as group, outside.transaction():
        await outside.execute("SELECT FROM user_db_budget FOR UPDATE")
        for server in servers:
            group.start_soon(server.managed().usage.report, "u")
        await until_two_wait(outside)
    assert len(await begun(outside)) == 1
    await spend(control)
    for server in servers:
        assert (await server.managed().usage.report("u")).used_microcents == 2 * COST
    assert len(await begun(outside)) == 1


async def test_a_period_that_is_not_over_goes_on(
    control: ControlDatabase, outside: asyncpg.Connection, servers: list[Application]
) -> None:
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=27)
    await outside.execute("UPDATE user_db_budget SET current_period_start = $1", start)
    await outside.execute("TRUNCATE begun")
    report = await servers[0].managed().usage.report("u")
    assert report.used_microcents == 2 * COST
    assert datetime.fromisoformat(report.period_start) == start
    assert await begun(outside) == []
