"""The provider's hours in the place of estimates, whatever was missed and whoever died on the way."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from cloud import CU_HOUR, CU_HOUR_S, DAY, HISTORY, HOUR, Agent, Cloud, cloud_on, hour_of, ids

from agentdb_mcp.bootstrap import open_application
from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.local_stack import LocalStack
from agentdb_mcp.models import DatabaseStatus
from agentdb_mcp.services import sync
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store import MeteredHour

PATIENCE_S = 60
HOLD_S = 8
# Hours before the last of them are over for longer than the shipped policy's settle_s.
SETTLING = 2 * HOUR

SYNC = """
import sys
from datetime import datetime, timedelta
import anyio
from agentdb_mcp.bootstrap import open_application
from agentdb_mcp.services import sync, utc_now
from agentdb_mcp.settings import load_settings

sync.BATCH = 1
ahead = timedelta(seconds=float(sys.argv[1]))

async def main():
    async with open_application(load_settings(), clock=lambda: utc_now() + ahead) as application:
        await application.managed().sync().run()

anyio.run(main)
"""


async def computes(cloud: Cloud, agent: Agent) -> int:
    """Milli-CU × seconds that the provider's rows say, in all."""
    return sum(amount for _, amount in await cloud.ledger(agent))


async def test_the_providers_hours_take_the_place_of_estimates_and_a_second_sync_changes_nothing(
    cloud: Cloud,
) -> None:
    agent = await cloud.agent()
    hour = hour_of(cloud.clock())
    await cloud.estimate(agent, hour, 3600)
    await cloud.estimate(agent, hour + HOUR, 3600)
    assert await cloud.used(agent) >= CU_HOUR // 4
    await cloud.advance(2 * HOUR + SETTLING)
    await cloud.use(agent, hour, 10 * CU_HOUR_S)
    synced = await cloud.sync()
    assert (synced.projects, synced.hours) == (1, 4)
    assert dict(await cloud.ledger(agent))[hour] == 10_000 * CU_HOUR_S
    first = await cloud.db.fetch("SELECT * FROM db_usage_ledger ORDER BY hour, source")
    used = await cloud.used(agent)
    assert 10 * CU_HOUR <= used < 10 * CU_HOUR + CU_HOUR // 4
    cloud.asked.clear()
    assert (await cloud.sync()).hours == 0
    assert cloud.asked == []
    assert await cloud.db.fetch("SELECT * FROM db_usage_ledger ORDER BY hour, source") == first
    assert (await cloud.used(agent)) - used < 1000  # storage goes on


async def test_hours_that_are_not_over_for_long_enough_keep_their_estimates(cloud: Cloud) -> None:
    agent = await cloud.agent()
    start = hour_of(cloud.clock())
    await cloud.advance(3 * HOUR)
    now = cloud.clock()
    await cloud.use(agent, start, 100, 100, 100)
    await cloud.sync()
    settled = [hour for hour, _ in await cloud.ledger(agent)]
    assert settled
    assert max(settled) + HOUR <= now - timedelta(seconds=5400) < max(settled) + 2 * HOUR
    assert await cloud.synced(agent) == max(settled) + HOUR


async def test_only_what_is_missing_is_asked_for(cloud: Cloud) -> None:
    agent = await cloud.agent()
    await cloud.advance(5 * HOUR)
    await cloud.sync()
    until = await cloud.synced(agent)
    cloud.asked.clear()
    await cloud.advance(3 * HOUR)
    await cloud.sync()
    (asked,) = cloud.asked
    assert until is not None
    assert (asked["from"], asked["to"]) == (f"{until:%Y-%m-%dT%H:%M:%SZ}", f"{until + 3 * HOUR:%Y-%m-%dT%H:%M:%SZ}")


@pytest.mark.parametrize("days", [1, 6, 12, 40, 100])
async def test_what_was_missed_is_caught_up_once_to_the_second(cloud: Cloud, days: int) -> None:
    agent = await cloud.agent()
    start = hour_of(cloud.clock())
    await cloud.advance(2 * HOUR + SETTLING)
    await cloud.use(agent, start, 50)
    await cloud.sync()
    last = await cloud.synced(agent)
    assert last is not None
    before = dict(await cloud.ledger(agent))
    await cloud.advance(days * DAY)
    hours = days * 24
    amounts = [100 + number for number in range(hours)]
    await cloud.use(agent, last, *amounts)
    for _ in range(2):
        await cloud.sync()
        ledger = await cloud.ledger(agent)
        assert {hour: amount for hour, amount in ledger if hour < last} == before
        missed = [(hour, amount) for hour, amount in ledger if hour >= last]
        assert [hour for hour, _ in missed] == [last + number * HOUR for number in range(len(missed))]
        assert await cloud.synced(agent) == missed[-1][0] + HOUR
        assert len(missed) in (hours, hours + 1)  # an hour may end while this runs
        assert sum(amount for _, amount in missed) == 1000 * sum(amounts)
        exact = [1000 * amount for amount in amounts]
        assert [amount for _, amount in missed][-120:][:100] == exact[len(missed) - 120 :][:100] or days == 1


