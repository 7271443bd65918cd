"""A free and a paid organization at the local Neon API: where projects are made, moved and billed."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cloud import CU_HOUR, CU_HOUR_S, HOUR, Agent, Cloud, cloud_on

from agentdb_mcp.embedded import embedded_postgres
from agentdb_mcp.jobs import table
from agentdb_mcp.local_stack import CONTROL_DATABASE, LocalStack
from agentdb_mcp.models import ProjectSettings, Secret
from agentdb_mcp.neon_emulator import Behaviour, NewOrganization, neon_emulator
from agentdb_mcp.providers.neon import NeonProvider
from agentdb_mcp.store.control import create_database

TRANSFER = {"method": "POST", "path": "/organizations/*/projects/transfer"}


@pytest.fixture(scope="module")
async def stack(anyio_backend: str) -> AsyncIterator[LocalStack]:
    organizations = (NewOrganization("Free"), NewOrganization("Paid"))
    async with embedded_postgres() as postgres:
        await create_database(postgres.uri(), CONTROL_DATABASE)
        behaviour = Behaviour(organizations=organizations)
        async with neon_emulator(postgres.uri().reveal(), control=True, behaviour=behaviour) as emulator:
            yield LocalStack(postgres, emulator, Secret(secrets.token_hex(32)), Secret(secrets.token_hex(32)))


@pytest.fixture
async def cloud(stack: LocalStack, slow: Path) -> AsyncIterator[Cloud]:
    free, paid = stack.emulator.organizations
    # Neon transfers with a key that opens both.
    two = {"NEON_API_KEY": "", "NEON_ORG_ID": ""}
    for kind, organization in (("FREE", free), ("PAID", paid)):
        two |= {f"NEON_{kind}_ORG_API_KEY": stack.emulator.api_key, f"NEON_{kind}_ORG_ID": organization.id}
    async with cloud_on(stack, slow, **two) as cloud:
        yield cloud


async def home(cloud: Cloud, agent: Agent) -> str | None:
    project = await cloud.provider.get(agent.project_id)
    assert project is not None
    return project.organization


async def tiered(cloud: Cloud, tier: str, count: int = 1) -> list[Agent]:
    """So many databases of one user."""
    agents = await cloud.agents(count)
    owner = agents[0]
    await cloud.application.managed().usage.set_tier(owner.user_id, tier)
    for agent in agents[1:]:
        await cloud.db.execute("UPDATE workspace_database SET user_id = $1 WHERE id = $2", owner.user_id, agent.row.id)
        await cloud.application.managed().usage.tiers.place(owner.user_id)
    return agents


@pytest.mark.parametrize(("tier", "where"), [("free", "free"), ("paid", "paid"), ("enterprise", "paid")])
async def test_a_new_project_is_made_where_its_payers_tier_is(cloud: Cloud, tier: str, where: str) -> None:
    user = f"u{secrets.token_hex(4)}"
    lifecycle = cloud.application.managed().lifecycle
    await lifecycle.create_user(user, tier)
    row = await lifecycle.create_workspace(f"w{user}", user, "Notes")
    of_user = await cloud.application.managed().lifecycle.databases.of_user(user)
    assert row.id in {each.id for each in of_user}
    for each in of_user:
        project = await cloud.provider.get(each.project_id or "")
        assert project is not None
        assert project.organization == where


async def test_a_change_of_tier_moves_all_of_a_users_projects_and_nobody_elses(cloud: Cloud) -> None:
    mine, other = await tiered(cloud, "free", 3), await cloud.agent()
    usage = cloud.application.managed().usage
    for tier, where in (("paid", "paid"), ("enterprise", "paid"), ("free", "free")):
        await usage.set_tier(mine[0].user_id, tier)
        assert [await home(cloud, agent) for agent in mine] == 3 * [where]
        assert await home(cloud, other) == "free"
        assert await cloud.sql(mine[0], "SELECT 1") == [[1]]


async def test_what_could_not_be_moved_is_moved_by_the_job(cloud: Cloud) -> None:
    mine = await tiered(cloud, "free", 3)
    fault = await cloud.fail(**TRANSFER, status=400, times=1)
    report = await cloud.application.managed().usage.set_tier(mine[0].user_id, "paid")
    assert report.tier == "paid"
    assert sorted([str(await home(cloud, agent)) for agent in mine]) == ["free", "paid", "paid"]
    assert await cloud.hits(fault) == 1
    await table.settle_budgets(cloud.application)
    assert [await home(cloud, agent) for agent in mine] == 3 * ["paid"]
    assert await cloud.application.managed().usage.store.misplaced() == []


async def test_a_project_that_is_made_while_the_tier_changes_is_moved_by_the_job(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = f"u{secrets.token_hex(4)}"
    managed = cloud.application.managed()
    await managed.lifecycle.create_user(user, "free")
    create = NeonProvider.create

    async def slow(self: NeonProvider, name: str, settings: ProjectSettings | None = None) -> object:
        await managed.usage.set_tier(user, "paid")
        return await create(self, name, settings)

    monkeypatch.setattr(NeonProvider, "create", slow)
    row = await managed.lifecycle.create_workspace(f"w{user}", user, "Notes")
    await table.settle_budgets(cloud.application)
    project = await cloud.provider.get(row.project_id or "")
    assert project is not None
    assert project.organization == "paid"
    assert await managed.usage.store.misplaced() == []


async def test_a_workspace_that_is_handed_over_moves_to_its_new_owners_account_without_a_call(
    cloud: Cloud,
) -> None:
    agent, (new,) = await cloud.agent(), await tiered(cloud, "paid")
    assert await home(cloud, agent) == "free"
    await cloud.db.execute("UPDATE workspace SET owner_id = $1 WHERE id = $2", new.user_id, agent.row.owner_id)
    fault = await cloud.fail(**TRANSFER, status=400, times=1)
    await table.follow_owners(cloud.application)
    assert (await cloud.hits(fault), await home(cloud, agent)) == (1, "free")
    payer = "SELECT user_id FROM workspace_database WHERE id = $1"
    assert await cloud.db.fetchval(payer, agent.row.id) == new.user_id
    await table.settle_budgets(cloud.application)
    assert await home(cloud, agent) == "paid"
    assert await cloud.application.managed().usage.store.misplaced() == []


async def test_what_a_project_used_before_and_after_its_move_is_billed_once(cloud: Cloud) -> None:
    (agent,) = await tiered(cloud, "free")
    await cloud.advance(2 * HOUR)
    await cloud.use(agent, agent.since, CU_HOUR_S)
    await cloud.application.managed().usage.set_tier(agent.user_id, "paid")
    assert await home(cloud, agent) == "paid"
    await cloud.advance(4 * HOUR)
    await cloud.use(agent, agent.since + 2 * HOUR, 2 * CU_HOUR_S)
    await cloud.sync()
    assert {asked["org_id"] for asked in cloud.asked} == {
        organization.org_id for organization in cloud.provider._organizations
    }
    assert sum(amount for _, amount in await cloud.ledger(agent)) == 3 * 1000 * CU_HOUR_S
    assert 3 * CU_HOUR <= await cloud.used(agent) < 3 * CU_HOUR + CU_HOUR // 4
