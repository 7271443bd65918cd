"""A bill that was read before a reset does not come back after it; what runs is stored before it ends."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from cloud import Agent, Cloud, cloud_on
from test_pausing import overspend, until

from agentdb_mcp.local_stack import LocalStack
from agentdb_mcp.models import BudgetState
from agentdb_mcp.store import DatabaseUsage, LedgerStore


async def test_a_bill_that_was_read_before_a_reset_does_not_replace_one_that_was_read_after_it(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    (agent,) = await cloud.agents(1)
    budgets, read, go_on = cloud.application.managed().usage.budgets, anyio.Event(), anyio.Event()
    assert (await budgets.bill(agent.user_id)).state is BudgetState.OK
    await overspend(cloud, agent)
    usage = LedgerStore.usage

    async def slow(self: LedgerStore, *arguments: Any) -> Sequence[DatabaseUsage]:
        found = await usage(self, *arguments)
        if not read.is_set():
            read.set()
            await go_on.wait()
        return found

    monkeypatch.setattr(LedgerStore, "usage", slow)
    async with anyio.create_task_group() as group:
        group.start_soon(budgets.refresh, [agent.user_id])
        await read.wait()
        await cloud.application.managed().usage.reset(agent.user_id)
        assert (await budgets.bill(agent.user_id)).state is BudgetState.OK
        go_on.set()
    assert (await budgets.bill(agent.user_id)).state is BudgetState.OK


async def awake(cloud: Cloud, agent: Agent) -> timedelta:
    spans = await cloud.db.fetchval(
        "SELECT range_agg(active) FROM db_usage_ledger WHERE database_id = $1 AND source <> 'provider'", agent.row.id
    )
    return sum((span.upper - span.lower for span in spans or ()), timedelta())


async def test_what_runs_is_stored_before_it_ends(stack: LocalStack, quick: Path) -> None:
    """Who is killed then has stored all but the last moment of it, and the time awake after it."""
    async with cloud_on(stack, quick) as cloud:
        (agent,) = await cloud.agents(1)
        began: datetime = cloud.clock()
        before = await awake(cloud, agent)
        async with anyio.create_task_group() as group:
            group.start_soon(cloud.sql, agent, "SELECT pg_sleep(10)")

            async def is_stored() -> bool:
                ran = await awake(cloud, agent) - before - timedelta(seconds=300)
                assert ran < cloud.clock() - began
                return ran >= timedelta(seconds=1)

            await until(is_stored)
            report = await cloud.report(agent)
            group.cancel_scope.cancel()
        assert 0 <= (await cloud.report(agent)).used_microcents - report.used_microcents < 5000