async def test_days_that_are_all_that_is_known_stay_out_of_the_hours_before_a_period(cloud: Cloud) -> None:
    """A project that was made at noon costs nothing in that day's morning."""
    await cloud.advance(timedelta(hours=(35 - cloud.clock().hour) % 24 or 24))
    agent = await cloud.agent()
    start = hour_of(cloud.clock())
    assert start.hour == 12
    await cloud.db.execute("UPDATE user_db_budget SET period_anchor = $1", hour_of(agent.made))
    await cloud.advance(20 * DAY)
    await cloud.use(agent, start, 5 * CU_HOUR_S)
    await cloud.sync()
    assert await cloud.db.fetchval("SELECT min(hour) FROM db_usage_ledger") == hour_of(agent.made)
    assert 5 * CU_HOUR <= await cloud.used(agent) < 5 * CU_HOUR + CU_HOUR // 2


async def test_a_project_that_was_long_missed_leaves_others_hours_alone(cloud: Cloud) -> None:
    late, other = await cloud.agents(2)
    await cloud.advance(20 * DAY)
    hour = hour_of(cloud.clock()) - 30 * HOUR
    await cloud.use(other, hour, 77)
    await cloud.sync()
    before = await cloud.ledger(other)
    assert dict(before)[hour] == 77_000
    await cloud.db.execute("UPDATE workspace_database SET last_consumption_sync = NULL WHERE id = $1", late.row.id)
    await cloud.advance(HOUR)
    await cloud.sync()
    assert (await cloud.ledger(other))[: len(before)] == before
    assert await cloud.synced(late) == await cloud.synced(other)


async def test_a_provider_that_fails_half_way_loses_nothing(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "BATCH", 1)
    agents = await cloud.agents(3)
    hour = hour_of(cloud.clock())
    await cloud.advance(HOUR + SETTLING)
    for agent in agents:
        await cloud.use(agent, hour, 30 * CU_HOUR_S)
    await cloud.fail(method="GET", path=HISTORY, times=1, delay_after=0.0)  # the first passes
    await cloud.fail(method="GET", path=HISTORY, status=400)
    with pytest.raises(ProvisioningFailed):
        await cloud.sync()
    amounts = sorted([await computes(cloud, agent) for agent in agents])
    assert amounts == [0, 0, 30_000 * CU_HOUR_S]
    columns = "SELECT sum(budget_exceeded::int) FROM user_db_budget"
    assert await cloud.db.fetchval(columns) == 1  # whose figures came is told so
    await cloud.heal()
    await cloud.sync()
    assert [await computes(cloud, agent) for agent in agents] == 3 * [30_000 * CU_HOUR_S]
    assert await cloud.db.fetchval(columns) == 3


async def test_a_sync_that_is_killed_half_way_loses_nothing(cloud: Cloud, tmp_path: Path) -> None:
    agents = await cloud.agents(3)
    hour = hour_of(cloud.clock())
    await cloud.advance(HOUR + SETTLING)
    for agent in agents:
        await cloud.use(agent, hour, 500)
    await cloud.fail(method="GET", path=HISTORY, times=2)
    held = await cloud.fail(method="GET", path=HISTORY, times=1, delay_before=HOLD_S)
    command = [sys.executable, "-c", SYNC, str(cloud.clock.ahead.total_seconds())]
    with (tmp_path / "log").open("ab") as log:
        process = await anyio.open_process(command, env=cloud.environ, stderr=log)
    async with process:
        with anyio.fail_after(PATIENCE_S):
            while not await cloud.hits(held):
                assert process.returncode is None, (tmp_path / "log").read_text()
                await anyio.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    assert sorted([await computes(cloud, agent) for agent in agents])[0] == 0
    await cloud.heal()
    await cloud.sync()
    assert [await computes(cloud, agent) for agent in agents] == 3 * [500_000]


async def test_two_syncs_at_once_are_as_good_as_one(cloud: Cloud) -> None:
    agents = await cloud.agents(3)
    hour = hour_of(cloud.clock())
    await cloud.advance(HOUR + SETTLING)
    for agent in agents:
        await cloud.use(agent, hour, 500)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(cloud.sync)
    assert [await computes(cloud, agent) for agent in agents] == 3 * [500_000]


async def test_a_project_that_is_deleted_meanwhile_is_settled_to_its_end_and_then_no_more(cloud: Cloud) -> None:
    agent = await cloud.agent()
    start = hour_of(cloud.clock())
    await cloud.advance(3 * HOUR)
    await cloud.use(agent, start, 300, 300, 300)
    assert agent.tenant.workspace_id
    await cloud.application.managed().lifecycle.delete_workspace(agent.tenant.workspace_id)
    await cloud.db.execute("UPDATE workspace_database SET updated_at = $1", cloud.clock())
    await cloud.advance(HOUR + SETTLING)
    await cloud.sync()
    assert await computes(cloud, agent) == 900_000
    assert CU_HOUR * 900 // CU_HOUR_S <= await cloud.used(agent) <= CU_HOUR
    await cloud.advance(2 * HOUR)
    await cloud.sync()
    cloud.asked.clear()
    await cloud.advance(5 * HOUR)
    await cloud.sync()
    assert cloud.asked == []


