"""`user_db_budget`: tier, custom limit and period of a user."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from agentdb_mcp.store.control import ControlDatabase
from agentdb_mcp.store.identity import no_such_user


@dataclass(frozen=True, slots=True)
class BudgetRow:
    user_id: str
    tier: str
    custom_budget_cents: int | None
    period_start: datetime


class BudgetStore:
    def __init__(self, control: ControlDatabase) -> None:
        self._control = control

    async def ensure(self, user_id: str, tier: str = "free") -> BudgetRow:
        """The user's budget row, made on first sight."""
        async with self._control.connection() as connection:
            try:
                await connection.execute(
                    "INSERT INTO user_db_budget (user_id, tier) VALUES ($1, $2) ON CONFLICT (user_id) DO NOTHING",
                    user_id,
                    tier,
                )
            except asyncpg.ForeignKeyViolationError:
                raise no_such_user(user_id) from None
            row = await connection.fetchrow("SELECT * FROM user_db_budget WHERE user_id = $1", user_id)
        return BudgetRow(row["user_id"], row["tier"], row["custom_budget_cents"], row["current_period_start"])

    async def set_tier(self, user_id: str, tier: str, custom_budget_cents: int | None) -> None:
        async with self._control.connection() as connection:
            await connection.execute(
                "UPDATE user_db_budget SET tier = $2, custom_budget_cents = $3, updated_at = now() WHERE user_id = $1",
                user_id,
                tier,
                custom_budget_cents,
            )

    async def record_total(self, user_id: str, cents: int, *, exceeded: bool) -> None:
        async with self._control.connection() as connection:
            await connection.execute(
                "UPDATE user_db_budget SET total_cost_cents = $2, budget_exceeded = $3, updated_at = now()"
                " WHERE user_id = $1 AND (total_cost_cents, budget_exceeded) IS DISTINCT FROM ($2, $3)",
                user_id,
                cents,
                exceeded,
            )

    async def reset_period(
        self, user_id: str, *, start: datetime | None = None, before: datetime | None = None
    ) -> None:
        """Start a new period, now or at `start`: costs of all the user's databases return to zero.

        With `before`, only if the current period began then: of many callers one rolls it over.
        """
        async with self._control.transaction() as connection:
            current = await connection.fetchval(
                "SELECT current_period_start FROM user_db_budget WHERE user_id = $1 FOR UPDATE", user_id
            )
            if before is not None and current != before:
                return
            for table in ("workspace_database", "user_global_database"):
                await connection.execute(
                    f"UPDATE {table} SET current_period_cost_microcents = 0 WHERE user_id = $1", user_id
                )
            await connection.execute(
                "UPDATE user_db_budget SET current_period_start = coalesce($2, now()), total_cost_cents = 0,"
                " budget_exceeded = false, updated_at = now() WHERE user_id = $1",
                user_id,
                start,
            )
