"""The ledger: estimates of any number of servers united, the provider's figures in their place, windows of time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from agentdb_mcp.models import Quantities, Scope, Secret
from agentdb_mcp.store import BudgetStore, ControlDatabase, DatabaseStore, IdentityStore
from agentdb_mcp.store.ledger import DatabaseUsage, LedgerStore, MeteredHour, SettledHour

HOUR = timedelta(hours=1)
START = datetime(2026, 3, 5, 10, tzinfo=UTC)
SECOND_MCU = 250 * 1_000_000
MCU = 250


@pytest.fixture
async def control(empty_database: Secret) -> AsyncIterator[ControlDatabase]:
    control = ControlDatabase(empty_database)
    yield control
    await control.close()


@pytest.fixture
async def database_id(control: ControlDatabase) -> str:
    """The agent database of a workspace `w` of a user `u`."""
    identity, store = IdentityStore(control), DatabaseStore(control)
    for user in ("u", "other"):
        await identity.ensure_user(user)
        await BudgetStore(control).ensure(user)
    await identity.ensure_workspace("w", "Notes", "u")
    await store.declare(Scope.AGENT, "w", user_id="u", project_name="agent-w")
    row = await store.find(Scope.AGENT, "agent-w")
    assert row is not None
    return row.id


@pytest.fixture
def ledger(control: ControlDatabase, database_id: str) -> LedgerStore:
    return LedgerStore(control)


def metered(
    database_id: str,
    *spans: tuple[float, float],
    hour: int = 0,
    sent: int = 0,
    size: int | None = None,
    size_at: float = 0,
) -> MeteredHour:
    """Seconds from the beginning of the hour, which counts from START."""
    begin = START + hour * HOUR
    return MeteredHour(
        database_id,
        begin,
        tuple((begin + timedelta(seconds=lo), begin + timedelta(seconds=hi)) for lo, hi in spans),
        sent,
        size,
        None if size is None else begin + timedelta(seconds=size_at),
    )


def settled(database_id: str, hour: int, compute_s: int = 0, storage: int = 0) -> SettledHour:
    return SettledHour(
        database_id, START + hour * HOUR, Quantities(compute_mcu_us=compute_s * SECOND_MCU, storage_byte_us=storage)
    )


async def used(
    ledger: LedgerStore, start: datetime = START, until: datetime | None = None, now: datetime = START + 100 * HOUR
) -> Quantities:
    return (await one(ledger, start, until, now)).quantities


async def one(
    ledger: LedgerStore, start: datetime = START, until: datetime | None = None, now: datetime = START + 100 * HOUR
) -> DatabaseUsage:
    found = await ledger.usage([("u", start, until)], now, MCU)
    assert len(found) == 1
    return found[0]


async def test_spans_of_several_servers_count_once_where_they_overlap(ledger: LedgerStore, database_id: str) -> None:
    await ledger.store("s1", [metered(database_id, (0, 100), (500, 600))])
    await ledger.store("s2", [metered(database_id, (50, 150))])
    await ledger.store("s3", [metered(database_id, (520, 530))])
    assert (await used(ledger)).compute_mcu_us == 250 * SECOND_MCU


async def test_storing_the_same_twice_changes_nothing(ledger: LedgerStore, database_id: str) -> None:
    for _ in range(3):
        await ledger.store("s1", [metered(database_id, (0, 100), sent=1000)])
    await ledger.store("s1", [metered(database_id, (100, 160), sent=1500)])
    await ledger.store("s2", [metered(database_id, sent=7)])
    quantities = await used(ledger)
    assert (quantities.compute_mcu_us, quantities.egress_bytes) == (160 * SECOND_MCU, 1507)


async def test_a_billed_hour_takes_the_place_of_its_estimates(ledger: LedgerStore, database_id: str) -> None:
    for hour in range(3):
        await ledger.store("s1", [metered(database_id, (0, 100), hour=hour, sent=10)])
    drift = await ledger.settle([settled(database_id, 1, compute_s=70)], {database_id: START + 2 * HOUR}, MCU)
    assert (drift.estimated_mcu_us, drift.billed_mcu_us) == (100 * SECOND_MCU, 70 * SECOND_MCU)
    quantities = await used(ledger)
    assert (quantities.compute_mcu_us, quantities.egress_bytes) == (270 * SECOND_MCU, 20)
    await ledger.settle([settled(database_id, 1, compute_s=90)], {}, MCU)
    await ledger.store("s1", [metered(database_id, (0, 3000), hour=1)])
    assert (await used(ledger)).compute_mcu_us == 290 * SECOND_MCU


async def test_a_window_that_begins_inside_an_hour_counts_what_was_metered_in_its_part(
    ledger: LedgerStore, database_id: str
) -> None:
    await ledger.store("s1", [metered(database_id, (0, 1000), (2000, 3000))])
    await ledger.store("s1", [metered(database_id, (0, 100), hour=1)])
    await ledger.settle([settled(database_id, 0, 3000), settled(database_id, 1, 50)], {}, MCU)
    assert (await used(ledger, START + timedelta(seconds=2500))).compute_mcu_us == 550 * SECOND_MCU
    assert (await used(ledger, START, START + HOUR)).compute_mcu_us == 3000 * SECOND_MCU


async def test_storage_is_the_size_seen_last_for_as_long_as_nothing_else_was_seen(
    ledger: LedgerStore, database_id: str
) -> None:
    await ledger.store("s1", [metered(database_id, hour=0, size=100, size_at=600)])
    await ledger.store("s2", [metered(database_id, hour=0, size=300, size_at=1200)])
    await ledger.store("s1", [metered(database_id, hour=2, size=50, size_at=0)])
    usage = await one(ledger, now=START + 4 * HOUR)
    expected = 100 * 600 + 300 * (7200 - 1200) + 50 * 7200
    assert usage.quantities.storage_byte_us == expected * 1_000_000
    assert usage.size_bytes == 50
    later = await used(ledger, START + HOUR, now=START + 2 * HOUR)
    assert later.storage_byte_us == 300 * 3600 * 1_000_000
    await ledger.settle([settled(database_id, 1, storage=7)], {}, MCU)
    assert (await used(ledger, now=START + 4 * HOUR)).storage_byte_us == (expected - 300 * 3600) * 1_000_000 + 7


async def test_what_an_owner_used_stays_with_that_owner(
    ledger: LedgerStore, database_id: str, control: ControlDatabase
) -> None:
    await ledger.store("s1", [metered(database_id, (0, 100), hour=0)])
    store = DatabaseStore(control)
    row = await store.find(Scope.AGENT, "agent-w")
    assert row is not None
    await store.set_payer(row, "other")
    await ledger.store("s1", [metered(database_id, (0, 30), hour=1)])
    await ledger.settle([settled(database_id, 0, 90), settled(database_id, 1, 20)], {}, MCU)
    both = await ledger.usage([("u", START, None), ("other", START, None)], START + 9 * HOUR, MCU)
    assert [(each.window, each.user_id, each.quantities.compute_mcu_us // SECOND_MCU) for each in both] == [
        (0, "u", 90),
        (1, "other", 20),
    ]


async def test_a_deleted_database_costs_on_in_its_period_and_stores_nothing_more(
    ledger: LedgerStore, database_id: str, control: ControlDatabase, empty_database: Secret
) -> None:
    await ledger.store("s1", [metered(database_id, (0, 100), size=10)])
    connection = await asyncpg.connect(empty_database.reveal())
    await connection.execute("UPDATE workspace_database SET status = 'deleted', updated_at = $1", START + HOUR)
    await connection.close()
    quantities = await used(ledger, now=START + 5 * HOUR)
    assert (quantities.compute_mcu_us, quantities.storage_byte_us) == (100 * SECOND_MCU, 10 * 3600 * 1_000_000)
    assert await ledger.usage([("u", START + 9 * HOUR, None)], START + 10 * HOUR, MCU) == []


async def test_synced_goes_forward_only(ledger: LedgerStore, database_id: str, empty_database: Secret) -> None:
    for hours in (3, 2):
        await ledger.settle([], {database_id: START + hours * HOUR}, MCU)
    connection = await asyncpg.connect(empty_database.reveal())
    assert await connection.fetchval("SELECT last_consumption_sync FROM workspace_database") == START + 3 * HOUR
    await connection.close()


async def test_a_database_that_was_made_anew_stores_nothing_of_the_one_before(
    ledger: LedgerStore, database_id: str, control: ControlDatabase, empty_database: Secret
) -> None:
    await ledger.store("s1", [metered(database_id, size=10)])
    connection = await asyncpg.connect(empty_database.reveal())
    await connection.execute("UPDATE workspace_database SET status = 'deleted', updated_at = $1", START + HOUR)
    await connection.close()
    await DatabaseStore(control).declare(Scope.AGENT, "w", user_id="u", project_name="agent-w", revive=True)
    usage = await one(ledger, now=START + 5 * HOUR)
    assert (usage.quantities.storage_byte_us, usage.size_bytes) == (10 * 3600 * 1_000_000, 0)
    await ledger.store("s1", [metered(database_id, hour=3, size=20)])
    usage = await one(ledger, now=START + 5 * HOUR)
    assert (usage.quantities.storage_byte_us, usage.size_bytes) == ((10 + 2 * 20) * 3600 * 1_000_000, 20)


async def test_what_an_owner_stored_is_not_the_next_ones(
    ledger: LedgerStore, database_id: str, control: ControlDatabase
) -> None:
    store = DatabaseStore(control)
    row = await store.find(Scope.AGENT, "agent-w")
    assert row is not None
    await ledger.store("s1", [metered(database_id, size=10)])
    await store.set_payer(row, "other")
    await ledger.store("s1", [metered(database_id, hour=3, size=20)])
    (usage,) = await ledger.usage([("other", START, None)], START + 5 * HOUR, MCU)
    assert (usage.quantities.storage_byte_us, usage.size_bytes) == (2 * 20 * 3600 * 1_000_000, 20)


async def test_an_hour_in_which_the_owner_changes_counts_for_both(
    ledger: LedgerStore, database_id: str, control: ControlDatabase
) -> None:
    store = DatabaseStore(control)
    row = await store.find(Scope.AGENT, "agent-w")
    assert row is not None
    await ledger.store("s1", [metered(database_id, (0, 100))])
    await store.set_payer(row, "other")
    await ledger.store("s1", [metered(database_id, (100, 400))])
    both = await ledger.usage([("u", START, None), ("other", START, None)], START + HOUR, MCU)
    awake = [(each.user_id, each.quantities.compute_mcu_us // SECOND_MCU) for each in both]
    assert awake == [("u", 100), ("other", 300)]
