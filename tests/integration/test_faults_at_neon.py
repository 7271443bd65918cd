"""Neon's API and the control database on bad days: a database or a clear error for each caller, and nothing lost."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import asyncpg
import httpx
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.errors import AgentDBError, DatabaseUnavailable, ProvisioningFailed
from agentdb_mcp.execution import Statement
from agentdb_mcp.local_stack import LocalStack, local_stack
from agentdb_mcp.models import DatabaseStatus, Project, Scope, Tenant
from agentdb_mcp.providers import Provider, project_name
from agentdb_mcp.services.reconcile import Kind, Mended
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store.control import create_database


@dataclass
class Neon:
    """The running parts, and the port by which faults are asked for."""

    application: Application
    control: asyncpg.Connection
    faults: httpx.AsyncClient = field(repr=False)

    @property
    def provider(self) -> Provider:
        provider = self.application.managed().provider
        assert provider is not None
        return provider

    async def fail(self, **fault: Any) -> None:
        (await self.faults.post("/faults", json=fault)).raise_for_status()

    async def use(self, tenant: Tenant) -> object:
        answer = await self.application.queries.execute(tenant, Scope.AGENT, [Statement("SELECT 1")])
        return answer.results[0].rows[0][0]

    async def projects(self, tenant: Tenant) -> list[Project]:
        return await self.provider.find(project_name(Scope.AGENT, tenant.workspace_id or ""))

    async def mend(self) -> list[Kind]:
        reconcile = self.application.managed().reconcile(settled_s=0)
        findings = await reconcile.look()
        mended: list[Mended] = []
        await reconcile.mend(findings, mended.append)
        assert [each.error for each in mended if each.error] == []
        assert await reconcile.look() == []
        return sorted(finding.kind for finding in findings)


@pytest.fixture(scope="module")
async def stack(anyio_backend: str) -> AsyncIterator[LocalStack]:
    async with local_stack(control=True) as running:
        yield running


@pytest.fixture
async def neon(stack: LocalStack) -> AsyncIterator[Neon]:
    name = f"control_{secrets.token_hex(6)}"
    await create_database(stack.postgres.uri(), name)
    uri = stack.postgres.uri(name).reveal()
    async with open_application(load_settings(stack.environ() | {"AGENTDB_CONTROL_URL": uri})) as application:
        await application.managed().lifecycle.identity.has_user("nobody")  # migrates
        async with httpx.AsyncClient(base_url=stack.emulator.control_url or "") as faults:
            control = await asyncpg.connect(uri)
            neon = Neon(application, control, faults)
            yield neon
            await control.close()
            await faults.delete("/faults")
            for project in await neon.provider.projects(""):
                await neon.provider.delete(project.id)


@pytest.fixture
def tenant() -> Tenant:
    return Tenant(f"u{secrets.token_hex(4)}", f"w{secrets.token_hex(4)}")


@pytest.mark.parametrize("status", [423, 429, 503])
async def test_what_had_not_begun_is_sent_again_and_nobody_notices(neon: Neon, tenant: Tenant, status: int) -> None:
    await neon.fail(status=status, times=2, headers={"Retry-After": "0"})
    assert await neon.use(tenant) == 1
    assert len(await neon.projects(tenant)) == 1


@pytest.mark.parametrize("effect", [True, False], ids=["after it was done", "before it was done"])
@pytest.mark.parametrize("fault", [{"drop": True}, {"status": 500}], ids=["lost answer", "internal error"])
async def test_a_creation_of_unknown_outcome_is_a_clear_error_and_the_next_call_finds_what_was_made(
    neon: Neon, tenant: Tenant, fault: dict[str, Any], effect: bool
) -> None:
    await neon.fail(method="POST", path="/projects", times=1, effect=effect, **fault)
    with pytest.raises(ProvisioningFailed) as failed:
        await neon.use(tenant)
    assert failed.value.retryable
    made = await neon.projects(tenant)
    assert len(made) == (1 if effect else 0)
    assert await neon.use(tenant) == 1
    (project,) = await neon.projects(tenant)
    if effect:
        assert project.id == made[0].id
    assert await neon.mend() == []


@pytest.mark.parametrize("effect", [True, False])
async def test_a_deletion_whose_answer_is_lost_is_completed(neon: Neon, tenant: Tenant, effect: bool) -> None:
    assert await neon.use(tenant) == 1
    await neon.fail(method="DELETE", path="/projects/*", times=1, effect=effect, drop=True)
    await neon.application.managed().lifecycle.delete_workspace(tenant.workspace_id or "")
    assert await neon.projects(tenant) == []
    assert await neon.mend() == []


async def test_a_deletion_that_neon_refuses_for_now_is_completed_by_reconcile(neon: Neon, tenant: Tenant) -> None:
    assert await neon.use(tenant) == 1
    await neon.fail(method="DELETE", path="/projects/*", status=403)
    with pytest.raises(ProvisioningFailed):
        await neon.application.managed().lifecycle.delete_workspace(tenant.workspace_id or "")
    await neon.faults.delete("/faults")
    assert await neon.mend() == [Kind.HALF_DELETED]
    assert await neon.projects(tenant) == []


async def test_a_project_deleted_behind_our_back_is_recovered_with_its_rows(neon: Neon, tenant: Tenant) -> None:
    run = neon.application.queries.execute
    await run(tenant, Scope.AGENT, [Statement("CREATE TABLE kept AS SELECT 42 AS n")])
    (project,) = await neon.projects(tenant)
    await neon.provider.delete(project.id)
    assert await neon.mend() == [Kind.LOST]
    with anyio.fail_after(30):
        while (rows := await _rows(neon, tenant, "TABLE kept")) is None:
            await anyio.sleep(0.1)
    assert rows == [[42]]


async def _rows(neon: Neon, tenant: Tenant, sql: str) -> list[list[object]] | None:
    """None while the database cannot be reached."""
    try:
        answer = await neon.application.queries.execute(tenant, Scope.AGENT, [Statement(sql)])
    except DatabaseUnavailable:
        return None
    return answer.results[0].rows


@asynccontextmanager
async def away(stack: LocalStack, control: asyncpg.Connection) -> AsyncIterator[None]:
    """The control database lets nobody in for the time of the block, and has ended everybody who was there."""
    name = await control.fetchval("SELECT current_database()")
    admin = await asyncpg.connect(stack.postgres.uri().reveal())
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", name)
    try:
        yield
    finally:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await admin.close()


@pytest.mark.parametrize("step", ["find", "create", "access"])
async def test_a_control_database_that_goes_away_meanwhile_costs_no_project(
    neon: Neon, stack: LocalStack, tenant: Tenant, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, back = anyio.Event(), anyio.Event()
    work = getattr(type(neon.provider), step)

    async def slow(*arguments: Any, **options: Any) -> Any:
        result = await work(*arguments, **options)
        if not reached.is_set():
            reached.set()
            await back.wait()
        return result

    monkeypatch.setattr(type(neon.provider), step, slow)
    failed: list[AgentDBError] = []

    async def use() -> None:
        try:
            await neon.use(tenant)
        except AgentDBError as error:
            failed.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(use)
        await reached.wait()
        async with away(stack, neon.control):
            back.set()
            with anyio.fail_after(60):
                while not failed:
                    await anyio.sleep(0.05)
    assert failed[0].code == "database_unavailable"
    assert failed[0].retryable
    again = await asyncpg.connect(stack.postgres.uri(await _control_name(neon, stack)).reveal())
    await again.execute("UPDATE workspace_database SET lease_expires_at = now()")
    await again.close()
    assert await neon.use(tenant) == 1
    assert len(await neon.projects(tenant)) == 1
    row = await neon.application.managed().lifecycle.databases.find(
        Scope.AGENT, project_name(Scope.AGENT, tenant.workspace_id or "")
    )
    assert row is not None
    assert row.status is DatabaseStatus.READY


async def _control_name(neon: Neon, stack: LocalStack) -> str:
    assert neon.application.settings.control_url is not None
    return neon.application.settings.control_url.reveal().rpartition("/")[2]
