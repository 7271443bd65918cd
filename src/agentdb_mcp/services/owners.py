"""Who pays for a workspace's database: its owner, also when the platform gives it another one without telling us."""

from __future__ import annotations

from dataclasses import dataclass

from agentdb_mcp.errors import InvalidArgument
from agentdb_mcp.logs import get_logger
from agentdb_mcp.services.tiers import Tiers
from agentdb_mcp.store import BudgetStore, DatabaseRow, DatabaseStore, OwnerUnknown

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Owners:
    databases: DatabaseStore
    budgets: BudgetStore
    tiers: Tiers

    async def hand_over(self, row: DatabaseRow, user_id: str) -> DatabaseRow:
        """The user pays from now on. The project moves to the account of the user's tier later."""
        await self.budgets.ensure(user_id)
        log.info("workspace handed over", project=row.project_name)
        return await self.databases.set_payer(row, user_id)

    async def follow(self) -> None:
        """Let new owners pay, and move what they pay for to the account of their tier."""
        now_pay = set()
        for row, user_id in await self.databases.handed_over():
            try:
                await self.hand_over(row, user_id)
                now_pay.add(user_id)
            except (InvalidArgument, OwnerUnknown):  # deleted at the same moment: the next owner is found next time
                log.info("owner gone", project=row.project_name)
        await self.tiers.follow(sorted(now_pay))
