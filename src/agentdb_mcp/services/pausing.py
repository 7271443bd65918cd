"""What the provider is told when a budget is spent to its end, and when it is not any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import BudgetState
from agentdb_mcp.providers import Provider
from agentdb_mcp.services.bills import Bill
from agentdb_mcp.services.budgets import Budgets
from agentdb_mcp.store import BudgetStore, DatabaseStore, DatabaseUsage

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pausing:
    """Pauses and resumes projects until they are as their payers' budgets say; databases of users' own never."""

    provider: Provider | None
    databases: DatabaseStore
    store: BudgetStore
    budgets: Budgets

    async def follow(self, bills: Iterable[Bill]) -> None:
        """Settle whoever's projects are not as they should be; what fails is logged, and tried again next time."""
        for bill in bills:
            if bill.unsettled:
                try:
                    await self.settle(bill.user_id)
                except AgentDBError as error:
                    log.warning("projects not paused or resumed", code=error.code)

    async def settle(self, user_id: str) -> None:
        """Tell the provider what differs. Raises ProvisioningFailed, DatabaseUnavailable.

        One process at a time and user, and by figures that are read in its turn: a pause that was decided before a
        reset does not come after it.
        """
        if self.provider is None:
            return
        async with self.store.turn(user_id):
            errors: list[AgentDBError] = []
            for bill in await self.budgets.refresh([user_id]):
                for usage in bill.unsettled:
                    try:
                        await self._tell(self.provider, usage, bill.state is BudgetState.PAUSED)
                    except AgentDBError as error:  # the others' turn all the same
                        errors.append(error)
                if bill.unsettled:
                    await self.budgets.refresh([user_id])
            if errors:
                raise errors[0]

    async def _tell(self, provider: Provider, usage: DatabaseUsage, pause: bool) -> None:
        """Nobody knows what the provider did while it is told, nor after we died or it did not answer."""
        row = await self.databases.find(usage.scope, usage.project_name)
        if row is None or row.project_id is None:
            return
        await self.databases.record_paused(row, None)
        await (provider.pause(row.project_id) if pause else provider.resume(row.project_id))
        await self.databases.record_paused(row, pause)
        log.info("project paused" if pause else "project resumed", project=row.project_name)
