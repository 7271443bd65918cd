"""Months that are over: their costs are of the past, whoever looks first, and nothing has to be done for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import anyio
import asyncpg
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.costs import period_of
from agentdb_mcp.models import BudgetReport, BudgetState, Quantities, Scope, Secret
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store import BudgetStore, ControlDatabase, DatabaseStore, IdentityStore, LedgerStore, SettledHour

DAY = timedelta(days=1)
CENT = 1_000_000
# A CU-hour costs 10.6 cents by the shipped policy.
CU_HOUR = Quantities(compute_mcu_us=1000 * 3_600_000_000)
COST = 10_600_000


class Clock:
    """The servers' time; the test moves it."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime(2027, 1, 31, 14, 23, tzinfo=UTC))


@pytest.fixture
async def control(empty_database: Secret) -> AsyncIterator[ControlDatabase]:
    control = ControlDatabase(empty_database)
    yield control
    await control.close()


@pytest.fixture
async def servers(
    empty_database: Secret, control: ControlDatabase, clock: Clock
) -> AsyncIterator[tuple[Application, Application]]:
    """Two servers of a user `u` whose period began on a 31st, and who has an agent database."""
    identity, store = IdentityStore(control), DatabaseStore(control)
    await identity.ensure_user("u")
    await identity.ensure_workspace("w", "Notes", "u")
    await store.declare(Scope.AGENT, "w", user_id="u", project_name="agent-w")
    await BudgetStore(control).ensure("u", anchor=clock())
    settings = load_settings({"AGENTDB_CONTROL_URL": empty_database.reveal()})
    async with (
        open_application(settings, clock=clock) as one,
        open_application(settings, clock=clock) as other,
    ):
        yield one, other


async def bill(control: ControlDatabase, moment: datetime) -> None:
    """A CU-hour in the hour that begins then."""
    row = await DatabaseStore(control).find(Scope.AGENT, "agent-w")
    assert row is not None
    hour = SettledHour(row.id, moment.replace(minute=0, second=0, microsecond=0), CU_HOUR)
    await LedgerStore(control).settle([hour], {}, 250)


async def report(server: Application) -> BudgetReport:
    return await server.managed().usage.report("u")


async def test_each_period_has_its_own_costs_and_begins_on_the_anchors_day(
    control: ControlDatabase, servers: tuple[Application, Application], clock: Clock
) -> None:
    anchor = clock.now
    for days in (1, 2, 29, 40):
        await bill(control, anchor + days * DAY)
    told = []
    for moment in (
        anchor + 10 * DAY,
        anchor + 27 * DAY + 23 * timedelta(hours=1),
        anchor + 28 * DAY,
        anchor + 45 * DAY,
        anchor + 59 * DAY,
    ):
        clock.now = moment
        found = await report(servers[0])
        told.append((found.used_microcents // COST, found.period_start[:10], found.period_end[:10]))
    assert told == [
        (2, "2027-01-31", "2027-02-28"),
        (2, "2027-01-31", "2027-02-28"),
        (0, "2027-02-28", "2027-03-31"),
        (2, "2027-02-28", "2027-03-31"),
        (0, "2027-03-31", "2027-04-30"),
    ]


async def test_an_exceeded_month_ends_with_the_month_in_every_server(
    control: ControlDatabase, servers: tuple[Application, Application], clock: Clock, empty_database: Secret
) -> None:
    for day in range(1, 25):
        await bill(control, clock.now + day * DAY)
    clock.now += 25 * DAY
    for server in servers:
        assert (await report(server)).state is BudgetState.PAUSED
    outside = await asyncpg.connect(empty_database.reveal())
    columns = "SELECT total_cost_cents, budget_exceeded, current_period_start FROM user_db_budget"
    assert tuple(await outside.fetchrow(columns))[:2] == (254, True)
    clock.now += 4 * DAY
    for server in servers:
        assert (await report(server)).state is BudgetState.OK
    start, _ = period_of(datetime(2027, 1, 31, 14, 23, tzinfo=UTC), clock.now)
    assert tuple(await outside.fetchrow(columns)) == (0, False, start)
    await outside.close()


async def test_a_reset_begins_periods_of_its_own(
    control: ControlDatabase, servers: tuple[Application, Application], clock: Clock
) -> None:
    await bill(control, clock.now + DAY)
    clock.now += 5 * DAY
    assert (await servers[0].managed().usage.reset("u")).used_microcents == 0
    await bill(control, clock.now + DAY)
    clock.now += 2 * DAY
    for server in servers:
        found = await report(server)
        assert (found.used_microcents, found.period_start, found.period_end) == (
            COST,
            "2027-02-05T14:23:00Z",
            "2027-03-05T14:23:00Z",
        )


async def test_servers_that_look_at_the_same_time_tell_the_same(
    control: ControlDatabase, servers: tuple[Application, Application], clock: Clock
) -> None:
    await bill(control, clock.now + 30 * DAY)
    clock.now += 35 * DAY
    told: list[BudgetReport] = []

    async def ask(server: Application) -> None:
        told.append(await report(server))

    async with anyio.create_task_group() as group:
        for server in servers * 4:
            group.start_soon(ask, server)
    assert len(told) == 8
    assert set(told) == {told[0]}
    assert told[0].used_microcents == COST


async def test_the_history_of_days_sums_to_the_bill(
    control: ControlDatabase, servers: tuple[Application, Application], clock: Clock
) -> None:
    anchor = clock.now
    for hours in (2, 3, 26, 100):
        await bill(control, anchor + timedelta(hours=hours))
    clock.now += 10 * DAY
    days = await servers[0].managed().usage.history("u", anchor.date(), clock.now.date())
    assert [(f"{each.day}", each.database.name, each.database.cents) for each in days] == [
        ("2027-01-31", "Notes", 21),
        ("2027-02-01", "Notes", 11),
        ("2027-02-04", "Notes", 10),
    ]
    assert sum(each.database.cost_microcents for each in days) == (await report(servers[0])).used_microcents
