"""Each user's month: what was stored, what our meter adds, and the state that follows.

Totals are read from the control database at most once a `REFRESH_S` and user; in between, this process adds what its
own meter sees, so a statement is judged without a query.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import anyio

from agentdb_mcp.costs import MICROCENTS_PER_CENT, Meter, period_of, state_of
from agentdb_mcp.errors import AgentDBError, DatabaseUnavailable, InvalidArgument
from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import BudgetReport, BudgetState, DatabaseCost, Scope
from agentdb_mcp.policy import Policy
from agentdb_mcp.store import BudgetStore, DatabaseStore, IdentityStore

log = get_logger(__name__)

REFRESH_S = 1.0
FLUSH_S = 5.0
MAX_BUDGET_CENTS = 10**12


@dataclass(frozen=True, slots=True)
class _Snapshot:
    report: BudgetReport
    keys: tuple[tuple[Scope, str], ...]
    read_at: float


class Usage:
    """Reports and states of users' budgets."""

    def __init__(
        self, policy: Policy, meter: Meter, databases: DatabaseStore, budgets: BudgetStore, identity: IdentityStore
    ) -> None:
        self._policy = policy
        self._meter = meter
        self._databases = databases
        self._budgets = budgets
        self._identity = identity
        self._snapshots: dict[str, _Snapshot] = {}
        self._reading: dict[str, anyio.Lock] = {}
        self._storing = anyio.Lock()

    def note(self, scope: Scope, row_id: str, start: float, end: float) -> None:
        """One use of a database, on the monotonic clock."""
        self._meter.note((scope, row_id), start, end)

    async def state(self, user_id: str) -> tuple[BudgetState, BudgetReport]:
        """What the user's next statement is judged by."""
        snapshot = await self._fresh(user_id)
        used = snapshot.report.used_microcents + sum(self._meter.pending(key) for key in snapshot.keys)
        return self._state(used, snapshot.report.limit_microcents), snapshot.report

    async def _fresh(self, user_id: str) -> _Snapshot:
        """A snapshot of the last second; the last one there is while it is being read, or cannot be."""
        lock = self._reading.setdefault(user_id, anyio.Lock())
        known = self._snapshots.get(user_id)
        if known is not None and (lock.locked() or time.monotonic() - known.read_at <= REFRESH_S):
            return known
        async with lock:
            try:
                return await self._read(user_id)
            except DatabaseUnavailable as error:
                if known is None:
                    raise
                log.warning("budget not refreshed", code=error.code)
                self._snapshots[user_id] = replace(known, read_at=time.monotonic())
                return known

    async def report(self, user_id: str) -> BudgetReport:
        """The month as it stands now, database by database."""
        await self._identity.require_user(user_id)
        return (await self._read(user_id)).report

    async def forecast(self) -> BudgetReport:
        """The month of a user who has no database yet."""
        tier = next(iter(self._policy.tiers))
        now = datetime.now(UTC)
        limit = self._limit_microcents(tier, None)
        return BudgetReport(limit, 0, self._state(0, limit), _iso(now), _iso(period_of(now, now)[1]), tier)

    async def knows(self, user_id: str) -> bool:
        """Whether there is such a user yet."""
        return await self._identity.has_user(user_id)

    async def reset(self, user_id: str) -> BudgetReport:
        """Start a new period now."""
        await self._identity.require_user(user_id)
        await self.flush()
        await self._budgets.reset_period(user_id)
        return await self.report(user_id)

    async def set_tier(self, user_id: str, tier: str, custom_budget_cents: int | None = None) -> BudgetReport:
        """Change the tier; a custom limit in cents overrides the tier's."""
        check_tier(tier, self._policy.tiers)
        if custom_budget_cents is not None and not 0 <= custom_budget_cents <= MAX_BUDGET_CENTS:
            raise InvalidArgument(f"A custom limit is between 0 and {MAX_BUDGET_CENTS:,} cents.")
        await self._identity.require_user(user_id)
        await self._budgets.ensure(user_id, tier)
        await self._budgets.set_tier(user_id, tier, custom_budget_cents)
        return await self.report(user_id)

    async def flush(self) -> None:
        """Store what the meter noted; on failure it stays noted."""
        async with self._storing:
            costs = self._meter.unsettled()
            if not costs:
                return
            try:
                await self._databases.add_costs(costs)  # type: ignore[arg-type]
            except AgentDBError as error:
                log.warning("metered costs not stored yet", code=error.code)
            else:
                self._meter.settle(costs)

    async def keep_flushing(self) -> None:
        """Store what idle servers noted, until cancelled."""
        while True:
            await anyio.sleep(FLUSH_S)
            await self.flush()

    async def _read(self, user_id: str) -> _Snapshot:
        await self.flush()
        budget = await self._budgets.ensure(user_id)
        if (start := period_of(budget.period_start, datetime.now(UTC))[0]) != budget.period_start:
            await self._budgets.reset_period(user_id, start=start, before=budget.period_start)
            budget = await self._budgets.ensure(user_id)
        rows = await self._databases.of_user(user_id)
        names = await self._identity.names_of_workspaces(user_id)
        limit = self._limit_microcents(budget.tier, budget.custom_budget_cents)
        used = sum(row.cost_microcents for row in rows)
        state = self._state(used, limit)
        report = BudgetReport(
            limit_microcents=limit,
            used_microcents=used,
            state=state,
            period_start=_iso(budget.period_start),
            period_end=_iso(period_of(budget.period_start, budget.period_start)[1]),
            tier=budget.tier,
            by_database=tuple(
                DatabaseCost(
                    row.scope,
                    "global" if row.scope is Scope.GLOBAL else names.get(row.owner_id or "", row.project_name),
                    row.cost_microcents,
                    row.owner_id if row.scope is Scope.AGENT else None,
                )
                for row in rows
            ),
        )
        exceeded = state in {BudgetState.EXCEEDED, BudgetState.PAUSED}
        await self._budgets.record_total(user_id, used // MICROCENTS_PER_CENT, exceeded=exceeded)
        keys = tuple((row.scope, row.id) for row in rows)
        snapshot = self._snapshots[user_id] = _Snapshot(report, keys, time.monotonic())
        return snapshot

    def _limit_microcents(self, tier: str, custom_budget_cents: int | None) -> int:
        cents = custom_budget_cents if custom_budget_cents is not None else self._policy.tiers.get(tier, 0)
        return cents * MICROCENTS_PER_CENT

    def _state(self, used: int, limit: int) -> BudgetState:
        budget = self._policy.budget
        return state_of(
            used,
            limit,
            warning_percent=budget.warning_percent,
            exceeded_percent=budget.exceeded_percent,
            paused_percent=budget.paused_percent,
        )


def check_tier(tier: str, tiers: Collection[str]) -> None:
    """Raises InvalidArgument for a tier that the policy does not have."""
    if tier not in tiers:
        raise InvalidArgument(f"There is no tier {tier}.", hint=f"The policy's tiers are {', '.join(tiers)}.")


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
