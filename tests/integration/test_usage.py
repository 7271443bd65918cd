"""A user's month: what statements cost, across servers, and what each state of the budget lets run."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.errors import AgentDBError, BudgetExceeded, InvalidArgument, SqlError, StatementTimeout
from agentdb_mcp.execution import Mode, Statement
from agentdb_mcp.local_stack import LocalStack
from agentdb_mcp.models import BudgetReport, BudgetState, Quantities, Scope, Tenant
from agentdb_mcp.services import Copied, Copying, Usage
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store import BudgetRow, BudgetStore, SettledHour
from agentdb_mcp.store.control import create_database

Opener = Callable[..., Awaitable[Application]]

CENT = 1_000_000
FREE = 200 * CENT
# What the shipped policy takes for one suspend time-out of the smallest compute.
ONE_AWAKENING = 220_833
# One second of running at that size.
SECOND = 737
# What is stored costs exactly so much, by the shipped policy.
GB_MONTH, GB_MONTH_US = 35_000_000, 10**9 * 744 * 3_600_000_000
# Each in an hour of its own.
_hours = count()


@pytest.fixture
def quick(tmp_path: Path) -> str:
    """A policy by which servers look at budgets all the time."""
    path = tmp_path / "quick.toml"
    path.write_text('name = "quick"\n[metering]\nflush_s = 0.01\n')
    return str(path)


@pytest.fixture
async def open_with(environ: dict[str, str]) -> AsyncIterator[Opener]:
    async with AsyncExitStack() as exits:

        async def open_one(**changes: str) -> Application:
            return await exits.enter_async_context(open_application(load_settings(environ | changes)))

        yield open_one


@pytest.fixture
async def application(open_with: Opener) -> Application:
    return await open_with()


@pytest.fixture
def usage(application: Application) -> Usage:
    return application.managed().usage


@pytest.fixture
async def tenant(application: Application) -> Tenant:
    """A user with an agent database in use, which has cost nothing so far."""
    tenant = Tenant(f"u{secrets.token_hex(6)}", f"w{secrets.token_hex(6)}")
    lifecycle = application.managed().lifecycle
    await lifecycle.identity.ensure_user(user_of(tenant))
    await application.managed().usage.store.ensure(user_of(tenant), anchor=datetime.now(UTC) - timedelta(days=3))
    await lifecycle.create_workspace(tenant.workspace_id or "", user_of(tenant), "Notes")
    return tenant


def user_of(tenant: Tenant) -> str:
    assert tenant.user_id
    return tenant.user_id


async def query(application: Application, tenant: Tenant, sql: str, scope: Scope = Scope.AGENT) -> list[list[object]]:
    return (await application.queries.execute(tenant, scope, [Statement(sql)])).results[0].rows


async def spend(application: Application, tenant: Tenant, microcents: int) -> BudgetReport:
    """Let the agent database have cost this much more, and this server know of it."""
    managed = application.managed()
    row = await managed.lifecycle.databases.find(Scope.AGENT, f"agent-{tenant.workspace_id}")
    assert row is not None
    stored = round(microcents * GB_MONTH_US / GB_MONTH)
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2 + next(_hours) % 40)
    await managed.usage.ledger.settle([SettledHour(row.id, hour, Quantities(storage_byte_us=stored))], {}, 250)
    return await managed.usage.report(user_of(tenant))


def costs(report: BudgetReport) -> dict[str, int]:
    return {each.name: each.cost_microcents for each in report.by_database}


async def test_a_new_user_has_used_nothing(usage: Usage, tenant: Tenant) -> None:
    report = await usage.report(user_of(tenant))
    assert (report.used_microcents, report.limit_microcents, report.state, report.tier) == (
        0,
        FREE,
        BudgetState.OK,
        "free",
    )
    assert costs(report) == {"Notes": 0}
    start, end = (datetime.fromisoformat(moment) for moment in (report.period_start, report.period_end))
    assert timedelta(days=28) <= end - start <= timedelta(days=31)


async def test_a_statement_costs_its_running_time_and_one_suspend_timeout(
    application: Application, usage: Usage, tenant: Tenant
) -> None:
    await query(application, tenant, "SELECT 1")
    report = await usage.report(user_of(tenant))
    assert ONE_AWAKENING <= costs(report)["Notes"] <= ONE_AWAKENING + 30 * SECOND


async def test_many_statements_at_once_cost_little_more_than_one(
    application: Application, usage: Usage, tenant: Tenant
) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(30):
            group.start_soon(query, application, tenant, "SELECT 1")
    report = await usage.report(user_of(tenant))
    assert ONE_AWAKENING <= report.used_microcents <= ONE_AWAKENING + 60 * SECOND


async def test_a_statement_that_fails_costs_as_well(application: Application, usage: Usage, tenant: Tenant) -> None:
    with pytest.raises(SqlError):
        await query(application, tenant, "SELECT 1/0")
    assert (await usage.report(user_of(tenant))).used_microcents >= ONE_AWAKENING


async def test_each_database_has_its_own_cost_and_the_user_pays_the_sum(
    application: Application, usage: Usage, tenant: Tenant
) -> None:
    second = Tenant(tenant.user_id, f"{tenant.workspace_id}-2")
    await query(application, tenant, "SELECT 1")
    await query(application, second, "SELECT 1")
    await query(application, tenant, "SELECT 1", Scope.GLOBAL)
    report = await usage.report(user_of(tenant))
    assert report.used_microcents == sum(costs(report).values())
    assert costs(report).keys() == {"global", "Notes", second.workspace_id}
    assert all(cost >= ONE_AWAKENING for cost in costs(report).values())
    by_workspace = {each.workspace_id for each in report.by_database if each.scope is Scope.AGENT}
    assert by_workspace == {tenant.workspace_id, second.workspace_id}


async def test_servers_that_keep_the_same_compute_awake_share_its_cost(
    open_with: Opener, environ: dict[str, str], tenant: Tenant
) -> None:
    for _ in range(2):
        async with open_application(load_settings(environ)) as server:
            await query(server, tenant, "SELECT 1")
    report = await (await open_with()).managed().usage.report(user_of(tenant))
    assert ONE_AWAKENING <= report.used_microcents <= ONE_AWAKENING + 60 * SECOND


async def test_servers_that_store_at_once_lose_nothing(open_with: Opener, tenant: Tenant) -> None:
    servers = [await open_with() for _ in range(3)]
    tenants = [Tenant(tenant.user_id, f"{tenant.workspace_id}-{number}") for number in range(3)]
    for server, each in zip(servers, tenants, strict=True):
        await query(server, each, "SELECT 1")
        await query(server, tenants[0], "SELECT 1")
    async with anyio.create_task_group() as group:
        for server in servers:
            for _ in range(4):
                group.start_soon(server.managed().usage.budgets.flush)
    report = await servers[0].managed().usage.report(user_of(tenant))
    assert 3 * ONE_AWAKENING <= report.used_microcents <= 3 * ONE_AWAKENING + 90 * SECOND


async def test_what_one_server_uses_up_stops_the_other(open_with: Opener, tenant: Tenant, quick: str) -> None:
    one, other = await open_with(), await open_with(AGENTDB_POLICY=quick)
    await query(other, tenant, "CREATE TABLE t (n int)")
    await spend(one, tenant, FREE + CENT)
    with pytest.raises(BudgetExceeded):
        await query(other, tenant, "INSERT INTO t VALUES (1)")


async def test_the_budget_bites_at_the_next_statement(open_with: Opener, tenant: Tenant) -> None:
    """At this price one awakening of five minutes costs all but a little of the free tier's month."""
    application = await open_with(NEON_COMPUTE_PRICE_PER_CU_HOUR="95.5")
    await query(application, tenant, "CREATE TABLE t (n int)")
    other = Tenant(tenant.user_id, f"{tenant.workspace_id}-other")
    with pytest.raises(BudgetExceeded):
        await query(application, other, "CREATE TABLE t (n int)")
    assert await query(application, tenant, "SELECT count(*) FROM t") == [[0]]


