"""A workspace that changes hands: its database goes with it, and so does the bill."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import asyncpg
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.errors import BudgetExceeded, DatabaseUnavailable, NotAllowed
from agentdb_mcp.execution import Statement
from agentdb_mcp.jobs.table import follow_owners, reconcile
from agentdb_mcp.local_stack import LocalStack, local_stack
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store.control import create_database

Opener = Callable[[], Awaitable[Application]]


@pytest.fixture(scope="module")
async def stack(anyio_backend: str) -> AsyncIterator[LocalStack]:
    async with local_stack() as running:
        yield running


@pytest.fixture
async def open_one(stack: LocalStack) -> AsyncIterator[Opener]:
    async with AsyncExitStack() as exits:

        async def open_it() -> Application:
            return await exits.enter_async_context(open_application(load_settings(stack.environ())))

        yield open_it


@pytest.fixture
async def control(stack: LocalStack) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(stack.environ()["AGENTDB_CONTROL_URL"])
    yield connection
    await connection.close()


@pytest.fixture
def old() -> Tenant:
    return Tenant(f"old-{secrets.token_hex(4)}", f"w-{secrets.token_hex(4)}")


@pytest.fixture
def new(old: Tenant) -> Tenant:
    """Another user in the same workspace."""
    return Tenant(f"new-{secrets.token_hex(4)}", old.workspace_id)


@pytest.fixture
def never_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every call came after the time in which an open database is not looked at again."""
    monkeypatch.setattr("agentdb_mcp.services.databases.FRESH_S", 0.0)


async def query(application: Application, tenant: Tenant, sql: str, scope: Scope = Scope.AGENT) -> list[list[object]]:
    return (await application.queries.execute(tenant, scope, [Statement(sql)])).results[0].rows


async def hand_over(application: Application, control: asyncpg.Connection, to: Tenant) -> None:
    """As a platform does it: in its own tables, without telling us."""
    await application.managed().lifecycle.identity.ensure_user(to.user_id or "")
    done = await control.execute("UPDATE workspace SET owner_id = $2 WHERE id = $1", to.workspace_id, to.user_id)
    assert done == "UPDATE 1"


async def payer(control: asyncpg.Connection, tenant: Tenant) -> object:
    return await control.fetchval("SELECT user_id FROM workspace_database WHERE workspace_id = $1", tenant.workspace_id)


async def used(application: Application, tenant: Tenant) -> int:
    return (await application.managed().usage.report(tenant.user_id or "")).used_microcents


async def test_the_old_user_is_refused_although_the_database_was_open_in_this_process(
    open_one: Opener, control: asyncpg.Connection, old: Tenant, new: Tenant, never_fresh: None
) -> None:
    application = await open_one()
    await query(application, old, "CREATE TABLE kept (n int)")
    await hand_over(application, control, new)
    for _ in range(2):
        with pytest.raises(NotAllowed, match="another user") as refused:
            await query(application, old, "SELECT * FROM kept")
    assert (new.user_id or "") not in str(refused.value.as_dict())
    assert await query(application, new, "SELECT count(*) FROM kept") == [[0]]
    with pytest.raises(NotAllowed):
        await application.queries.catalog(old, Scope.AGENT, [Statement("SELECT 1")])


async def test_who_was_refused_is_refused_also_while_the_control_database_is_away(
    stack: LocalStack, old: Tenant, new: Tenant, never_fresh: None
) -> None:
    name = f"control_{secrets.token_hex(6)}"
    await create_database(stack.postgres.uri(), name)
    superuser = await asyncpg.connect(stack.postgres.uri().reveal())
    own = await asyncpg.connect((uri := stack.postgres.uri(name)).reveal())
    async with open_application(load_settings(stack.environ() | {"AGENTDB_CONTROL_URL": uri.reveal()})) as application:
        await query(application, old, "CREATE TABLE kept (n int)")
        await hand_over(application, own, new)
        with pytest.raises(NotAllowed):
            await query(application, old, "SELECT * FROM kept")
        assert await query(application, new, "SELECT * FROM kept") == []
        await superuser.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await superuser.fetch("SELECT pg_terminate_backend(pid, 3000) FROM pg_stat_activity WHERE datname = $1", name)
        with pytest.raises(DatabaseUnavailable, match="control database"):
            await query(application, old, "SELECT * FROM kept")
        assert await query(application, new, "SELECT * FROM kept") == []
        provider = application.managed().provider
        assert provider is not None
        for project in await provider.find(f"agent-{old.workspace_id}"):  # the other tests' control database knows none
            await provider.delete(project.id)
    await superuser.close()


