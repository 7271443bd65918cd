"""Whoever deletes a user, the platform itself perhaps, is not the victim of figures that are recorded meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import anyio
import asyncpg
import pytest

from agentdb_mcp.models import Scope, Secret
from agentdb_mcp.store import BudgetStore, ControlDatabase, DatabaseStore, IdentityStore
from agentdb_mcp.store.budgets import PeriodFigures

WAITS = "SELECT true FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@pytest.fixture
async def control(empty_database: Secret) -> AsyncIterator[ControlDatabase]:
    control = ControlDatabase(empty_database)
    yield control
    await control.close()


@pytest.mark.parametrize("reached", ["workspace_database", "user_global_database"])
async def test_a_user_can_be_deleted_while_figures_are_recorded(
    control: ControlDatabase, empty_database: Secret, reached: str
) -> None:
    identity, databases, budgets = IdentityStore(control), DatabaseStore(control), BudgetStore(control)
    await identity.ensure_user("u")
    await identity.ensure_workspace("w", "Notes", "u")
    await budgets.ensure("u")
    await databases.declare(Scope.GLOBAL, "u", user_id="u", project_name="global-u")
    await databases.declare(Scope.AGENT, "w", user_id="u", project_name="agent-w")
    costs = {row.id: 7 for row in await databases.of_user("u")}
    deleting, looking = [await asyncpg.connect(empty_database.reveal()) for _ in range(2)]
    async with anyio.create_task_group() as group, deleting.transaction():
        await deleting.execute(f"SELECT FROM {reached} FOR UPDATE")  # so far it has come
        group.start_soon(budgets.record, [PeriodFigures("u", datetime.now(UTC), 7, False, costs)])
        with anyio.fail_after(20):
            while not await looking.fetchval(WAITS):
                await anyio.sleep(0.01)
        if reached == "user_global_database":  # those of the workspaces come before it, and it has them already
            await deleting.execute("SELECT FROM user_db_budget FOR UPDATE NOWAIT")
        else:
            await deleting.execute("DELETE FROM \"user\" WHERE id = 'u'")
    for connection in (deleting, looking):
        await connection.close()
