"""One project a database, whoever asks and whoever dies on the way: on a real Postgres and the local Neon API."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import anyio
import asyncpg
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.text import TextReceiveStream

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.errors import AgentDBError, ConfigurationError, DatabaseUnavailable, ProvisioningFailed
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import DatabaseStatus, Project, ProjectAccess, ProjectSettings, Scope, Tenant
from agentdb_mcp.providers import Provider, project_name
from agentdb_mcp.providers.neon import NeonProvider
from agentdb_mcp.services import Provisioning
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store import DatabaseRow

BEGINNING = [DatabaseStatus.PENDING, DatabaseStatus.PROVISIONING]

# Says when it is ready, waits for a line, then opens the databases of its tenant as a server does.
ASK = """
import anyio
from agentdb_mcp.bootstrap import open_application
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import Scope
from agentdb_mcp.settings import load_settings

async def main():
    async with open_application(load_settings()) as application:
        print("ready", flush=True)
        await anyio.to_thread.run_sync(input)
        for scope in Scope:
            statement = Statement("SELECT current_database()")
            answer = await application.queries.execute(application.tenant, scope, [statement])
            print(answer.results[0].rows[0][0], flush=True)

anyio.run(main)
"""

# Makes the tenant's agent database, and is killed right before or right after the step that argv names.
DIE = """
import os, signal, sys
import anyio
from agentdb_mcp.bootstrap import open_application
from agentdb_mcp.execution import Statement, layout
from agentdb_mcp.models import Scope
from agentdb_mcp.providers.neon import NeonProvider
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store import DatabaseStore

when, step = sys.argv[1:]
owner = {"install": layout, "record_project": DatabaseStore, "record_ready": DatabaseStore}.get(step, NeonProvider)
work = getattr(owner, step)