async def test_the_old_user_is_refused_in_a_process_that_starts_afterwards(
    open_one: Opener, control: asyncpg.Connection, old: Tenant, new: Tenant
) -> None:
    first = await open_one()
    await query(first, old, "SELECT 1")
    await hand_over(first, control, new)
    with pytest.raises(NotAllowed, match="another user"):
        await query(await open_one(), old, "SELECT 1")


async def test_the_old_user_keeps_the_global_database_and_the_new_one_does_not_get_it(
    open_one: Opener, control: asyncpg.Connection, old: Tenant, new: Tenant, never_fresh: None
) -> None:
    application = await open_one()
    await query(application, old, "SELECT 1")
    await query(application, old, "CREATE TABLE mine (n int)", Scope.GLOBAL)
    await hand_over(application, control, new)
    assert await query(application, old, "SELECT count(*) FROM mine", Scope.GLOBAL) == [[0]]
    assert await query(application, new, "SELECT to_regclass('mine')", Scope.GLOBAL) == [[None]]


async def test_the_old_owner_pays_for_what_was_before_and_the_new_one_is_judged_from_the_first_call_on(
    open_one: Opener, control: asyncpg.Connection, old: Tenant, new: Tenant
) -> None:
    application = await open_one()
    await query(application, old, "SELECT 1")
    assert await payer(control, old) == old.user_id
    before = await used(application, old)
    assert before > 0
    await hand_over(application, control, new)
    await query(application, new, "SELECT 1")
    assert await payer(control, new) == new.user_id
    assert 0 <= await used(application, old) - before < 1000  # what is stored costs on until the payer changes
    assert await used(application, new) > 0


async def test_the_new_owner_is_judged_by_the_budget_of_the_new_owner(
    open_one: Opener, control: asyncpg.Connection, old: Tenant, new: Tenant, never_fresh: None
) -> None:
    application = await open_one()
    usage = application.managed().usage
    await query(application, old, "CREATE TABLE kept (n int)")
    await usage.set_tier(old.user_id or "", "free", 0)
    with pytest.raises(BudgetExceeded):
        await query(application, old, "INSERT INTO kept VALUES (1)")
    await hand_over(application, control, new)
    await query(application, new, "INSERT INTO kept VALUES (1)")
    await usage.set_tier(new.user_id or "", "free", 0)
    with pytest.raises(BudgetExceeded):
        await query(application, new, "INSERT INTO kept VALUES (2)")


async def test_the_new_owner_pays_without_a_call_also_when_the_old_ones_account_is_gone(
    open_one: Opener, control: asyncpg.Connection, old: Tenant, new: Tenant
) -> None:
    application = await open_one()
    await query(application, old, "CREATE TABLE kept (n int)")
    await query(application, old, "SELECT 1", Scope.GLOBAL)
    before = await used(application, old)
    await hand_over(application, control, new)
    assert await application.managed().lifecycle.begin_to_delete_user(old.user_id or "")
    await application.managed().lifecycle.delete_user(old.user_id or "")
    assert await payer(control, new) == new.user_id
    assert await control.fetchval('SELECT count(*) FROM "user" WHERE id = $1', old.user_id) == 0
    assert await used(application, new) < before
    assert await query(await open_one(), new, "SELECT count(*) FROM kept") == [[0]]


async def test_a_user_who_was_deleted_by_the_platform_alone_leaves_the_handed_over_database_to_the_job(
    open_one: Opener, control: asyncpg.Connection, old: Tenant, new: Tenant
) -> None:
    application = await open_one()
    await query(application, old, "CREATE TABLE kept (n int)")
    await hand_over(application, control, new)
    await control.execute('DELETE FROM "user" WHERE id = $1', old.user_id)
    assert await payer(control, new) is None
    await follow_owners(application)
    assert await payer(control, new) == new.user_id
    assert new.user_id not in await application.managed().usage.store.misplaced()
    await follow_owners(application)
    await reconcile(application, settled_s=0)
    assert await query(application, new, "SELECT count(*) FROM kept") == [[0]]


async def test_a_workspace_that_comes_back_is_its_old_users_again(
    open_one: Opener, control: asyncpg.Connection, old: Tenant, new: Tenant, never_fresh: None
) -> None:
    application = await open_one()
    await query(application, old, "CREATE TABLE kept (n int)")
    for owner, other in ((new, old), (old, new)):
        await hand_over(application, control, owner)
        assert await query(application, owner, "SELECT count(*) FROM kept") == [[0]]
        assert await payer(control, owner) == owner.user_id
        with pytest.raises(NotAllowed):
            await query(application, other, "SELECT 1")
