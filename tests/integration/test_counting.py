"""What a server counts on top of a bill: all that the bill does not count, and nothing twice."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import BudgetState, Scope, Tenant
from agentdb_mcp.services.bills import Bill
from agentdb_mcp.services.budgets import Budgets
from agentdb_mcp.services.metering import to_us
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store import DatabaseRow

Opener = Callable[..., Awaitable[Application]]

# At this price two awakenings are three quarters of the free tier's month; a third would pause it.
THREE_QUARTERS, AWAKENING = "36", 75_000_000
MB, GB = 10**6, 10**9


@pytest.fixture
async def open_with(environ: dict[str, str]) -> AsyncIterator[Opener]:
    async with AsyncExitStack() as exits:

        async def open_one(**changes: str) -> Application:
            return await exits.enter_async_context(open_application(load_settings(environ | changes)))

        yield open_one


@pytest.fixture
def slow(tmp_path: Path) -> str:
    """A policy by which nothing happens in the background: whoever reads waits for a lock that a test holds."""
    path = tmp_path / "slow.toml"
    path.write_text('name = "slow"\n[metering]\nflush_s = 3600.0\n')
    return str(path)


@pytest.fixture
def tenant() -> Tenant:
    return Tenant(f"u{secrets.token_hex(6)}", f"w{secrets.token_hex(6)}")


async def query(application: Application, tenant: Tenant, sql: str) -> None:
    await application.queries.execute(tenant, Scope.AGENT, [Statement(sql)])


async def made(application: Application, tenant: Tenant) -> DatabaseRow:
    """The tenant's database, used once."""
    await query(application, tenant, "SELECT 1")
    row = await application.managed().lifecycle.databases.find(Scope.AGENT, f"agent-{tenant.workspace_id}")
    assert row is not None
    return row


def counting(application: Application, row: DatabaseRow, user_id: str) -> Callable[[int], None]:
    """Lets the server see a size."""
    budgets = application.managed().usage.budgets

    def see(size_bytes: int) -> None:
        budgets.metering.note_size(row.id, size_bytes)
        budgets.note_growth(user_id, row.id)

    return see


def during(
    budgets: Budgets, monkeypatch: pytest.MonkeyPatch, do: Callable[[], Awaitable[None]], *, before: bool
) -> None:
    """The next readings of bills are such that this happens just before the ledger is read, or just after."""
    look = budgets.look

    async def wrapped(user_ids: Collection[str]) -> list[Bill]:
        if before:
            await do()
        bills = await look(user_ids)
        if not before:
            await do()
        return bills

    monkeypatch.setattr(budgets, "look", wrapped)


def committed(budgets: Budgets, user_id: str) -> int:
    return budgets._position(budgets._accounts[user_id], 0).committed


def used(budgets: Budgets, user_id: str) -> int:
    return budgets._position(budgets._accounts[user_id], 0).used


async def test_a_call_that_ends_while_others_are_stored_is_counted_once(
    open_with: Opener, tenant: Tenant, slow: str
) -> None:
    application = await open_with(NEON_COMPUTE_PRICE_PER_CU_HOUR=THREE_QUARTERS, AGENTDB_POLICY=slow)
    budgets, user = application.managed().usage.budgets, tenant.user_id or ""
    other = replace(tenant, workspace_id=f"{tenant.workspace_id}-other")
    await made(application, tenant)
    await application.managed().lifecycle.create_workspace(other.workspace_id or "", user, "Other")
    async with budgets._ledger._control.transaction() as connection, anyio.create_task_group() as group:
        await connection.execute("LOCK TABLE db_usage_ledger IN EXCLUSIVE MODE")
        await query(application, tenant, "SELECT 2")
        for _ in range(2):
            group.start_soon(budgets.refresh, [user])
        await anyio.wait_all_tasks_blocked()
        await query(application, other, "SELECT 3")
        await connection.execute("COMMIT; BEGIN")
    assert (await budgets.state(user))[0] is BudgetState.OK
    assert 2 * AWAKENING <= used(budgets, user) < 2.5 * AWAKENING


