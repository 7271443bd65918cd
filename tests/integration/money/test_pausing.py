"""Projects of budgets that are spent to their end are paused at the provider, and only then; whoever dies meanwhile."""

from __future__ import annotations

import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from cloud import CU_HOUR_S, HOUR, Agent, Cloud, cloud_on

from agentdb_mcp.errors import AgentDBError, BudgetExceeded
from agentdb_mcp.jobs import table
from agentdb_mcp.local_stack import LocalStack
from agentdb_mcp.models import BudgetState, Quantities
from agentdb_mcp.store import SettledHour

PATIENCE_S = 30
HOLD_S = 8
PATCH = {"method": "PATCH", "path": "/projects/*"}
# What the free tier pays for, half as much again, in milli-CU × microseconds.
ALL_AND_MORE = 30 * 1000 * CU_HOUR_S * 1_000_000

SETTLE = """
import sys
from datetime import timedelta
import anyio
from agentdb_mcp.bootstrap import open_application
from agentdb_mcp.services import utc_now
from agentdb_mcp.settings import load_settings

user, ahead = sys.argv[1], timedelta(seconds=float(sys.argv[2]))

async def main():
    async with open_application(load_settings(), clock=lambda: utc_now() + ahead) as application:
        await application.managed().usage.pausing.settle(user)

anyio.run(main)
"""


async def overspend(cloud: Cloud, agent: Agent) -> None:
    """As a sync of another process would store it; nobody is told."""
    hour = SettledHour(agent.row.id, agent.since, Quantities(compute_mcu_us=ALL_AND_MORE))
    await cloud.application.managed().usage.ledger.settle([hour], {}, 250)


async def paused(cloud: Cloud, agent: Agent) -> bool:
    quota, states = await cloud.neon(agent)
    return quota == 1 and set(states) <= {"idle"}


async def until(condition: Any) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not await condition():
            await anyio.sleep(0.02)


async def settle_budgets(cloud: Cloud) -> None:
    await table.settle_budgets(cloud.application)


async def test_a_server_pauses_what_its_user_overspent(stack: LocalStack, quick: Path) -> None:
    async with cloud_on(stack, quick) as cloud:
        agent, other = await cloud.agents(2)
        for each in (agent, other):
            await cloud.sql(each, "SELECT 1")
        await overspend(cloud, agent)
        await until(lambda: paused(cloud, agent))
        assert not await paused(cloud, other)
        with pytest.raises(BudgetExceeded):
            await cloud.sql(agent, "SELECT 1")
        assert await cloud.sql(other, "SELECT 1") == [[1]]
        await cloud.application.managed().usage.reset(agent.user_id)
        assert (await cloud.neon(agent))[0] == 0
        assert await cloud.sql(agent, "SELECT 1") == [[1]]


async def test_a_provider_that_is_slow_for_one_user_keeps_no_other_users_use_from_being_stored(
    stack: LocalStack, quick: Path
) -> None:
    async with cloud_on(stack, quick) as cloud:
        agent, other = await cloud.agents(2)
        await cloud.sql(agent, "SELECT 1")
        held = await cloud.fail(**PATCH, delay_before=HOLD_S, times=1)
        await overspend(cloud, agent)

        async def is_held() -> bool:
            return await cloud.hits(held) == 1

        async def is_stored() -> bool:
            return bool(await cloud.db.fetchval("SELECT 1 FROM db_usage_ledger WHERE database_id = $1", other.row.id))

        await until(is_held)
        await cloud.sql(other, "SELECT 1")
        await until(is_stored)
        assert await cloud.hits(held) == 1


async def test_the_job_pauses_for_a_user_whom_no_server_serves_and_resumes_in_the_next_period(cloud: Cloud) -> None:
    agent, other = await cloud.agents(2)
    await overspend(cloud, agent)
    await settle_budgets(cloud)
    assert await paused(cloud, agent)
    assert not await paused(cloud, other)
    await cloud.advance(timedelta(days=31))
    await settle_budgets(cloud)
    assert (await cloud.neon(agent))[0] == 0


async def test_a_sync_pauses_whom_the_providers_figures_overspend(cloud: Cloud) -> None:
    (agent,) = await cloud.agents(1)
    await cloud.advance(2 * HOUR)
    await cloud.use(agent, agent.since, 30 * CU_HOUR_S)
    await cloud.advance(HOUR)
    await cloud.sync()
    assert await paused(cloud, agent)


async def test_every_project_of_a_payer_is_paused_though_one_cannot_be(cloud: Cloud) -> None:
    agents = await cloud.agents(3)
    payer = agents[0]
    for agent in agents[1:]:
        await cloud.db.execute("UPDATE workspace_database SET user_id = $1 WHERE id = $2", payer.user_id, agent.row.id)
        await cloud.db.execute(
            "UPDATE workspace SET owner_id = $1 WHERE id = $2", payer.user_id, agent.tenant.workspace_id
        )
    await overspend(cloud, payer)
    await cloud.fail(method="PATCH", path=f"/projects/{agents[0].project_id}", status=400)
    await settle_budgets(cloud)
    assert [await paused(cloud, agent) for agent in agents] == [False, True, True]
    await cloud.heal()
    await settle_budgets(cloud)
    assert await paused(cloud, payer)


