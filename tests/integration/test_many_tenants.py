"""One process for any number of tenants: what it remembers is bounded, and one server's news reach the others."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import asyncpg
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.costs import SpanMeter
from agentdb_mcp.errors import BudgetExceeded, DatabaseUnavailable
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import Quantities, Scope, Secret, Tenant
from agentdb_mcp.services import Databases, Metering, budgets
from agentdb_mcp.services.databases import REMEMBERED
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store import ControlDatabase, LedgerStore, SettledHour

MANY = 5_500
HOUR = timedelta(hours=1)
# By the shipped policy: bytes × microseconds of storage that cost what the free tier pays for and a little more.
OVERSPENT = Quantities(storage_byte_us=205 * 1_000_000 * 10**9 * 744 * 3_600_000_000 // 35_000_000)


@pytest.fixture
def slow(tmp_path: Path) -> str:
    """A policy by which servers look at budgets every ten minutes."""
    path = tmp_path / "slow.toml"
    path.write_text('name = "slow"\n[metering]\nflush_s = 600.0\n')
    return str(path)


@pytest.fixture
def tenant() -> Tenant:
    return Tenant(f"u{secrets.token_hex(6)}", f"w{secrets.token_hex(6)}")


def user_of(tenant: Tenant) -> str:
    return tenant.user_id or ""


async def query(application: Application, tenant: Tenant, sql: str, scope: Scope = Scope.AGENT) -> list[list[object]]:
    return (await application.queries.execute(tenant, scope, [Statement(sql)])).results[0].rows


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(20):
        while not await condition():
            await anyio.sleep(0.02)


# --- what is remembered ---------------------------------------------------------------------------------------------


async def test_databases_are_remembered_of_the_tenants_that_came_last() -> None:
    databases = Databases({Scope.AGENT: Secret("postgresql://a:b@127.0.0.1/d")}, None, None, lambda _: None)
    tenants = [Tenant(f"u{number}", "w") for number in range(MANY)]
    first = await databases.open(tenants[0], Scope.AGENT)
    for tenant in tenants[1:]:
        await databases.open(tenant, Scope.AGENT)
        assert await databases.open(tenants[0], Scope.AGENT) is first
    assert len(databases._known) == REMEMBERED
    assert len(databases._flights) == 0


async def test_calls_of_one_tenant_at_once_resolve_its_database_once_and_leave_no_lock_behind() -> None:
    databases = Databases({Scope.AGENT: Secret("postgresql://a:b@127.0.0.1/d")}, None, None, lambda _: None)
    found = []

    async def look() -> None:
        found.append(await databases.open(Tenant("u", "w"), Scope.AGENT))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(look)
    assert len({id(each) for each in found}) == 1
    assert len(databases._flights) == 0


async def test_uses_and_sizes_are_forgotten_some_time_after_they_are_stored(environ: dict[str, str]) -> None:
    now = [datetime(2026, 11, 3, 10, 30, tzinfo=UTC)]
    control = ControlDatabase(Secret(environ["AGENTDB_CONTROL_URL"]))
    meter: SpanMeter[str] = SpanMeter(300_000_000)
    metering = Metering(meter, LedgerStore(control), lambda: now[0], 60.0)
    for number in range(MANY):
        metering.note(f"d{number}", now[0], 10, wrote=True)
        if number % 2:
            metering.note_size(f"d{number}", 1000)
    await metering.flush()
    assert not metering._unstored
    assert len(metering._sizes) == len(meter._seen) == MANY
    now[0] += 3 * HOUR
    metering.note("another", now[0], 10, wrote=True)
    await metering.flush()
    assert list(metering._sizes) == list(meter._seen) == ["another"]
    await control.close()


async def test_accounts_are_kept_of_the_users_that_came_last_and_of_those_whose_calls_run(
    environ: dict[str, str], slow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "MOST_ACCOUNTS", 5)
    users = [f"u{number}-{secrets.token_hex(4)}" for number in range(20)]
    async with open_application(load_settings(environ | {"AGENTDB_POLICY": slow})) as application:
        managed = application.managed()
        for user in users:
            await managed.lifecycle.identity.ensure_user(user)
        kept = managed.usage.budgets
        async with kept.admit(users[0], "d", 1.0):
            for user in users[1:]:
                await kept.bill(user)
            await kept.bill(users[7])
            kept._forget_idle()
            assert list(kept._accounts) == [users[0], *users[-3:], users[7]]
        assert len(kept._reading) == 0


async def test_a_round_reads_some_users_again_and_those_first_that_were_read_longest_ago(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "quick.toml"
    policy.write_text('name = "quick"\n[metering]\nflush_s = 0.05\n')
    monkeypatch.setattr(budgets, "USERS_A_ROUND", 3)
    monkeypatch.setattr(budgets, "USERS_AT_ONCE", 2)
    users = [f"u{number}-{secrets.token_hex(4)}" for number in range(7)]
    async with open_application(load_settings(environ | {"AGENTDB_POLICY": str(policy)})) as application:
        managed = application.managed()
        for user in users:
            await managed.lifecycle.identity.ensure_user(user)
            await managed.usage.budgets.bill(user)
        before = {user: account.read for user, account in managed.usage.budgets._accounts.items()}

        async def all_read() -> bool:
            return all(account.read > before[user] for user, account in managed.usage.budgets._accounts.items())

        await until(all_read)


# --- a database that is deleted or replaced ---------------------------------------------------------------------------


async def test_the_connections_of_a_database_that_was_replaced_are_closed(
    application: Application, tenant: Tenant
) -> None:
    pools, databases = application.queries._pools, application.queries._databases
    lifecycle = application.managed().lifecycle
    await query(application, tenant, "CREATE TABLE old (n int)")
    await query(application, tenant, "SELECT 1", Scope.GLOBAL)
    old = (await databases.open(tenant, Scope.AGENT)).target.key
    assert old in pools._connections._databases
    await lifecycle.delete_workspace(tenant.workspace_id or "")
    await lifecycle.create_workspace(tenant.workspace_id or "", user_of(tenant), "Notes")
    databases.forget(tenant, Scope.AGENT)
    assert await query(application, tenant, "SELECT to_regclass('old')::text") == [[None]]
    now = (await databases.open(tenant, Scope.AGENT)).target.key
    assert old != now
    assert {old, now} & pools._connections._databases.keys() == {now}


async def test_the_connections_of_a_database_that_was_deleted_are_closed(
    application: Application, tenant: Tenant
) -> None:
    pools, databases = application.queries._pools, application.queries._databases
    await query(application, tenant, "SELECT 1")
    key = (await databases.open(tenant, Scope.AGENT)).target.key
    await application.managed().lifecycle.delete_workspace(tenant.workspace_id or "")
    databases.forget(tenant, Scope.AGENT)
    with pytest.raises(DatabaseUnavailable, match="deleted"):
        await query(application, tenant, "SELECT 1")
    assert key not in pools._connections._databases
    assert (tenant, Scope.AGENT) not in databases._known


# --- servers of one user ----------------------------------------------------------------------------------------------


@pytest.fixture
async def servers(environ: dict[str, str], slow: str) -> AsyncIterator[tuple[Application, Application]]:
    async with AsyncExitStack() as exits:
        settings = load_settings(environ | {"AGENTDB_POLICY": slow})
        one, two = [await exits.enter_async_context(open_application(settings)) for _ in range(2)]
        yield one, two


async def test_a_database_that_wakes_counts_in_other_servers_while_its_first_statement_runs(
    servers: tuple[Application, Application], tenant: Tenant
) -> None:
    one, two = servers
    lifecycle = one.managed().lifecycle
    await lifecycle.create_user(user_of(tenant))
    await lifecycle.create_workspace(tenant.workspace_id or "", user_of(tenant), "Notes")
    seen = two.managed().usage.budgets
    assert (await seen.bill(user_of(tenant))).used_microcents == 0
    awakening = 220_833  # one suspend time-out of the smallest compute

    async def counted() -> bool:
        return (await seen.bill(user_of(tenant))).used_microcents >= awakening

    async with anyio.create_task_group() as group:
        group.start_soon(query, one, tenant, "SELECT pg_sleep(14)")
        await until(counted)
        group.cancel_scope.cancel()


async def test_uses_of_what_is_awake_are_not_told_one_by_one(
    servers: tuple[Application, Application], tenant: Tenant, environ: dict[str, str]
) -> None:
    one, _ = servers
    told: list[str] = []
    listener = await asyncpg.connect(environ["AGENTDB_CONTROL_URL"])
    await listener.add_listener("agentdb_use", lambda *notice: told.append(notice[3].partition(" ")[2]))
    for _ in range(20):
        await query(one, tenant, "SELECT 1")

    async def told_of() -> bool:
        return user_of(tenant) in told

    async def the_end() -> bool:
        return "end" in told

    await until(told_of)
    for _ in range(20):
        await query(one, tenant, "SELECT 1")
    await listener.execute("SELECT pg_notify('agentdb_use', 'the end')")
    await until(the_end)
    assert told.count(user_of(tenant)) <= 2
    await listener.close()


# --- who pays for what is not there yet -------------------------------------------------------------------------------


@pytest.mark.parametrize("paused", [False, True], ids=["exceeded", "paused"])
async def test_nothing_is_made_on_first_use_for_a_user_whose_budget_is_used_up(
    application: Application, tenant: Tenant, paused: bool
) -> None:
    managed = application.managed()
    lifecycle, usage = managed.lifecycle, managed.usage
    row = await lifecycle.create_user(user_of(tenant))
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    spent = OVERSPENT + OVERSPENT if paused else OVERSPENT
    await usage.store.reset_period(user_of(tenant), hour - timedelta(days=2))
    await usage.ledger.settle([SettledHour(row.id, hour - 3 * HOUR, spent)], {}, 250)
    assert (await usage.report(user_of(tenant))).state == ("paused" if paused else "exceeded")

    with pytest.raises(BudgetExceeded, match="not made now") as refused:
        await query(application, tenant, "SELECT 1")
    assert "the period ends" in (refused.value.hint or "")
    name = f"agent-{tenant.workspace_id}"
    assert await lifecycle.databases.find(Scope.AGENT, name) is None
    assert managed.provider is not None
    assert await managed.provider.find(name) == []

    assert (await lifecycle.create_workspace(tenant.workspace_id or "", user_of(tenant), "Notes")).uri
    await usage.reset(user_of(tenant))
    assert await query(application, tenant, "SELECT 1") == [[1]]