async def test_a_call_that_ends_while_others_are_stored_is_counted_once(open_with: Opener, tenant: Tenant) -> None:
    """At this price two awakenings are three quarters of the free tier's month; a third would pause it."""
    application = await open_with(NEON_COMPUTE_PRICE_PER_CU_HOUR="36")
    managed = application.managed()
    budgets = managed.usage.budgets
    other = replace(tenant, workspace_id=f"{tenant.workspace_id}-other")
    await managed.lifecycle.create_workspace(other.workspace_id or "", user_of(tenant), "Other")
    await query(application, tenant, "SELECT 1")
    async with budgets._ledger._control.transaction() as connection, anyio.create_task_group() as group:
        await connection.execute("LOCK TABLE db_usage_ledger IN EXCLUSIVE MODE")
        await query(application, tenant, "SELECT 2")
        for _ in range(2):
            group.start_soon(budgets.refresh, [user_of(tenant)])
        await anyio.wait_all_tasks_blocked()
        await query(application, other, "SELECT 3")
        await connection.execute("COMMIT; BEGIN")
    assert (await budgets.state(user_of(tenant)))[0] is BudgetState.OK


async def test_growth_that_is_seen_while_others_are_stored_is_counted_once(open_with: Opener, tenant: Tenant) -> None:
    application = await open_with()
    budgets, user = application.managed().usage.budgets, user_of(tenant)
    await query(application, tenant, "SELECT 1")
    row = await application.managed().lifecycle.databases.find(Scope.AGENT, f"agent-{tenant.workspace_id}")
    assert row is not None
    metering, size = budgets.metering, 10**9
    metering.note_size(row.id, 10**6)
    async with budgets._ledger._control.transaction() as connection, anyio.create_task_group() as group:
        await connection.execute("LOCK TABLE db_usage_ledger IN EXCLUSIVE MODE")
        await query(application, tenant, "SELECT 2")
        for _ in range(2):
            group.start_soon(budgets.refresh, [user])
        await anyio.wait_all_tasks_blocked()
        budgets.note_growth(user, row.id, metering.note_size(row.id, size))
        await connection.execute("COMMIT; BEGIN")
    bill = await budgets.bill(user)
    assert bill.size_bytes(row.id) == size
    assert budgets._position(budgets._accounts[user], 0).committed == bill.committed_microcents


