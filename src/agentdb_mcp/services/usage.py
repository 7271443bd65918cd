"""What users and the platform ask about a period, and what they change of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from agentdb_mcp.costs import Position, Prices, cost_microcents, period_of, state_of, to_cents
from agentdb_mcp.errors import AgentDBError, InvalidArgument
from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import BudgetReport, DatabaseCost, DayCost, Ownership, Quantities, Scope
from agentdb_mcp.policy import Policy
from agentdb_mcp.services.bills import Bill, limit_microcents, lines_of
from agentdb_mcp.services.budgets import Budgets
from agentdb_mcp.services.metering import Clock, iso
from agentdb_mcp.services.pausing import Pausing
from agentdb_mcp.services.tiers import Tiers
from agentdb_mcp.store import BudgetStore, DatabaseUsage, IdentityStore, LedgerStore, no_such_user

log = get_logger(__name__)

MAX_BUDGET_CENTS = 10**12
MAX_DAYS = 400
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Usage:
    """Reports, history, tiers and periods."""

    policy: Policy
    budgets: Budgets
    store: BudgetStore
    ledger: LedgerStore
    identity: IdentityStore
    pausing: Pausing
    tiers: Tiers
    clock: Clock

    async def report(self, user_id: str) -> BudgetReport:
        """The month as it stands now, database by database."""
        return await self._report(await self._read(user_id))

    async def forecast(self) -> BudgetReport:
        """The month of a user who has no database yet."""
        tier = next(iter(self.policy.tiers))
        now = self.clock()
        limit = limit_microcents(self.policy, tier, None)
        state = state_of(Position(0), lines_of(self.policy, limit))
        _, end = period_of(now, now)
        return BudgetReport(limit, 0, state, iso(now), iso(end), tier)

    async def knows(self, user_id: str) -> bool:
        """Whether there is such a user yet."""
        return await self.identity.has_user(user_id)

    async def reset(self, user_id: str) -> BudgetReport:
        """Start a new period now."""
        await self._read(user_id)
        await self.store.reset_period(user_id, self.clock())
        return await self._changed(user_id)

    async def set_tier(self, user_id: str, tier: str, custom_budget_cents: int | None = None) -> BudgetReport:
        """Change the tier; a custom limit in cents overrides the tier's."""
        check_tier(tier, self.policy.tiers)
        if custom_budget_cents is not None and not 0 <= custom_budget_cents <= MAX_BUDGET_CENTS:
            raise InvalidArgument(f"A custom limit is between 0 and {MAX_BUDGET_CENTS:,} cents.")
        await self._read(user_id)
        await self.store.set_tier(user_id, tier, custom_budget_cents)
        report = await self._changed(user_id)
        await self.tiers.follow(await self.store.misplaced(user_id))
        return report

    async def history(self, user_id: str, since: date, until: date) -> list[DayCost]:
        """Costs by day (UTC) and database, the last day included; days without costs are left out.

        A day's cost is what it added to the total since `since`, so that the days sum to it.
        """
        if not (since <= until <= date.max - DAY and until - since < MAX_DAYS * DAY):
            raise InvalidArgument(
                f"The history is asked for from one day to the same or a later one, {MAX_DAYS} days at most.",
                hint=f"Asked for was {since} to {until}.",
            )
        await self.identity.require_user(user_id)
        days = [since + index * DAY for index in range((until - since).days + 1)]
        windows = [(user_id, _midnight(day), _midnight(day + DAY)) for day in days]
        found = await self.ledger.usage(windows, self.clock(), self.policy.compute.max_mcu)
        names = await self.identity.names_of_workspaces(user_id)
        prices, told = Prices.of(self.policy.prices), list[DayCost]()
        totals: dict[str, Quantities] = {}
        for usage in found:
            if usage.ownership is not Ownership.PLATFORM:
                continue
            before = totals.get(usage.database_id, Quantities())
            after = totals[usage.database_id] = before + usage.quantities
            if cost := cost_microcents(after, prices) - cost_microcents(before, prices):
                told.append(DayCost(days[usage.window], _cost(usage, cost, 0, names)))
        cents = to_cents([each.database.cost_microcents for each in told])
        return [each.in_cents(share) for each, share in zip(told, cents, strict=True)]

    async def _read(self, user_id: str) -> Bill:
        await self.identity.require_user(user_id)
        await self.store.ensure(user_id, anchor=self.clock())
        for bill in await self.budgets.refresh([user_id]):
            return bill
        raise no_such_user(user_id)  # deleted meanwhile

    async def _changed(self, user_id: str) -> BudgetReport:
        """What follows from a change at once; a provider that does not answer is asked again later."""
        bill = await self._read(user_id)
        try:
            await self.pausing.settle(user_id)
        except AgentDBError as error:
            log.warning("projects not paused or resumed", code=error.code)
        return await self._report(bill)

    async def _report(self, bill: Bill) -> BudgetReport:
        names = await self.identity.names_of_workspaces(bill.user_id)
        cents = to_cents([cost for _, cost in bill.by_database])
        return BudgetReport(
            limit_microcents=bill.limit_microcents,
            used_microcents=bill.used_microcents,
            state=bill.state,
            period_start=iso(bill.period_start),
            period_end=iso(bill.period_end),
            tier=bill.tier,
            by_database=tuple(
                _cost(usage, cost, share, names) for (usage, cost), share in zip(bill.by_database, cents, strict=True)
            ),
            committed_microcents=bill.committed_microcents,
        )


def check_tier(tier: str, tiers: Collection[str]) -> None:
    """Raises InvalidArgument for a tier that the policy does not have."""
    if tier not in tiers:
        raise InvalidArgument(f"There is no tier {tier}.", hint=f"The policy's tiers are {', '.join(tiers)}.")


def _cost(usage: DatabaseUsage, microcents: int, cents: int, names: dict[str, str]) -> DatabaseCost:
    name = "global" if usage.scope is Scope.GLOBAL else names.get(usage.owner_id or "", usage.project_name)
    workspace_id = usage.owner_id if usage.scope is Scope.AGENT else None
    return DatabaseCost(usage.scope, name, microcents, workspace_id, cents=cents, size_bytes=usage.size_bytes)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