async def deadly(*arguments, **options):
    if when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    await work(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(owner, step, deadly)

async def main():
    async with open_application(load_settings()) as application:
        await application.queries.execute(application.tenant, Scope.AGENT, [Statement("SELECT 1")])

anyio.run(main)
"""


@pytest.fixture
async def control(environ: dict[str, str], application: Application) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(environ["AGENTDB_CONTROL_URL"])
    yield connection
    await connection.close()


@pytest.fixture
def tenant() -> Tenant:
    return Tenant(f"u{secrets.token_hex(6)}", f"w{secrets.token_hex(6)}")


@dataclass(frozen=True, slots=True)
class Workspace:
    """A declared database with the services that make it."""

    id: str
    provisioning: Provisioning
    provider: Provider

    @property
    def name(self) -> str:
        return project_name(Scope.AGENT, self.id)

    async def ensure(self) -> DatabaseRow:
        return await self.provisioning.ensure(Scope.AGENT, self.id)

    async def row(self) -> DatabaseRow:
        row = await self.provisioning.databases.find(Scope.AGENT, self.name)
        assert row is not None
        return row

    async def projects(self) -> list[str]:
        return [project.id for project in await self.provider.find(self.name)]

    def with_provider(self, provider: Provider | None) -> Workspace:
        return replace(self, provisioning=replace(self.provisioning, provider=provider))


@pytest.fixture
async def workspace(application: Application, control: asyncpg.Connection, tenant: Tenant) -> Workspace:
    assert tenant.user_id
    assert tenant.workspace_id
    managed = application.managed()
    lifecycle = managed.lifecycle
    await lifecycle.identity.ensure_user(tenant.user_id)
    await lifecycle.identity.ensure_workspace(tenant.workspace_id, "Notes", tenant.user_id)
    name = project_name(Scope.AGENT, tenant.workspace_id)
    await lifecycle.databases.declare(Scope.AGENT, tenant.workspace_id, user_id=tenant.user_id, project_name=name)
    assert managed.provider is not None
    return Workspace(tenant.workspace_id, lifecycle.provisioning, managed.provider)


async def end_lease(control: asyncpg.Connection, workspace_id: str) -> None:
    await control.execute(
        "UPDATE workspace_database SET lease_expires_at = now() - interval '1 second' WHERE project_name = $1",
        project_name(Scope.AGENT, workspace_id),
    )


@dataclass(slots=True)
class Held:
    """The real provider, but creating (or deleting) waits to be let through."""

    real: Provider
    step: str
    reached: anyio.Event
    let_through: anyio.Event

    @classmethod
    def on(cls, real: Provider, step: str = "create") -> Held:
        return cls(real, step, anyio.Event(), anyio.Event())

    async def wait(self, step: str) -> None:
        if step == self.step:
            self.reached.set()
            await self.let_through.wait()

    async def find(self, name: str) -> list[Project]:
        return await self.real.find(name)

    async def create(self, name: str, settings: ProjectSettings | None = None) -> Project:
        await self.wait("create")
        return await self.real.create(name, settings)

    async def access(self, project: Project) -> ProjectAccess:
        await self.wait("access")
        return await self.real.access(project)

    async def delete(self, project_id: str) -> None:
        await self.wait("delete")
        await self.real.delete(project_id)

    async def check(self) -> None:
        await self.real.check()


async def test_twelve_that_ask_at_once_get_one_project(workspace: Workspace) -> None:
    rows: list[DatabaseRow] = []

    async def ask() -> None:
        rows.append(await workspace.ensure())

    async with anyio.create_task_group() as group:
        for _ in range(12):
            group.start_soon(ask)
    assert len(rows) == 12
    assert len({(row.id, row.project_id, row.uri, row.fence) for row in rows}) == 1
    assert await workspace.projects() == [rows[0].project_id]


async def test_four_processes_that_ask_at_once_get_one_project_each_for_agent_and_user(
    environ: dict[str, str], application: Application, tenant: Tenant
) -> None:
    assert tenant.user_id
    assert tenant.workspace_id
    env = {**os.environ, **environ, "AGENTDB_USER_ID": tenant.user_id, "AGENTDB_WORKSPACE_ID": tenant.workspace_id}
    answers: list[list[str]] = []
    async with AsyncExitStack() as exits:
        processes = [
            await exits.enter_async_context(await anyio.open_process([sys.executable, "-c", ASK], env=env))
            for _ in range(4)
        ]
        for process in processes:
            assert process.stdout is not None
            assert (await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 100)) == b"ready"
        for process in processes:
            assert process.stdin is not None
            await process.stdin.send(b"go\n")
        for process in processes:
            assert process.stdout is not None
            said = "".join([part async for part in TextReceiveStream(process.stdout)])
            assert await process.wait() == 0
            answers.append(said.split())
    assert all(answer == answers[0] for answer in answers)
    assert len(set(answers[0])) == 2
    provider = application.managed().provider
    assert provider is not None
    for name in (f"agent-{tenant.workspace_id}", f"global-{tenant.user_id}"):
        assert len(await provider.find(name)) == 1


@pytest.mark.parametrize("copies", [1, 2])
async def test_projects_that_exist_under_the_name_are_adopted_the_oldest_first(
    workspace: Workspace, copies: int
) -> None:
    made = [(await workspace.provider.create(workspace.name)).id for _ in range(copies)]
    row = await workspace.ensure()
    assert row.project_id == made[0]
    assert await workspace.projects() == made


async def test_what_is_ready_is_answered_without_the_provider(workspace: Workspace) -> None:
    row = await workspace.ensure()
    assert await workspace.with_provider(None).ensure() == row


async def test_who_waits_takes_over_when_the_lease_of_another_runs_out(
    workspace: Workspace, control: asyncpg.Connection
) -> None:
    store = workspace.provisioning.databases
    lost = await store.claim(Scope.AGENT, workspace.name, BEGINNING, 3600)
    assert lost is not None
    rows: list[DatabaseRow] = []

    async def ask() -> None:
        rows.append(await workspace.ensure())

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        assert rows == []
        await end_lease(control, workspace.id)
    assert rows[0].status is DatabaseStatus.READY
    with pytest.raises(ProvisioningFailed, match="took over"):
        await store.record_project(lost, "wrong-project", None)
    assert await workspace.row() == rows[0]


async def test_a_process_stopped_past_its_lease_cannot_repoint_the_row(
    workspace: Workspace, control: asyncpg.Connection
) -> None:
    held = Held.on(workspace.provider)
    slow = workspace.with_provider(held)
    errors: list[AgentDBError] = []

    async def ask() -> None:
        try:
            await slow.ensure()
        except AgentDBError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await held.reached.wait()
        await end_lease(control, workspace.id)
        row = await workspace.ensure()
        held.let_through.set()
    assert await workspace.row() == row
    assert all(error.retryable for error in errors)
    assert row.project_id in await workspace.projects()


@pytest.mark.parametrize(
    ("when", "step"),
    [
        ("before", "create"),
        ("after", "create"),
        ("after", "record_project"),
        ("after", "install"),
        ("after", "record_ready"),
    ],
)
async def test_a_process_killed_at_any_step_leaves_what_the_next_caller_completes(
    environ: dict[str, str], application: Application, control: asyncpg.Connection, tenant: Tenant, when: str, step: str
) -> None:
    assert tenant.user_id
    assert tenant.workspace_id
    env = {**os.environ, **environ, "AGENTDB_USER_ID": tenant.user_id, "AGENTDB_WORKSPACE_ID": tenant.workspace_id}
    killed = await anyio.run_process([sys.executable, "-c", DIE, when, step], env=env, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    await end_lease(control, tenant.workspace_id)
    statements = [Statement("CREATE TABLE t (n int)"), Statement("INSERT INTO t VALUES (1)"), Statement("TABLE t")]
    answer = await application.queries.execute(tenant, Scope.AGENT, statements, transaction=True)
    assert answer.results[2].rows == [[1]]
    provider = application.managed().provider
    assert provider is not None
    assert len(await provider.find(project_name(Scope.AGENT, tenant.workspace_id))) == 1


async def test_a_failure_gives_the_lease_back_and_the_next_call_succeeds(
    environ: dict[str, str], workspace: Workspace, control: asyncpg.Connection
) -> None:
    async with open_application(load_settings(environ | {"NEON_API_KEY": "napi_wrong"})) as refused:
        with pytest.raises(ProvisioningFailed, match="key"):
            await workspace.with_provider(refused.managed().provider).ensure()
    left = await control.fetchrow(
        "SELECT lease_expires_at, last_error FROM workspace_database WHERE project_name = $1", workspace.name
    )
    assert tuple(left) == (None, "provisioning_failed")
    assert (await workspace.ensure()).status is DatabaseStatus.READY
    assert len(await workspace.projects()) == 1


async def test_a_caller_that_gives_up_gives_the_lease_back(workspace: Workspace) -> None:
    held = Held.on(workspace.provider)
    async with anyio.create_task_group() as group:
        group.start_soon(workspace.with_provider(held).ensure)
        await held.reached.wait()
        group.cancel_scope.cancel()
    with anyio.fail_after(20):
        assert (await workspace.ensure()).status is DatabaseStatus.READY
    assert len(await workspace.projects()) == 1


async def test_one_caller_giving_up_does_not_fail_the_others(
    application: Application, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[object] = []
    held = Held.on(application.managed().provider)
    create = NeonProvider.create

    async def wait_and_create(provider: NeonProvider, name: str, settings: ProjectSettings | None = None) -> Project:
        await held.wait("create")
        return await create(provider, name, settings)

    async def ask() -> None:
        answer = await application.queries.execute(tenant, Scope.AGENT, [Statement("SELECT 1")])
        answers.append(answer.results[0].rows[0][0])

    monkeypatch.setattr(NeonProvider, "create", wait_and_create)
    async with anyio.create_task_group() as others, anyio.create_task_group() as first:
        first.start_soon(ask)
        await held.reached.wait()
        for _ in range(3):
            others.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        first.cancel_scope.cancel()
        held.let_through.set()
    assert answers == [1, 1, 1]


async def test_a_removed_database_is_clearly_gone(workspace: Workspace) -> None:
    await workspace.provisioning.remove(await workspace.ensure())
    row = await workspace.row()
    assert (row.status, row.uri, await workspace.projects()) == (DatabaseStatus.DELETED, None, [])
    with pytest.raises(DatabaseUnavailable, match="was deleted") as gone:
        await workspace.ensure()
    assert gone.value.hint
    assert await workspace.projects() == []


async def test_removing_takes_every_project_of_the_name(workspace: Workspace) -> None:
    row = await workspace.ensure()
    await workspace.provider.create(workspace.name)
    await workspace.provisioning.remove(row)
    assert await workspace.projects() == []


async def test_removing_again_changes_nothing(workspace: Workspace) -> None:
    row = await workspace.ensure()
    await workspace.provisioning.remove(row)
    gone = await workspace.row()
    await workspace.provisioning.remove(row)
    assert await workspace.row() == gone


async def test_removing_at_the_same_time_removes_once_and_fails_nobody(workspace: Workspace) -> None:
    row = await workspace.ensure()
    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(workspace.provisioning.remove, row)
    assert (await workspace.row()).status is DatabaseStatus.DELETED
    assert await workspace.projects() == []


async def test_a_removal_that_another_completes_meanwhile_is_a_success(workspace: Workspace) -> None:
    row = await workspace.ensure()
    held = Held.on(workspace.provider, "delete")
    async with anyio.create_task_group() as group:
        group.start_soon(workspace.with_provider(held).provisioning.remove, row)
        await held.reached.wait()
        group.start_soon(workspace.provisioning.remove, row)
        held.let_through.set()
    assert (await workspace.row()).status is DatabaseStatus.DELETED
    assert await workspace.projects() == []


async def test_a_removal_that_fails_is_completed_by_the_next_one(environ: dict[str, str], workspace: Workspace) -> None:
    row = await workspace.ensure()
    async with open_application(load_settings(environ | {"NEON_API_KEY": "napi_wrong"})) as refused:
        with pytest.raises(ProvisioningFailed, match="key"):
            await workspace.with_provider(refused.managed().provider).provisioning.remove(row)
    assert (await workspace.row()).status is DatabaseStatus.DELETING
    with pytest.raises(DatabaseUnavailable):
        await workspace.ensure()
    await workspace.provisioning.remove(await workspace.row())
    assert ((await workspace.row()).status, await workspace.projects()) == (DatabaseStatus.DELETED, [])


async def test_a_database_removed_while_it_is_made_does_not_become_ready(workspace: Workspace) -> None:
    held = Held.on(workspace.provider)
    errors: list[AgentDBError] = []

    async def ask() -> None:
        try:
            await workspace.with_provider(held).ensure()
        except AgentDBError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await held.reached.wait()
        await workspace.provisioning.remove(await workspace.row())
        held.let_through.set()
    assert [str(error) for error in errors] == ["The agent database was deleted."]
    assert (await workspace.row()).status is DatabaseStatus.DELETED


async def test_who_lost_its_project_to_a_removal_hears_that_and_not_what_neon_says(workspace: Workspace) -> None:
    held = Held.on(workspace.provider, "access")
    errors: list[AgentDBError] = []

    async def ask() -> None:
        try:
            await workspace.with_provider(held).ensure()
        except AgentDBError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await held.reached.wait()
        await workspace.provisioning.remove(await workspace.row())
        held.let_through.set()
    assert [(error.code, str(error)) for error in errors] == [
        ("database_unavailable", "The agent database was deleted.")
    ]


async def test_who_lost_its_project_to_another_process_hears_that_and_not_what_neon_says(
    workspace: Workspace, control: asyncpg.Connection
) -> None:
    held = Held.on(workspace.provider, "access")
    errors: list[AgentDBError] = []

    async def ask() -> None:
        try:
            await workspace.with_provider(held).ensure()
        except AgentDBError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await held.reached.wait()
        await end_lease(control, workspace.id)
        taken = await workspace.provisioning.databases.claim(Scope.AGENT, workspace.name, BEGINNING, 3600)
        assert taken is not None
        for project_id in await workspace.projects():
            await workspace.provider.delete(project_id)
        held.let_through.set()
    assert [(error.code, error.retryable) for error in errors] == [("provisioning_failed", True)]
    assert "Another process took over" in str(errors[0])


async def test_without_a_key_for_neon_the_call_says_what_to_set(workspace: Workspace) -> None:
    with pytest.raises(ProvisioningFailed, match="no Neon key") as failed:
        await workspace.with_provider(None).ensure()
    assert "NEON_API_KEY" in (failed.value.hint or "")


async def test_without_an_encryption_key_nothing_is_made(workspace: Workspace) -> None:
    keyless = replace(workspace.provisioning, cipher=None)
    with pytest.raises(ConfigurationError, match="AGENTDB_ENCRYPTION_KEYS"):
        await keyless.ensure(Scope.AGENT, workspace.id)
    assert await workspace.projects() == []


async def test_the_stored_login_is_encrypted_and_the_admins(workspace: Workspace) -> None:
    row = await workspace.ensure()
    cipher = workspace.provisioning.cipher
    assert cipher is not None
    assert row.uri is not None
    assert "postgres" not in row.uri
    uri = cipher.decrypt(row.uri)
    connection = await asyncpg.connect(uri.reveal())
    try:
        agent = await connection.fetchrow(
            "SELECT rolcanlogin, rolsuper FROM pg_roles WHERE rolname = $1", row.role_name
        )
    finally:
        await connection.close()
    assert tuple(agent) == (False, False)


@pytest.mark.parametrize("owner", ["x" * 240, "ünï 🙂", "a/b?c#d%e", "'; --"])
async def test_any_identifier_that_settings_take_gets_its_database(
    application: Application, tenant: Tenant, owner: str
) -> None:
    odd = Tenant(tenant.user_id, owner)
    answer = await application.queries.execute(odd, Scope.AGENT, [Statement("SELECT 1")])
    assert answer.results[0].rows == [[1]]
