"""The job that keeps projects and rows alike: it mends, and shrinks from deleting many projects that no row wants."""

from __future__ import annotations

import secrets

import pytest

from agentdb_mcp.bootstrap import Application
from agentdb_mcp.errors import NotAllowed
from agentdb_mcp.jobs import jobs_of
from agentdb_mcp.jobs.table import MAX_ORPHANS, reconcile
from agentdb_mcp.models import Scope
from agentdb_mcp.providers import Provider


@pytest.fixture
def provider(application: Application) -> Provider:
    provider = application.managed().provider
    assert provider is not None
    return provider


async def make_orphans(provider: Provider, count: int) -> set[str]:
    names = {f"agent-orphan-{secrets.token_hex(4)}" for _ in range(count)}
    for name in names:
        await provider.create(name)
    return names


async def names(provider: Provider) -> set[str]:
    return {project.name for project in await provider.projects("agent-")}


async def test_what_differs_is_mended(application: Application, provider: Provider) -> None:
    databases = application.managed().lifecycle.provisioning.databases
    await application.managed().lifecycle.identity.ensure_user("u")
    await databases.declare(Scope.GLOBAL, "u", user_id="u", project_name="global-u")
    orphans = await make_orphans(provider, 1)
    await reconcile(application, settled_s=0)
    assert not orphans & await names(provider)
    assert [project.name for project in await provider.projects("global-")] == ["global-u"]


async def test_many_orphans_at_once_are_left_for_somebody_to_look_at(
    application: Application, provider: Provider
) -> None:
    orphans = await make_orphans(provider, MAX_ORPHANS + 1)
    with pytest.raises(NotAllowed, match=f"{MAX_ORPHANS + 1} projects") as refused:
        await reconcile(application, settled_s=0)
    assert "reconcile" in str(refused.value.hint)
    assert orphans <= await names(provider)
    work = application.managed().reconcile(settled_s=0)
    await work.mend(await work.look(), lambda _: None)
    assert not orphans & await names(provider)


async def test_reconcile_is_a_job_only_with_a_provider(application: Application) -> None:
    assert {"reconcile", "sync"} <= {job.name for job in jobs_of(application)}
