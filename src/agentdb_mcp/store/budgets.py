"""`user_db_budget`: tier, custom limit and period of a user. Changes are told to every server that listens."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import anyio
import asyncpg

from agentdb_mcp.store.control import POOL_SIZE, ControlDatabase
from agentdb_mcp.store.databases import DATABASE_TABLES, lock_databases
from agentdb_mcp.store.identity import no_such_user

CHANNEL = "agentdb_budget"
# What a server stored of a user's use, which the others are to count: its name and the user.
USE_CHANNEL = "agentdb_use"


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """`anchor` is what periods are counted from; `stored_as` is the period, cents and exceeded as last recorded."""

    user_id: str
    tier: str
    custom_budget_cents: int | None
    anchor: datetime
    stored_as: tuple[datetime, int, bool]


@dataclass(frozen=True, slots=True)
class PeriodFigures:
    """What a user's period came to; costs are micro-cents by database id."""

    user_id: str
    start: datetime
    cents: int
    exceeded: bool
    costs: dict[str, int]


class BudgetStore:
    def __init__(self, control: ControlDatabase) -> None:
        self._control = control
        # Whoever has a turn keeps a connection and needs others for the work.
        self._turns = anyio.CapacityLimiter(POOL_SIZE // 2)
        self._server = uuid.uuid4().hex

    async def ensure(self, user_id: str, tier: str = "free", *, anchor: datetime | None = None) -> BudgetRow:
        """The user's budget row, made on first sight with a period that begins at `anchor` or now."""
        async with self._control.connection() as connection:
            try:
                await connection.execute(
                    "INSERT INTO user_db_budget (user_id, tier, placed_tier, period_anchor, current_period_start)"
                    " VALUES ($1, $2, $2, coalesce($3, now()), coalesce($3, now())) ON CONFLICT (user_id) DO NOTHING",
                    user_id,
                    tier,
                    anchor,
                )
            except asyncpg.ForeignKeyViolationError:
                raise no_such_user(user_id) from None
            return _row(await connection.fetchrow("SELECT * FROM user_db_budget WHERE user_id = $1", user_id))

    async def read(self, user_ids: Collection[str]) -> list[BudgetRow]:
        """Those of the users that have a row."""
        if not user_ids:
            return []
        async with self._control.connection() as connection:
            rows = await connection.fetch(
                "SELECT * FROM user_db_budget WHERE user_id = ANY ($1) ORDER BY user_id", list(user_ids)
            )
        return [_row(row) for row in rows]

    async def due(self, now: datetime) -> list[str]:
        """Users whose period may be over, whose projects may have to be paused or resumed, or who used more since
        their figures were recorded.
        """
        async with self._control.connection() as connection:
            rows = await connection.fetch(
                "SELECT user_id FROM user_db_budget AS b WHERE budget_exceeded"
                " OR current_period_start <= $1::timestamptz - interval '28 days'"
                " OR EXISTS (SELECT FROM workspace_database AS d"
                " WHERE d.user_id = b.user_id AND d.paused IS NOT FALSE)"
                " OR EXISTS (SELECT FROM user_global_database AS d"
                " WHERE d.user_id = b.user_id AND d.paused IS NOT FALSE)"
                " OR EXISTS (SELECT FROM db_usage_ledger AS l WHERE l.user_id = b.user_id"
                " AND l.hour > $1::timestamptz - interval '6 hours' "
                " AND l.updated_at >= coalesce(b.last_sync, '-infinity'))"
                " ORDER BY user_id",
                now,
            )
        return [row["user_id"] for row in rows]

    async def set_tier(self, user_id: str, tier: str, custom_budget_cents: int | None) -> None:
        async with self._control.transaction() as connection:
            await connection.execute(
                "UPDATE user_db_budget SET tier = $2, custom_budget_cents = $3, updated_at = now() WHERE user_id = $1",
                user_id,
                tier,
                custom_budget_cents,
            )
            await _tell(connection, user_id)

    async def misplaced(self, user_id: str | None = None) -> list[str]:
        """Users (or this one) whose projects are not set up for their tier yet."""
        async with self._control.connection() as connection:
            rows = await connection.fetch(
                "SELECT user_id FROM user_db_budget WHERE placed_tier IS DISTINCT FROM tier"
                " AND user_id = coalesce($1, user_id) ORDER BY user_id",
                user_id,
            )
        return [row["user_id"] for row in rows]

    async def record_placed(self, user_id: str, tier: str) -> None:
        async with self._control.connection() as connection:
            await connection.execute(
                "UPDATE user_db_budget SET placed_tier = $2, updated_at = now() WHERE user_id = $1", user_id, tier
            )

    async def reset_period(self, user_id: str, start: datetime) -> None:
        """Count periods from `start` on; what was used before it is of the past."""
        async with self._control.transaction() as connection:
            await connection.execute(
                "UPDATE user_db_budget SET period_anchor = $2, updated_at = now() WHERE user_id = $1", user_id, start
            )
            await _tell(connection, user_id)

    async def record(self, periods: Sequence[PeriodFigures]) -> None:
        """The periods' figures, for whoever reads the tables."""
        if not periods:
            return
        users = [each.user_id for each in periods]
        costs = [(each.user_id, *cost) for each in periods for cost in each.costs.items()]
        databases = [database_id for _, database_id, _ in costs]
        async with self._control.transaction() as connection:
            for table in DATABASE_TABLES:
                await lock_databases(connection, table, databases)
                await connection.execute(
                    f"UPDATE {table} AS d SET current_period_cost_microcents = c.cost"
                    " FROM unnest($1::text[], $2::text[], $3::bigint[]) AS c (user_id, id, cost)"
                    " WHERE d.id = c.id AND d.user_id = c.user_id AND d.current_period_cost_microcents <> c.cost",
                    [user_id for user_id, _, _ in costs],
                    databases,
                    [cost for _, _, cost in costs],
                )
            await connection.execute(
                "SELECT FROM user_db_budget WHERE user_id = ANY ($1) ORDER BY user_id FOR UPDATE", users
            )
            await connection.execute(
                "UPDATE user_db_budget AS b SET current_period_start = f.start, total_cost_cents = f.cents,"
                " budget_exceeded = f.exceeded, last_sync = now(), updated_at = now() FROM"
                " unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::bool[]) AS f (id, start, cents, exceeded)"
                " WHERE b.user_id = f.id",
                users,
                [each.start for each in periods],
                [each.cents for each in periods],
                [each.exceeded for each in periods],
            )

    @asynccontextmanager
    async def turn(self, user_id: str) -> AsyncIterator[None]:
        """One holder at a time and user, in all processes."""
        async with self._turns, self._control.transaction() as connection:
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended('agentdb budget ' || $1, 0))", user_id
            )
            yield

    async def tell_used(self, user_ids: Collection[str]) -> None:
        """Let the other servers read these users' periods again."""
        async with self._control.connection() as connection:
            await connection.execute(
                "SELECT pg_notify($1, $2 || ' ' || id) FROM unnest($3::text[]) AS id",
                USE_CHANNEL,
                self._server,
                [user_id for user_id in user_ids if _fits(user_id)],
            )

    async def changes(self) -> AsyncGenerator[str | None]:
        """Users whose tier, limit or period changed, or whom another server told of, as it happens.

        None when some may have been missed.
        """
        async with aclosing(self._control.listen(CHANNEL, USE_CHANNEL)) as notices:
            async for notice in notices:
                if notice is None:
                    yield None
                elif notice.channel == CHANNEL:
                    yield notice.payload
                elif not notice.payload.startswith(self._server):
                    yield notice.payload.partition(" ")[2]


async def _tell(connection: asyncpg.Connection, user_id: str) -> None:
    """When the transaction commits. A longer payload than Postgres takes means everybody."""
    await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, user_id if _fits(user_id) else "")


def _fits(user_id: str) -> bool:
    return len(user_id.encode()) < 7000


def _row(row: asyncpg.Record) -> BudgetRow:
    return BudgetRow(
        row["user_id"],
        row["tier"],
        row["custom_budget_cents"],
        row["period_anchor"],
        (row["current_period_start"], row["total_cost_cents"], row["budget_exceeded"]),
    )
