"""Checkpoints on bad days of Neon's API: each call ends in an answer or a clear error, and nothing is left over."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import anyio
import httpx
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.execution import Statement
from agentdb_mcp.local_stack import LocalStack, local_stack
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.settings import load_settings

OURS = Scope.AGENT


@pytest.fixture(scope="module")
async def stack(anyio_backend: str) -> AsyncIterator[LocalStack]:
    async with local_stack(control=True) as running:
        yield running


@pytest.fixture(scope="module")
async def application(stack: LocalStack) -> AsyncIterator[Application]:
    async with open_application(load_settings(stack.environ())) as application:
        yield application


@pytest.fixture
async def faults(stack: LocalStack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=stack.emulator.control_url or "") as faults:
        yield faults
        await faults.delete("/faults")


@pytest.fixture
async def api(stack: LocalStack) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {stack.emulator.api_key}"}
    async with httpx.AsyncClient(base_url=stack.emulator.base_url, headers=headers) as api:
        yield api


@pytest.fixture
async def tenant(application: Application) -> Tenant:
    tenant = Tenant(f"u{secrets.token_hex(4)}", f"w{secrets.token_hex(4)}")
    await run(application, tenant, "CREATE TABLE note AS SELECT 'before'::text AS text")
    return tenant


async def run(application: Application, tenant: Tenant, sql: str) -> object:
    answer = await application.queries.execute(tenant, OURS, [Statement(sql)])
    return answer.results[0].rows[0][0] if answer.results[0].rows else None


@pytest.mark.parametrize(
    "effect",
    [True, pytest.param(False, marks=pytest.mark.long)],
    ids=["after it was done", "before it was done"],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/projects/*/snapshots/*/restore"),
        ("POST", "/projects/*/branches/*/finalize_restore"),
        ("DELETE", "/projects/*/branches/*"),
    ],
)
async def test_a_restore_whose_answer_is_lost_leaves_one_branch_and_can_be_run_again(
    application: Application,
    faults: httpx.AsyncClient,
    api: httpx.AsyncClient,
    tenant: Tenant,
    method: str,
    path: str,
    effect: bool,
) -> None:
    checkpoints = application.managed().checkpoints
    await checkpoints.create(tenant, OURS, "kept")
    await run(application, tenant, "UPDATE note SET text = 'after'")
    fault = {"method": method, "path": path, "times": 1, "effect": effect, "drop": True}
    (await faults.post("/faults", json=fault)).raise_for_status()
    if method == "POST":
        with pytest.raises(ProvisioningFailed) as failed:
            await checkpoints.restore(tenant, OURS, "kept")
        assert failed.value.retryable
        assert await run(application, tenant, "SELECT text FROM note") in {"before", "after"}
    else:  # sent again
        await checkpoints.restore(tenant, OURS, "kept")
    row = await application.managed().lifecycle.database(OURS, tenant.workspace_id or "")
    assert row is not None
    branches = (await api.get(f"/projects/{row.project_id}/branches")).json()["branches"]
    assert [branch["name"] for branch in branches] == ["main"]
    await checkpoints.restore(tenant, OURS, "kept")
    assert await run(application, tenant, "SELECT text FROM note") == "before"
    row = await application.managed().lifecycle.database(OURS, tenant.workspace_id or "")
    (branch,) = (await api.get(f"/projects/{row.project_id if row else ''}/branches")).json()["branches"]
    assert row is not None
    assert row.branch_id == branch["id"]


@pytest.mark.parametrize("effect", [True, False], ids=["after it was done", "before it was done"])
async def test_a_checkpoint_whose_answer_is_lost_is_listed_if_it_was_made(
    application: Application, faults: httpx.AsyncClient, tenant: Tenant, effect: bool
) -> None:
    checkpoints = application.managed().checkpoints
    fault = {"method": "POST", "path": "/projects/*/branches/*/snapshot", "times": 1, "effect": effect, "drop": True}
    (await faults.post("/faults", json=fault)).raise_for_status()
    with pytest.raises(ProvisioningFailed):
        await checkpoints.create(tenant, OURS, "kept")
    assert (await counted(application, tenant) > 0) is effect
    kept = [each.checkpoint.name for each in (await checkpoints.overview(tenant, OURS)).kept]
    assert kept == (["kept"] if effect else [])
    await checkpoints.create(tenant, OURS, "another")


async def counted(application: Application, tenant: Tenant) -> int:
    """Bytes of checkpoints that the budget knows."""
    row = await application.managed().lifecycle.database(OURS, tenant.workspace_id or "")
    assert row is not None
    return row.checkpoint_bytes


async def test_a_cancelled_checkpoint_that_was_made_is_counted(
    application: Application, faults: httpx.AsyncClient, api: httpx.AsyncClient, tenant: Tenant
) -> None:
    row = await application.managed().lifecycle.database(OURS, tenant.workspace_id or "")
    assert row is not None

    async def is_made() -> bool:
        return bool((await api.get(f"/projects/{row.project_id}/snapshots")).json()["snapshots"])

    late = {"method": "POST", "path": "/projects/*/branches/*/snapshot", "times": 1, "effect": True, "delay_after": 30}
    (await faults.post("/faults", json=late)).raise_for_status()
    async with anyio.create_task_group() as group:
        group.start_soon(application.managed().checkpoints.create, tenant, OURS, "kept")
        with anyio.fail_after(20):
            while not await is_made():
                await anyio.sleep(0.05)
        group.cancel_scope.cancel()
    assert await counted(application, tenant) > 0


async def test_neons_limit_of_snapshots_is_a_clear_error(
    application: Application, faults: httpx.AsyncClient, tenant: Tenant
) -> None:
    fault = {"method": "POST", "path": "/projects/*/branches/*/snapshot", "times": 1, "effect": False, "status": 422}
    (await faults.post("/faults", json=fault)).raise_for_status()
    with pytest.raises(ProvisioningFailed, match="limit of projects or snapshots") as refused:
        await application.managed().checkpoints.create(tenant, OURS)
    assert not refused.value.retryable


async def test_what_snapshots_hold_comes_with_neons_consumption(
    application: Application, stack: LocalStack, tenant: Tenant
) -> None:
    """As history, which is what Neon's price for them is nearest to."""
    checkpoints, provider = application.managed().checkpoints, application.managed().provider
    assert provider is not None
    made, _ = await checkpoints.create(tenant, OURS)
    row = await application.managed().lifecycle.database(OURS, tenant.workspace_id or "")
    assert row is not None
    async with httpx.AsyncClient(base_url=stack.emulator.control_url or "") as control:
        now = (await control.post("/clock", json={"advance_seconds": 7200})).json()["now"]
    until = datetime.fromisoformat(now).replace(minute=0, second=0, microsecond=0)
    spans = await provider.consumption([row.project_id or ""], until - timedelta(hours=3), until)
    held = sum(float(span.snapshot_byte_hours or 0) for span in spans)
    assert 0.9 * made.checkpoint.size_bytes < held < 2.1 * made.checkpoint.size_bytes