async def test_a_project_made_anew_costs_what_both_cost(cloud: Cloud) -> None:
    agent = await cloud.agent()
    start = hour_of(cloud.clock())
    await cloud.advance(2 * HOUR)
    assert agent.tenant.workspace_id
    lifecycle = cloud.application.managed().lifecycle
    await lifecycle.delete_workspace(agent.tenant.workspace_id)
    await cloud.db.execute("UPDATE workspace_database SET updated_at = $1", cloud.clock())
    row = await lifecycle.create_workspace(agent.tenant.workspace_id, agent.user_id, "Notes")
    assert row.project_id != agent.project_id
    again = replace(agent, row=row)
    await cloud.advance(HOUR + SETTLING)
    await cloud.use(agent, start, 300, 0, 300)
    await cloud.use(again, start + 2 * HOUR, 500)
    for _ in range(2):
        await cloud.sync()
        assert 1_100_000 <= await computes(cloud, agent) <= 1_100_000 + 76_000  # making it woke its compute


async def test_a_project_that_neon_does_not_report_keeps_its_estimates(cloud: Cloud) -> None:
    agent, other = await cloud.agents(2)
    hour = hour_of(cloud.clock())
    await cloud.db.execute(
        "UPDATE workspace_database SET neon_project_id = 'never-was-12345678' WHERE id = $1", agent.row.id
    )
    await cloud.estimate(agent, hour, 3600)
    await cloud.advance(HOUR + SETTLING)
    await cloud.sync()
    assert await cloud.used(agent) >= CU_HOUR // 4
    assert await cloud.ledger(agent) == []
    assert await cloud.ledger(other)


async def test_a_provider_that_measures_no_compute_leaves_estimates_alone(stack: LocalStack, slow: Path) -> None:
    uri = stack.postgres.uri().reveal()
    own = {"AGENTDB_PROVIDER_URL": uri, "NEON_API_KEY": "", "NEON_ORG_ID": "", "NEON_API_HOST": ""}
    async with cloud_on(stack, slow) as cloud:
        environ = {key: value for key, value in (cloud.environ | own).items() if value}
        async with open_application(load_settings(environ), clock=cloud.clock) as application:
            cloud.application, neon = application, cloud.application
            agent = await cloud.agent()
            hour = hour_of(cloud.clock())
            await cloud.estimate(agent, hour, 3600)
            await cloud.advance(HOUR + SETTLING)
            synced = await cloud.sync()
            assert (synced.projects, synced.hours) == (1, 0)
            assert await cloud.used(agent) >= CU_HOUR // 4
            assert agent.tenant.workspace_id
            await application.managed().lifecycle.delete_workspace(agent.tenant.workspace_id)
            cloud.application = neon


async def test_one_request_is_about_a_hundred_projects_at_most(cloud: Cloud) -> None:
    agent = await cloud.agent()
    await cloud.db.execute(
        "INSERT INTO workspace_database (user_id, project_name, status, neon_project_id, created_at, updated_at)"
        " SELECT $1, 'agent-many-' || n, 'ready', 'many-' || n, $2, $2 FROM generate_series(1, 249) AS n",
        agent.user_id,
        agent.made,
    )
    await cloud.advance(HOUR + SETTLING)
    await cloud.sync()
    first = [asked for asked in cloud.asked if "cursor" not in asked]
    assert max(len(ids([asked])) for asked in cloud.asked) == 100
    assert sorted(ids(first)) == sorted(set(ids(cloud.asked)))
    assert len(ids(first)) == 250


async def test_databases_of_users_own_are_not_asked_for_and_cost_nothing(cloud: Cloud) -> None:
    agent = await cloud.agent()
    hour = hour_of(cloud.clock())
    await cloud.db.execute("UPDATE workspace_database SET ownership_type = 'user'")
    await cloud.estimate(agent, hour, 3600)
    await cloud.advance(HOUR + SETTLING)
    await cloud.sync()
    assert cloud.asked == []
    assert await cloud.used(agent) == 0
    assert await cloud.sql(agent, "SELECT 1") == [[1]]
    assert await cloud.used(agent) == 0
    usage = cloud.application.managed().usage
    assert await usage.history(agent.user_id, hour.date(), cloud.clock().date()) == []


async def test_rows_of_a_server_that_come_late_do_not_bring_estimates_back(cloud: Cloud) -> None:
    agent = await cloud.agent()
    hour = hour_of(cloud.clock())
    await cloud.advance(HOUR + SETTLING)
    await cloud.sync()
    before = await cloud.used(agent)
    span = (hour, hour + timedelta(seconds=3000))
    await cloud.application.managed().usage.ledger.store("late", [MeteredHour(agent.row.id, hour, (span,), 10**9)])
    assert await cloud.used(agent) - before < 1000
    assert agent.row.status is DatabaseStatus.READY