async def test_a_statement_runs_no_longer_than_the_budget_pays_for(open_with: Opener, tenant: Tenant) -> None:
    """What is left after the awakening pays for about two seconds."""
    application = await open_with(NEON_COMPUTE_PRICE_PER_CU_HOUR="95.3")
    with pytest.raises(StatementTimeout) as ended:
        await query(application, tenant, "SELECT pg_sleep(14)")
    assert "no longer than the budget pays for" in (ended.value.hint or "")
    report = await application.managed().usage.report(user_of(tenant))
    assert report.used_microcents <= FREE * 1.03


async def test_a_catalog_read_runs_no_longer_than_the_budget_pays_for(open_with: Opener, tenant: Tenant) -> None:
    application = await open_with(NEON_COMPUTE_PRICE_PER_CU_HOUR="95.3")
    with pytest.raises(StatementTimeout):
        await application.queries.catalog(tenant, Scope.AGENT, [Statement("SELECT pg_sleep(10)")] * 2)


async def test_a_call_that_waits_for_others_begins_when_the_budget_is_raised(open_with: Opener, tenant: Tenant) -> None:
    """What is left pays for one awakening; the second call would wait for it to end, or for its time limit."""
    application = await open_with(NEON_COMPUTE_PRICE_PER_CU_HOUR="60")
    managed = application.managed()
    other = replace(tenant, workspace_id=f"{tenant.workspace_id}-other")
    await managed.lifecycle.create_workspace(other.workspace_id or "", user_of(tenant), "Other")
    begun, done = anyio.Event(), anyio.Event()

    async def hold() -> None:
        async with managed.usage.budgets.admit(user_of(tenant), "held", 1):
            begun.set()
            await done.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(hold)
        await begun.wait()
        with anyio.fail_after(10):
            async with anyio.create_task_group() as both:
                both.start_soon(query, application, other, "CREATE TABLE t (n int)")
                await anyio.wait_all_tasks_blocked()
                await managed.usage.set_tier(user_of(tenant), "enterprise")
        done.set()


async def test_what_runs_at_once_cannot_spend_the_same_remainder(open_with: Opener, tenant: Tenant) -> None:
    """Sixty-four statements on sixteen databases, and money for three awakenings."""
    application = await open_with(NEON_COMPUTE_PRICE_PER_CU_HOUR="30")
    tenants = [Tenant(tenant.user_id, f"{tenant.workspace_id}-{number}") for number in range(16)]
    for each in tenants:
        await application.managed().lifecycle.create_workspace(each.workspace_id or "", user_of(each), "Notes")
    outcomes: list[str] = []

    async def write(each: Tenant) -> None:
        try:
            await query(application, each, "CREATE TABLE IF NOT EXISTS t (n int)")
        except BudgetExceeded:
            outcomes.append("refused")
        else:
            outcomes.append("done")

    async with anyio.create_task_group() as group:
        for each in tenants * 4:
            group.start_soon(write, each)
    report = await application.managed().usage.report(user_of(tenant))
    assert report.used_microcents <= FREE * 1.02
    assert 8 <= outcomes.count("done") <= 12