@pytest.mark.parametrize("before", [True, False], ids=["before the ledger is read", "after"])
async def test_a_call_that_ends_while_a_bill_is_read_is_counted(
    open_with: Opener, tenant: Tenant, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    application = await open_with(NEON_COMPUTE_PRICE_PER_CU_HOUR=THREE_QUARTERS)
    budgets, user = application.managed().usage.budgets, tenant.user_id or ""
    other = replace(tenant, workspace_id=f"{tenant.workspace_id}-other")
    await made(application, tenant)
    await application.managed().lifecycle.create_workspace(other.workspace_id or "", user, "Other")

    async def call() -> None:
        await query(application, other, "SELECT 1")

    with monkeypatch.context() as patched:
        during(budgets, patched, call, before=before)
        await budgets.refresh([user])
    assert 2 * AWAKENING <= used(budgets, user) < 2.5 * AWAKENING
    await budgets.refresh([user])
    assert 2 * AWAKENING <= used(budgets, user) < 2.5 * AWAKENING


async def test_a_new_payer_pays_for_no_more_than_the_calls_that_follow(
    open_with: Opener, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two days without a pause were the former payer's; the first call of the new one's ends while a bill is read."""
    application = await open_with()
    managed, payer = application.managed(), f"{tenant.user_id}-other"
    budgets, now = managed.usage.budgets, datetime.now(UTC)
    row = await made(application, tenant)
    budgets.metering.meter.note(row.id, to_us(now - timedelta(days=2)), to_us(now))
    await budgets.refresh([tenant.user_id or ""])
    await managed.lifecycle.identity.ensure_user(payer)
    await managed.usage.store.ensure(payer, anchor=now - timedelta(days=3))
    await managed.lifecycle.databases.set_payer(row, payer)
    await budgets.bill(payer)

    async def call() -> None:
        budgets.note(payer, row.id, budgets.metering.note(row.id, datetime.now(UTC), 0, wrote=False))

    during(budgets, monkeypatch, call, before=False)
    await budgets.refresh([payer])
    assert 0 < budgets._accounts[payer].noted.awake_us <= 300_000_000


async def test_growth_that_is_seen_while_others_are_stored_is_counted_once(
    open_with: Opener, tenant: Tenant, slow: str
) -> None:
    application = await open_with(AGENTDB_POLICY=slow)
    budgets, user = application.managed().usage.budgets, tenant.user_id or ""
    row = await made(application, tenant)
    see = counting(application, row, user)
    see(MB)
    async with budgets._ledger._control.transaction() as connection, anyio.create_task_group() as group:
        await connection.execute("LOCK TABLE db_usage_ledger IN EXCLUSIVE MODE")
        await query(application, tenant, "SELECT 2")
        for _ in range(2):
            group.start_soon(budgets.refresh, [user])
        await anyio.wait_all_tasks_blocked()
        see(GB)
        see(2 * GB)
        await connection.execute("COMMIT; BEGIN")
    bill = await budgets.bill(user)
    assert sum(usage.size_bytes for usage, _ in bill.by_database) == 2 * GB
    assert committed(budgets, user) == bill.committed_microcents


async def test_growth_that_is_seen_after_a_bill_was_read_is_counted_on_top(open_with: Opener, tenant: Tenant) -> None:
    application = await open_with()
    budgets, user = application.managed().usage.budgets, tenant.user_id or ""
    see = counting(application, await made(application, tenant), user)
    see(MB)
    await budgets.refresh([user])
    see(GB)
    see(2 * GB)
    on_top = committed(budgets, user)
    await budgets.refresh([user])
    bill = await budgets.bill(user)
    assert sum(usage.size_bytes for usage, _ in bill.by_database) == 2 * GB
    assert committed(budgets, user) == bill.committed_microcents == pytest.approx(on_top, rel=0.01)


async def test_growth_that_another_server_saw_is_in_the_bill_and_not_counted_again(
    open_with: Opener, tenant: Tenant
) -> None:
    one, two = await open_with(), await open_with()
    user, row = tenant.user_id or "", await made(one, tenant)
    servers = [each.managed().usage.budgets for each in (one, two)]
    counting(one, row, user)(10 * MB)
    for budgets in servers:
        await budgets.refresh([user])
    counting(two, row, user)(4 * GB)
    for budgets in reversed(servers):
        await budgets.refresh([user])
    counting(one, row, user)(4 * GB)
    assert committed(servers[0], user) == servers[0]._accounts[user].bill.committed_microcents > 0


async def test_a_size_that_another_server_saw_later_stands(
    open_with: Opener, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await open_with(), await open_with()
    user, row = tenant.user_id or "", await made(one, tenant)
    budgets = one.managed().usage.budgets
    for each in (one, two):
        await each.managed().usage.budgets.refresh([user])

    async def both_look() -> None:
        counting(one, row, user)(10 * MB)
        counting(two, row, user)(6 * GB)
        await two.managed().usage.budgets.refresh([user])

    during(budgets, monkeypatch, both_look, before=True)
    await budgets.refresh([user])
    bill = budgets._accounts[user].bill
    assert sum(usage.size_bytes for usage, _ in bill.by_database) == 6 * GB
    assert committed(budgets, user) == bill.committed_microcents
