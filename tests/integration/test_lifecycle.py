"""Users and workspaces come and go with their databases: idempotent, all or nothing, in any order and at once."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import asyncpg
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.errors import DatabaseUnavailable, InvalidArgument, NotAllowed, NotAuthenticated, ProvisioningFailed
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import DatabaseStatus, Scope, Tenant, TokenScope
from agentdb_mcp.services import Lifecycle
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store import DatabaseRow

Opener = Callable[..., Awaitable[Application]]

WRONG_KEY = {"NEON_API_KEY": "napi_wrong"}


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
def lifecycle(application: Application) -> Lifecycle:
    return application.managed().lifecycle


@pytest.fixture
async def control(environ: dict[str, str], application: Application) -> AsyncIterator[asyncpg.Connection]:
    async with application.managed().control.connection():
        pass  # brings it up to date
    connection = await asyncpg.connect(environ["AGENTDB_CONTROL_URL"])
    yield connection
    await connection.close()


@pytest.fixture
def user() -> str:
    return f"u{secrets.token_hex(6)}"


@pytest.fixture
def workspace() -> str:
    return f"w{secrets.token_hex(6)}"


async def projects(application: Application, name: str) -> list[str]:
    provider = application.managed().provider
    assert provider is not None
    return [project.id for project in await provider.find(name)]


async def query(application: Application, tenant: Tenant, scope: Scope, *sql: str) -> list[list[object]]:
    statements = [Statement(text) for text in sql]
    answer = await application.queries.execute(tenant, scope, statements, transaction=len(sql) > 1)
    return answer.results[-1].rows


async def rows_about(control: asyncpg.Connection, user: str) -> dict[str, int]:
    counts = {}
    for table, column in (("user", "id"), ("user_db_budget", "user_id"), ("workspace", "owner_id")):
        counts[table] = await control.fetchval(f'SELECT count(*) FROM "{table}" WHERE {column} = $1', user)
    return counts


async def test_a_new_user_has_a_budget_and_a_ready_global_database(
    application: Application, lifecycle: Lifecycle, control: asyncpg.Connection, user: str
) -> None:
    row = await lifecycle.create_user(user, "paid")
    assert (row.status, row.owner_id, row.user_id) == (DatabaseStatus.READY, user, user)
    assert await projects(application, f"global-{user}") == [row.project_id]
    assert await rows_about(control, user) == {"user": 1, "user_db_budget": 1, "workspace": 0}
    assert await query(application, Tenant(user), Scope.GLOBAL, "SELECT 1") == [[1]]
    assert (await application.managed().usage.report(user)).tier == "paid"


async def test_creating_what_exists_returns_it(
    application: Application, lifecycle: Lifecycle, user: str, workspace: str
) -> None:
    user_row = await lifecycle.create_user(user, "paid")
    assert await lifecycle.create_user(user, "free") == user_row
    assert (await application.managed().usage.report(user)).tier == "paid"
    row = await lifecycle.create_workspace(workspace, user, "Notes")
    assert await lifecycle.create_workspace(workspace, user, "Other name") == row
    assert await projects(application, f"agent-{workspace}") == [row.project_id]


async def test_creating_at_once_in_two_applications_makes_one(open_with: Opener, user: str, workspace: str) -> None:
    applications = [await open_with(), await open_with()]
    rows: list[DatabaseRow] = []

    async def register(application: Application) -> None:
        rows.append(await application.managed().lifecycle.create_user(user))

    async def create(application: Application) -> None:
        rows.append(await application.managed().lifecycle.create_workspace(workspace, user, "Notes"))

    for work in (register, create):
        rows.clear()
        async with anyio.create_task_group() as group:
            for application in applications * 3:
                group.start_soon(work, application)
        assert len({row.project_id for row in rows}) == 1
        assert await projects(applications[0], rows[0].project_name) == [rows[0].project_id]


async def test_each_workspace_has_a_database_of_its_own_and_the_users_is_shared(
    application: Application, lifecycle: Lifecycle, user: str, workspace: str
) -> None:
    await lifecycle.create_user(user)
    tenants = [Tenant(user, workspace), Tenant(user, f"{workspace}-2")]
    for tenant in tenants:
        assert tenant.workspace_id
        await lifecycle.create_workspace(tenant.workspace_id, user, tenant.workspace_id)
    await query(application, tenants[0], Scope.AGENT, "CREATE TABLE mine (n int)")
    await query(application, tenants[0], Scope.GLOBAL, "CREATE TABLE ours (n int)")
    seen = "SELECT to_regclass('mine') IS NOT NULL, to_regclass('ours') IS NOT NULL"
    assert await query(application, tenants[1], Scope.AGENT, seen) == [[False, False]]
    assert await query(application, tenants[1], Scope.GLOBAL, seen) == [[False, True]]


async def test_a_workspace_of_a_user_that_nobody_knows_is_refused(
    application: Application, lifecycle: Lifecycle, control: asyncpg.Connection, workspace: str
) -> None:
    with pytest.raises(InvalidArgument, match="no user nobody"):
        await lifecycle.create_workspace(workspace, "nobody", "Notes")
    assert await projects(application, f"agent-{workspace}") == []
    assert await rows_about(control, "nobody") == {"user": 0, "user_db_budget": 0, "workspace": 0}


async def test_the_workspace_of_another_user_is_refused_and_stays_as_it_is(
    application: Application, lifecycle: Lifecycle, user: str, workspace: str
) -> None:
    for each in (user, f"{user}-2"):
        await lifecycle.create_user(each)
    row = await lifecycle.create_workspace(workspace, user, "Notes")
    with pytest.raises(NotAllowed, match="another user"):
        await lifecycle.create_workspace(workspace, f"{user}-2", "Mine now")
    assert await lifecycle.create_workspace(workspace, user, "Notes") == row


async def test_a_registration_that_fails_leaves_nothing(
    open_with: Opener, application: Application, control: asyncpg.Connection, user: str
) -> None:
    refused = await open_with(**WRONG_KEY)
    with pytest.raises(ProvisioningFailed, match="key") as failed:
        await refused.managed().lifecycle.create_user(user, "paid")
    assert failed.value.hint
    assert "napi_wrong" not in f"{failed.value} {failed.value.hint}"
    assert await rows_about(control, user) == {"user": 0, "user_db_budget": 0, "workspace": 0}
    assert await projects(application, f"global-{user}") == []


async def test_a_workspace_that_fails_leaves_nothing_but_the_user(
    open_with: Opener, application: Application, lifecycle: Lifecycle, control: asyncpg.Connection, user: str
) -> None:
    await lifecycle.create_user(user)
    refused = await open_with(**WRONG_KEY)
    with pytest.raises(ProvisioningFailed, match="key"):
        await refused.managed().lifecycle.create_workspace(f"w-{user}", user, "Notes")
    assert await rows_about(control, user) == {"user": 1, "user_db_budget": 1, "workspace": 0}
    assert await projects(application, f"agent-w-{user}") == []


async def test_a_registration_that_failed_succeeds_when_it_is_repeated(
    open_with: Opener, application: Application, lifecycle: Lifecycle, user: str
) -> None:
    refused = await open_with(**WRONG_KEY)
    with pytest.raises(ProvisioningFailed):
        await refused.managed().lifecycle.create_user(user)
    assert (await lifecycle.create_user(user)).status is DatabaseStatus.READY
    assert len(await projects(application, f"global-{user}")) == 1


async def test_a_workspace_that_failed_succeeds_when_it_is_repeated(
    open_with: Opener, application: Application, lifecycle: Lifecycle, user: str, workspace: str
) -> None:
    await lifecycle.create_user(user)
    refused = await open_with(**WRONG_KEY)
    with pytest.raises(ProvisioningFailed):
        await refused.managed().lifecycle.create_workspace(workspace, user, "Notes")
    assert (await lifecycle.create_workspace(workspace, user, "Notes")).status is DatabaseStatus.READY
    assert len(await projects(application, f"agent-{workspace}")) == 1


async def test_a_first_use_that_failed_succeeds_when_it_is_repeated(
    open_with: Opener, application: Application, user: str, workspace: str
) -> None:
    tenant = Tenant(user, workspace)
    refused = await open_with(**WRONG_KEY)
    with pytest.raises(ProvisioningFailed, match="key"):
        await query(refused, tenant, Scope.AGENT, "SELECT 1")
    assert await query(application, tenant, Scope.AGENT, "SELECT 1") == [[1]]


async def test_a_deleted_workspace_is_gone_with_its_project(
    application: Application, lifecycle: Lifecycle, control: asyncpg.Connection, user: str, workspace: str
) -> None:
    await lifecycle.create_user(user)
    await lifecycle.create_workspace(workspace, user, "Notes")
    await lifecycle.delete_workspace(workspace)
    assert await projects(application, f"agent-{workspace}") == []
    assert await rows_about(control, user) == {"user": 1, "user_db_budget": 1, "workspace": 0}
    tombstone = await control.fetchrow(
        "SELECT workspace_id, status, neon_connection_uri FROM workspace_database WHERE project_name = $1",
        f"agent-{workspace}",
    )
    assert tuple(tombstone) == (None, "deleted", None)


async def test_using_a_deleted_workspace_is_a_clear_error_and_makes_nothing(
    open_with: Opener, lifecycle: Lifecycle, user: str, workspace: str
) -> None:
    tenant = Tenant(user, workspace)
    await lifecycle.create_user(user)
    await lifecycle.create_workspace(workspace, user, "Notes")
    in_use, fresh = await open_with(), await open_with()
    await query(in_use, tenant, Scope.AGENT, "SELECT 1")
    await lifecycle.delete_workspace(workspace)
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            await query(in_use, tenant, Scope.AGENT, "SELECT 1")
    with pytest.raises(DatabaseUnavailable, match="was deleted") as gone:
        await query(fresh, tenant, Scope.AGENT, "SELECT 1")
    assert gone.value.hint
    assert await projects(fresh, f"agent-{workspace}") == []


async def test_a_workspace_made_again_is_a_new_generation_with_an_empty_database(
    open_with: Opener, lifecycle: Lifecycle, user: str, workspace: str
) -> None:
    tenant = Tenant(user, workspace)
    await lifecycle.create_user(user)
    first = await lifecycle.create_workspace(workspace, user, "Notes")
    application = await open_with()
    await query(application, tenant, Scope.AGENT, "CREATE TABLE kept (n int)")
    await lifecycle.delete_workspace(workspace)
    second = await lifecycle.create_workspace(workspace, user, "Notes again")
    assert (second.id, second.generation) == (first.id, first.generation + 1)
    assert second.project_id != first.project_id
    assert second.role_name != first.role_name
    seen = "SELECT to_regclass('kept')"
    assert await query(await open_with(), tenant, Scope.AGENT, seen) == [[None]]
    with pytest.raises(DatabaseUnavailable):
        await query(application, tenant, Scope.AGENT, seen)
    assert await query(application, tenant, Scope.AGENT, seen) == [[None]]


async def test_another_user_may_take_the_name_of_a_deleted_workspace(
    application: Application, lifecycle: Lifecycle, user: str, workspace: str
) -> None:
    for each in (user, f"{user}-2"):
        await lifecycle.create_user(each)
    await lifecycle.create_workspace(workspace, user, "Notes")
    await query(application, Tenant(user, workspace), Scope.AGENT, "CREATE TABLE secret (n int)")
    await lifecycle.delete_workspace(workspace)
    row = await lifecycle.create_workspace(workspace, f"{user}-2", "Notes")
    assert (row.user_id, row.generation) == (f"{user}-2", 2)
    seen = await query(application, Tenant(f"{user}-2", workspace), Scope.AGENT, "SELECT to_regclass('secret')")
    assert seen == [[None]]


async def test_a_deleted_user_is_gone_with_every_database(
    application: Application, lifecycle: Lifecycle, control: asyncpg.Connection, user: str, workspace: str
) -> None:
    await lifecycle.create_user(user)
    for name in (workspace, f"{workspace}-2"):
        await lifecycle.create_workspace(name, user, "Notes")
    await lifecycle.delete_user(user)
    assert await rows_about(control, user) == {"user": 0, "user_db_budget": 0, "workspace": 0}
    for name in (f"global-{user}", f"agent-{workspace}", f"agent-{workspace}-2"):
        assert await projects(application, name) == []
    with pytest.raises(InvalidArgument):
        await application.managed().usage.report(user)


async def test_deleting_what_is_gone_is_done_already(lifecycle: Lifecycle, user: str, workspace: str) -> None:
    await lifecycle.create_user(user)
    await lifecycle.create_workspace(workspace, user, "Notes")
    for _ in range(2):
        await lifecycle.delete_workspace(workspace)
    for _ in range(2):
        await lifecycle.delete_user(user)
    await lifecycle.delete_workspace("never-was")
    await lifecycle.delete_user("never-was")


async def test_a_user_that_comes_again_starts_with_an_empty_database(
    application: Application, lifecycle: Lifecycle, open_with: Opener, user: str
) -> None:
    await lifecycle.create_user(user, "paid")
    await query(application, Tenant(user), Scope.GLOBAL, "CREATE TABLE kept (n int)")
    await lifecycle.delete_user(user)
    row = await lifecycle.create_user(user)
    assert (row.status, row.generation) == (DatabaseStatus.READY, 2)
    again = await open_with()
    assert await query(again, Tenant(user), Scope.GLOBAL, "SELECT to_regclass('kept')") == [[None]]
    assert (await again.managed().usage.report(user)).tier == "free"


async def test_a_deletion_that_fails_keeps_the_user_and_succeeds_when_it_is_repeated(
    open_with: Opener, application: Application, lifecycle: Lifecycle, control: asyncpg.Connection, user: str
) -> None:
    await lifecycle.create_user(user)
    refused = await open_with(**WRONG_KEY)
    with pytest.raises(ProvisioningFailed, match="key"):
        await refused.managed().lifecycle.delete_user(user)
    assert (await rows_about(control, user))["user"] == 1
    await lifecycle.delete_user(user)
    assert (await rows_about(control, user))["user"] == 0
    assert await projects(application, f"global-{user}") == []


async def test_a_user_deleted_while_a_server_of_theirs_runs_is_a_clear_error_there(
    open_with: Opener, lifecycle: Lifecycle, tmp_path: Path, user: str, workspace: str
) -> None:
    quick = tmp_path / "quick.toml"
    quick.write_text('name = "quick"\n[metering]\nflush_s = 0.01\n')
    tenant = Tenant(user, workspace)
    in_use = await open_with(AGENTDB_POLICY=str(quick))
    await query(in_use, tenant, Scope.AGENT, "SELECT 1")
    await lifecycle.delete_user(user)
    for _ in range(2):
        with pytest.raises((DatabaseUnavailable, InvalidArgument)):
            await query(in_use, tenant, Scope.AGENT, "SELECT 1")
    assert await projects(in_use, f"agent-{workspace}") == []


async def test_tokens_go_first_also_where_the_platform_keeps_its_rows(
    application: Application, lifecycle: Lifecycle, control: asyncpg.Connection, user: str, workspace: str
) -> None:
    tokens = application.managed().tokens
    await lifecycle.create_user(user)
    await lifecycle.create_workspace(workspace, user, "Notes")
    bound, free = [await tokens.issue(user, each, [TokenScope.MCP], None) for each in (workspace, None)]
    await control.execute('COMMENT ON TABLE "user" IS NULL; COMMENT ON TABLE workspace IS NULL')
    try:
        await lifecycle.delete_workspace(workspace)
        assert [row.id for row in await tokens.of_user(user)] == [free.id]
        await lifecycle.delete_user(user)
    finally:
        await control.execute("COMMENT ON TABLE \"user\" IS 'agentdb-mcp'; COMMENT ON TABLE workspace IS 'agentdb-mcp'")
    assert await rows_about(control, user) == {"user": 1, "user_db_budget": 1, "workspace": 1}
    for each in (bound, free):
        with pytest.raises(NotAuthenticated):
            await tokens.authenticate(each.token.reveal())