async def test_data_that_would_use_the_budget_up_can_be_removed_and_that_lifts_it(
    open_with: Opener, tenant: Tenant
) -> None:
    """At this price an empty database costs a third of the free tier's month, and the rows twice all of it."""
    application = await open_with(NEON_STORAGE_PRICE_PER_GB_MONTH="90")
    await query(application, tenant, "CREATE TABLE t (v text STORAGE EXTERNAL)")
    rows = "INSERT INTO t SELECT repeat('x', 3000) || i FROM generate_series(1, 14000) AS i, pg_sleep(0.3)"
    await query(application, tenant, rows)
    for sql in ("INSERT INTO t VALUES ('more')", "SELECT count(*) FROM t"):
        with pytest.raises(BudgetExceeded) as refused:
            await query(application, tenant, sql)
        assert "DROP" in (refused.value.hint or "")
        assert "stored now will cost $" in (refused.value.hint or "")
    await query(application, tenant, "DROP TABLE t")
    await query(application, tenant, "CREATE TABLE t (v text)")


READS = ["SELECT count(*) FROM t", "EXPLAIN SELECT * FROM t", "SHOW server_version"]
WRITES = ["INSERT INTO t VALUES (1)", "UPDATE t SET n = 2", "DELETE FROM t", "TRUNCATE t", "CREATE TABLE u (n int)"]
DROPS = ["DROP TABLE IF EXISTS old"]