@pytest.mark.parametrize("change", ["reset", "tier", "limit"])
async def test_what_lifts_a_budget_resumes_and_the_next_statement_works_though_resuming_failed_at_first(
    cloud: Cloud, change: str
) -> None:
    (agent,) = await cloud.agents(1)
    await overspend(cloud, agent)
    await settle_budgets(cloud)
    assert await paused(cloud, agent)
    await cloud.fail(**PATCH, status=400, times=1)
    usage = cloud.application.managed().usage
    match change:
        case "reset":
            report = await usage.reset(agent.user_id)
        case "tier":
            report = await usage.set_tier(agent.user_id, "paid")
        case _:
            report = await usage.set_tier(agent.user_id, "free", 100_000)
    assert report.state is BudgetState.OK
    assert await cloud.sql(agent, "SELECT 1") == [[1]]
    assert (await cloud.neon(agent))[0] == 0


async def test_a_pause_of_which_the_answer_was_lost_is_lifted_by_a_reset(cloud: Cloud) -> None:
    """Neon paused the project and nobody here learned of it."""
    (agent,) = await cloud.agents(1)
    await overspend(cloud, agent)
    await cloud.fail(**PATCH, status=400, effect=True, times=1)
    await settle_budgets(cloud)
    assert (await cloud.neon(agent))[0] == 1
    await cloud.application.managed().usage.reset(agent.user_id)
    assert (await cloud.neon(agent))[0] == 0
    assert await cloud.sql(agent, "SELECT 1") == [[1]]


async def test_a_pause_during_which_its_process_was_killed_is_lifted_by_a_reset(cloud: Cloud, tmp_path: Path) -> None:
    (agent,) = await cloud.agents(1)
    await overspend(cloud, agent)
    held = await cloud.fail(**PATCH, delay_after=HOLD_S, times=1)
    async with settling(cloud, agent, tmp_path) as process:

        async def is_held() -> bool:
            assert process.returncode is None, (tmp_path / "log").read_text()
            return await cloud.hits(held) == 1 and (await cloud.neon(agent))[0] == 1

        await until(is_held)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    await cloud.application.managed().usage.reset(agent.user_id)
    assert (await cloud.neon(agent))[0] == 0
    assert await cloud.sql(agent, "SELECT 1") == [[1]]


async def test_a_pause_that_was_decided_before_a_reset_does_not_come_after_it(cloud: Cloud, tmp_path: Path) -> None:
    (agent,) = await cloud.agents(1)
    await overspend(cloud, agent)
    held = await cloud.fail(**PATCH, delay_before=1.5, times=1)
    async with settling(cloud, agent, tmp_path) as process:

        async def is_held() -> bool:
            if await cloud.hits(held) == 1:
                return True
            assert process.returncode is None, (tmp_path / "log").read_text()
            return False

        await until(is_held)
        await cloud.application.managed().usage.reset(agent.user_id)
        assert await process.wait() == 0, (tmp_path / "log").read_text()
    assert (await cloud.neon(agent))[0] == 0
    assert await cloud.sql(agent, "SELECT 1") == [[1]]
    await settle_budgets(cloud)
    assert (await cloud.neon(agent))[0] == 0


async def test_databases_of_users_own_are_never_paused_or_deleted(cloud: Cloud) -> None:
    (agent,) = await cloud.agents(1)
    await cloud.db.execute("UPDATE workspace_database SET ownership_type = 'user'")
    await overspend(cloud, agent)
    await cloud.application.managed().usage.set_tier(agent.user_id, "free", 0)
    await settle_budgets(cloud)
    assert (await cloud.neon(agent))[0] == 0
    assert await cloud.sql(agent, "CREATE TABLE t (id int)") == []
    assert await cloud.used(agent) == 0
    assert agent.tenant.workspace_id
    await cloud.application.managed().lifecycle.delete_workspace(agent.tenant.workspace_id)
    assert (await cloud.api.get(f"/projects/{agent.project_id}")).status_code == 200


async def test_a_user_who_was_deleted_meanwhile_stops_no_one(cloud: Cloud) -> None:
    (agent,) = await cloud.agents(1)
    await overspend(cloud, agent)
    await cloud.db.execute("DELETE FROM user_db_budget")
    await cloud.application.managed().usage.pausing.settle(agent.user_id)
    with pytest.raises(AgentDBError):
        await cloud.application.managed().usage.reset("nobody")


def settling(cloud: Cloud, agent: Agent, folder: Path) -> Spawned:
    """Another process that does what is to be done for the user."""
    command = [sys.executable, "-c", SETTLE, agent.user_id, str(cloud.clock.ahead.total_seconds())]
    return Spawned(command, cloud.environ, folder / "log")


class Spawned:
    """A process for the time of a block."""

    def __init__(self, command: list[str], environ: dict[str, str], log: Path) -> None:
        self.command, self.environ, self.log = command, environ, log

    async def __aenter__(self) -> Any:
        with self.log.open("ab") as errors:
            self.process = await anyio.open_process(self.command, env=self.environ, stderr=errors)
        return self.process

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.aclose()
