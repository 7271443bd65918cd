"""What a user's tier means for projects: whose account they are in, and how their computes are set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import DatabaseStatus, Ownership, ProjectSettings
from agentdb_mcp.policy import Policy
from agentdb_mcp.providers import Provider
from agentdb_mcp.store import BudgetStore, DatabaseStore

log = get_logger(__name__)

BEING_MADE = frozenset({DatabaseStatus.PENDING, DatabaseStatus.PROVISIONING})


@dataclass(frozen=True, slots=True)
class Tiers:
    policy: Policy
    provider: Provider | None
    databases: DatabaseStore
    budgets: BudgetStore

    async def settings(self, user_id: str | None) -> ProjectSettings:
        """Of a new project that the user pays for."""
        rows = await self.budgets.read([user_id]) if user_id else []
        return self._settings(rows[0].tier if rows else next(iter(self.policy.tiers)))

    async def follow(self, user_ids: Iterable[str]) -> None:
        """Set up the users' projects for their tiers; what fails is logged, and tried again next time."""
        for user_id in user_ids:
            try:
                await self.place(user_id)
            except AgentDBError as error:
                log.warning("projects not moved", code=error.code)

    async def place(self, user_id: str) -> None:
        """Move the user's projects to the account of the tier. Raises ProvisioningFailed, DatabaseUnavailable."""
        if self.provider is None:
            return
        async with self.budgets.turn(user_id):
            for budget in await self.budgets.read([user_id]):
                settings = self._settings(budget.tier)
                ours = [row for row in await self.databases.of_user(user_id) if row.ownership is Ownership.PLATFORM]
                errors: list[AgentDBError] = []
                for row in ours:
                    try:
                        if row.status is DatabaseStatus.READY and row.project_id is not None:
                            await self.provider.move(row.project_id, paid=bool(settings.paid))
                            await self.provider.configure(row.project_id, settings)
                    except AgentDBError as error:  # the others are moved all the same
                        errors.append(error)
                if errors:
                    raise errors[0]
                # What is being made now may be made for the tier that was.
                if not any(row.status in BEING_MADE for row in ours):
                    await self.budgets.record_placed(user_id, budget.tier)

    def _settings(self, tier: str) -> ProjectSettings:
        return ProjectSettings(
            max_cu=float(self.policy.compute.max_cu),
            suspend_timeout_s=self.policy.compute.suspend_timeout_s,
            paid=tier in self.policy.organizations.paid_tiers,
        )
