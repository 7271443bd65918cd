"""A user's period in figures: what was used, database by database, and what is committed until its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from agentdb_mcp.costs import MICROCENTS_PER_CENT, Lines, Position, Prices, cost_microcents, state_of
from agentdb_mcp.models import BudgetState, DatabaseStatus, Ownership, Quantities
from agentdb_mcp.policy import Policy
from agentdb_mcp.services.metering import to_us
from agentdb_mcp.store import BudgetRow, DatabaseUsage, PeriodFigures


@dataclass(frozen=True)
class Bill:
    """Money is micro-cents. `by_database` has what each cost so far, a deleted one's too.

    What every call asks is found out once.
    """

    user_id: str
    tier: str
    limit_microcents: int
    lines: Lines
    period_start: datetime
    period_end: datetime
    by_database: tuple[tuple[DatabaseUsage, int], ...]
    committed_microcents: int

    @cached_property
    def used_microcents(self) -> int:
        return sum(cost for _, cost in self.by_database)

    @property
    def costs(self) -> dict[str, int]:
        return {usage.database_id: cost for usage, cost in self.by_database}

    @property
    def figures(self) -> PeriodFigures:
        return PeriodFigures(self.user_id, *self.stored_as, self.costs)

    @property
    def stored_as(self) -> tuple[datetime, int, bool]:
        """As the budget's row tells it: the period, cents, whether it is exceeded."""
        used = self.used_microcents
        exceeded = used + self.committed_microcents >= self.lines.exceeded
        return self.period_start, used // MICROCENTS_PER_CENT, exceeded

    @property
    def state(self) -> BudgetState:
        return state_of(Position(self.used_microcents, self.committed_microcents), self.lines)

    @cached_property
    def paused(self) -> frozenset[str]:
        """Databases that the provider was told to pause, or may have been."""
        return frozenset(usage.database_id for usage, _ in self.by_database if usage.paused is not False)

    def usage(self, database_id: str) -> DatabaseUsage | None:
        """What is known of the database; nothing of one that is newer than the bill."""
        return self._usages.get(database_id)

    @cached_property
    def _usages(self) -> dict[str, DatabaseUsage]:
        return {usage.database_id: usage for usage, _ in self.by_database}

    def awake_until_us(self, database_id: str) -> int:
        """When the database's compute falls asleep, by what all servers have stored; 0 where nothing is known."""
        return self._awake_until_us.get(database_id, 0)

    @cached_property
    def _awake_until_us(self) -> dict[str, int]:
        return {
            usage.database_id: to_us(usage.awake_until)
            for usage, _ in self.by_database
            if usage.awake_until is not None
        }

    @property
    def unsettled(self) -> list[DatabaseUsage]:
        """Databases of which the provider was told the other thing, or nobody knows which."""
        pause = self.state is BudgetState.PAUSED
        ready = [usage for usage, _ in self.by_database if usage.present and usage.status is DatabaseStatus.READY]
        return [usage for usage in ready if usage.paused is not pause]


def bill_of(
    row: BudgetRow,
    period: tuple[datetime, datetime],
    used: Sequence[DatabaseUsage],
    now: datetime,
    policy: Policy,
    prices: Prices,
) -> Bill:
    """The user's bill at `now`. Databases that users brought cost nothing here."""
    start, end = period
    limit = limit_microcents(policy, row.tier, row.custom_budget_cents)
    ours = [usage for usage in used if usage.ownership is Ownership.PLATFORM]
    left_us = max(0, to_us(end) - to_us(now))
    kept = sum(usage.size_bytes for usage in ours if usage.present and usage.status is not DatabaseStatus.DELETED)
    return Bill(
        row.user_id,
        row.tier,
        limit,
        lines_of(policy, limit),
        start,
        end,
        tuple((usage, cost_microcents(usage.quantities, prices)) for usage in ours),
        cost_microcents(Quantities(storage_byte_us=kept * left_us), prices),
    )


def limit_microcents(policy: Policy, tier: str, custom_budget_cents: int | None) -> int:
    """A tier that the policy does not know any more pays for nothing."""
    cents = custom_budget_cents if custom_budget_cents is not None else policy.tiers.get(tier, 0)
    return cents * MICROCENTS_PER_CENT


def lines_of(policy: Policy, limit: int) -> Lines:
    return Lines.of(
        limit,
        warning_percent=policy.budget.warning_percent,
        exceeded_percent=policy.budget.exceeded_percent,
        paused_percent=policy.budget.paused_percent,
    )