@pytest.mark.parametrize(
    ("percent", "state", "allowed", "refused"),
    [
        (79, BudgetState.OK, READS + WRITES + DROPS, []),
        (80, BudgetState.WARNING, READS + WRITES + DROPS, []),
        (101, BudgetState.EXCEEDED, READS + DROPS, WRITES),
        (110, BudgetState.PAUSED, [], READS + WRITES + DROPS),
    ],
    ids=["ok", "warning", "exceeded", "paused"],
)
async def test_each_state_lets_run_what_the_policy_says(
    application: Application,
    tenant: Tenant,
    percent: int,
    state: BudgetState,
    allowed: list[str],
    refused: list[str],
) -> None:
    for table in ("t", "old"):
        await query(application, tenant, f"CREATE TABLE {table} (n int)")
    used = (await application.managed().usage.report(user_of(tenant))).used_microcents
    report = await spend(application, tenant, FREE * percent // 100 - used)
    assert report.state is state
    for sql in allowed:
        await query(application, tenant, sql)
    for sql in refused:
        with pytest.raises(BudgetExceeded) as error:
            await query(application, tenant, sql)
        assert error.value.code == "budget_exceeded"
        assert report.period_end in (error.value.hint or "")


@pytest.mark.parametrize("percent", [79, 80, 100])
async def test_answers_carry_a_note_from_the_warning_on(application: Application, tenant: Tenant, percent: int) -> None:
    await spend(application, tenant, FREE * percent // 100)
    answer = await application.queries.execute(tenant, Scope.AGENT, [Statement("SELECT 1")])
    if percent < 80:
        assert answer.budget_note is None
    else:
        assert answer.budget_note is not None
        assert "$2.00" in answer.budget_note


async def test_an_exceeded_budget_holds_for_the_global_database_too_and_for_no_other_user(
    application: Application, tenant: Tenant
) -> None:
    other = Tenant(f"{tenant.user_id}-other", f"{tenant.workspace_id}-other")
    await query(application, other, "CREATE TABLE t (n int)")
    await spend(application, tenant, FREE + CENT)
    for scope in Scope:
        with pytest.raises(BudgetExceeded):
            await query(application, tenant, "CREATE TABLE t (n int)", scope)
    await query(application, other, "INSERT INTO t VALUES (1)")


async def test_in_a_transaction_one_refused_statement_refuses_all(application: Application, tenant: Tenant) -> None:
    await query(application, tenant, "CREATE TABLE t (n int)")
    await spend(application, tenant, FREE + CENT)
    with pytest.raises(BudgetExceeded):
        await application.queries.execute(
            tenant, Scope.AGENT, [Statement("DROP TABLE t"), Statement("CREATE TABLE u (n int)")], transaction=True
        )
    assert await query(application, tenant, "SELECT to_regclass('t') IS NULL") == [[False]]


async def test_a_new_period_lifts_what_the_old_one_refused(
    application: Application, usage: Usage, tenant: Tenant
) -> None:
    before = await spend(application, tenant, 2 * FREE)
    with pytest.raises(BudgetExceeded):
        await query(application, tenant, "SELECT 1")
    after = await usage.reset(user_of(tenant))
    assert after.used_microcents <= ONE_AWAKENING
    assert after.state is BudgetState.OK
    assert after.period_start >= before.period_start
    assert await query(application, tenant, "SELECT 1") == [[1]]


async def test_what_was_metered_before_a_new_period_is_not_counted_in_it(
    application: Application, usage: Usage, tenant: Tenant
) -> None:
    """But for the rest of the time that the compute stays awake."""
    await query(application, tenant, "SELECT pg_sleep(1)")
    for report in (await usage.reset(user_of(tenant)), await usage.report(user_of(tenant))):
        assert ONE_AWAKENING - 30 * SECOND <= report.used_microcents <= ONE_AWAKENING


async def test_a_tier_change_moves_the_limit_at_once_in_both_directions(
    application: Application, usage: Usage, tenant: Tenant
) -> None:
    await spend(application, tenant, FREE + CENT)
    with pytest.raises(BudgetExceeded):
        await query(application, tenant, "CREATE TABLE t (n int)")
    paid = await usage.set_tier(user_of(tenant), "paid")
    assert (paid.tier, paid.limit_microcents, paid.state) == ("paid", 2000 * CENT, BudgetState.OK)
    await query(application, tenant, "CREATE TABLE t (n int)")
    free = await usage.set_tier(user_of(tenant), "free")
    assert free.state is BudgetState.EXCEEDED
    with pytest.raises(BudgetExceeded):
        await query(application, tenant, "INSERT INTO t VALUES (1)")


async def test_a_custom_limit_counts_instead_of_the_tiers_until_it_is_taken_back(
    application: Application, usage: Usage, tenant: Tenant
) -> None:
    user = user_of(tenant)
    assert (await usage.set_tier(user, "free", 5_000)).limit_microcents == 5_000 * CENT
    nothing = await usage.set_tier(user, "free", 0)
    assert (nothing.limit_microcents, nothing.state) == (0, BudgetState.PAUSED)
    with pytest.raises(BudgetExceeded):
        await query(application, tenant, "SELECT 1")
    assert (await usage.set_tier(user, "free")).limit_microcents == FREE


async def test_a_tier_or_a_user_that_is_not_there_is_refused_by_name(usage: Usage, tenant: Tenant) -> None:
    with pytest.raises(InvalidArgument, match="no tier gold") as refused:
        await usage.set_tier(user_of(tenant), "gold")
    assert "free, paid, enterprise" in (refused.value.hint or "")
    for call in (usage.report, usage.reset):
        with pytest.raises(InvalidArgument, match="no user nobody"):
            await call("nobody")


async def test_a_user_who_is_deleted_while_a_call_begins_is_not_there(
    application: Application, usage: Usage, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ensure(store: BudgetStore, user_id: str, *arguments: object, **options: object) -> BudgetRow:
        row = await found(store, user_id, *arguments, **options)
        async with store._control.connection() as connection:
            await connection.execute("DELETE FROM user_db_budget WHERE user_id = $1", user_id)
        return row

    found: Any = BudgetStore.ensure
    monkeypatch.setattr(BudgetStore, "ensure", ensure)
    with pytest.raises(InvalidArgument, match=f"There is no user {tenant.user_id}"):
        await usage.budgets.bill(tenant.user_id)
    with pytest.raises(InvalidArgument, match=f"There is no user {tenant.user_id}"):
        await usage.report(tenant.user_id)


async def test_the_documents_columns_follow_the_report(
    environ: dict[str, str], application: Application, tenant: Tenant
) -> None:
    await spend(application, tenant, FREE + 50 * CENT)
    connection = await asyncpg.connect(environ["AGENTDB_CONTROL_URL"])
    stored = await connection.fetchrow(
        "SELECT b.total_cost_cents, b.budget_exceeded, w.current_period_cost_cents"
        " FROM user_db_budget AS b JOIN workspace_database AS w USING (user_id) WHERE user_id = $1",
        tenant.user_id,
    )
    await connection.close()
    assert tuple(stored) == (250, True, 250)


async def test_costs_survive_a_control_database_that_is_away_for_a_while(
    stack: LocalStack, environ: dict[str, str], quick: str
) -> None:
    tenant = Tenant("u-away", "w-away")
    name = f"control_{secrets.token_hex(6)}"
    await create_database(stack.postgres.uri(), name)
    superuser = await asyncpg.connect(stack.postgres.uri().reveal())
    settings = load_settings(
        environ | {"AGENTDB_POLICY": quick, "AGENTDB_CONTROL_URL": stack.postgres.uri(name).reveal()}
    )
    async with open_application(settings) as application:
        await query(application, tenant, "SELECT 1")
        await superuser.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await superuser.fetch("SELECT pg_terminate_backend(pid, 3000) FROM pg_stat_activity WHERE datname = $1", name)
        assert await query(application, tenant, "SELECT 1") == [[1]]
        await superuser.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        report = await application.managed().usage.report("u-away")
    await superuser.close()
    assert ONE_AWAKENING <= report.used_microcents <= ONE_AWAKENING + 60 * SECOND


async def test_a_users_own_database_costs_nothing(
    stack: LocalStack, open_with: Opener, usage: Usage, tenant: Tenant
) -> None:
    application = await open_with(AGENT_DB_URL=stack.postgres.uri().reveal())
    before = await spend(application, tenant, 2 * FREE)
    assert await query(application, tenant, "SELECT 1") == [[1]]
    assert costs(await usage.report(user_of(tenant))) == costs(before)


async def test_nothing_of_a_refusal_names_the_database(application: Application, tenant: Tenant) -> None:
    await spend(application, tenant, 2 * FREE)
    found = await application.queries._databases.open(tenant, Scope.AGENT)
    parts = urlsplit(found.target.uri.reveal())
    with pytest.raises(AgentDBError) as refused:
        await query(application, tenant, "SELECT 1")
    said = f"{refused.value.as_dict()}"
    assert not [part for part in (parts.username, parts.password, parts.path[1:], str(parts.port)) if str(part) in said]


async def copy(application: Application, tenant: Tenant, query: str, mode: Mode = "append") -> Copied:
    async def report(_rows: int, _message: str) -> None:
        pass

    copying = Copying(application.queries.calls)
    with anyio.fail_after(20):
        return await copying.copy(tenant, Scope.AGENT, query, ("public", "copied"), mode, report)


async def test_a_copy_costs_on_both_databases_and_is_sent_by_the_one_that_is_read(
    open_with: Opener, tenant: Tenant, tmp_path: Path
) -> None:
    (tmp_path / "slow.toml").write_text('name = "slow"\n[metering]\nflush_s = 3600.0\n')  # the meter keeps all of it
    application = await open_with(AGENTDB_POLICY=str(tmp_path / "slow.toml"))
    usage = application.managed().usage
    metering = usage.budgets.metering
    copied = await copy(application, tenant, "SELECT repeat('x', 1000) AS x FROM generate_series(1, 5000)", "create")
    databases = application.managed().lifecycle.databases
    rows = [
        await databases.find(Scope.AGENT, f"agent-{tenant.workspace_id}"),
        await databases.find(Scope.GLOBAL, f"global-{user_of(tenant)}"),
    ]
    hours = metering.meter.take()  # two of a database shortly before the end of an hour, for which it stays awake
    sent = [sum(each.sent_bytes_total for each in hours if each.key == row.id) for row in rows if row]
    assert sent == [copied.bytes, 0]
    assert copied.bytes == 5_005_000
    report = await usage.report(user_of(tenant))
    assert all(each.cost_microcents > 0 for each in report.by_database)
    sizes = {each.scope: each.size_bytes for each in report.by_database}
    assert sizes[Scope.GLOBAL] > 5_000_000


async def test_a_budget_that_is_used_up_pays_for_no_copy(application: Application, tenant: Tenant) -> None:
    await copy(application, tenant, "SELECT 1 AS id", "create")
    await spend(application, tenant, FREE + CENT)
    for mode in ("append", "replace", "create"):
        with pytest.raises(BudgetExceeded):
            await copy(application, tenant, "SELECT 2 AS id", mode)
    assert await query(application, tenant, "SELECT * FROM copied", Scope.GLOBAL) == [[1]]


async def test_copies_at_the_end_of_a_budget_do_not_wait_for_what_they_hold_themselves(
    application: Application, usage: Usage, tenant: Tenant
) -> None:
    await copy(application, tenant, "SELECT 1 AS id", "create")
    used = (await usage.report(user_of(tenant))).used_microcents
    await spend(application, tenant, FREE - CENT // 3 - used)
    ended = []

    async def one() -> None:
        try:
            ended.append(await copy(application, tenant, "SELECT 2 AS id"))
        except BudgetExceeded as error:
            ended.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(one)
    assert len(ended) == 2
