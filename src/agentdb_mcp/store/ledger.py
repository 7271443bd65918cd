"""`db_usage_ledger`: what each database used, hour by hour; the servers' estimates until the provider's figures come.

Everything here may be stored twice without counting twice: awake time is a union of spans, bytes sent are a server's
running total of the hour, and a provider's figure replaces the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime

import asyncpg

from agentdb_mcp.models import DatabaseStatus, Ownership, Quantities, Scope
from agentdb_mcp.store.control import ControlDatabase
from agentdb_mcp.store.databases import DATABASE_TABLES, lock_databases
from agentdb_mcp.store.ledger_sql import SETTLE, SETTLED, STORE, USAGE

PROVIDER = "provider"
Span = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class MeteredHour:
    """What one server metered of one database in one hour, all of it so far."""

    database_id: str
    hour: datetime
    spans: tuple[Span, ...] = ()
    sent_bytes: int = 0
    size_bytes: int | None = None
    size_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SettledHour:
    """What the provider billed for one database's hour."""

    database_id: str
    hour: datetime
    quantities: Quantities


@dataclass(frozen=True, slots=True)
class DatabaseUsage:
    """One database's share of a window of time, in which `user_id` paid for it.

    `owner_id` is the workspace or user, None when it is gone; `present` whether that user still pays for it;
    `paused` whether the provider was told to pause it, None where that may have been; `size_bytes` the size seen last,
    at `size_at`; `awake_until` when its compute falls asleep, as far as it was metered.
    """

    window: int
    user_id: str
    scope: Scope
    database_id: str
    owner_id: str | None
    project_name: str
    status: DatabaseStatus
    ownership: Ownership
    quantities: Quantities
    size_bytes: int
    present: bool
    paused: bool | None
    awake_until: datetime | None = None
    size_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Drift:
    """By how much estimates missed what was settled, in milli-CU × microseconds."""

    estimated_mcu_us: int
    billed_mcu_us: int


class LedgerStore:
    def __init__(self, control: ControlDatabase) -> None:
        self._control = control

    async def store(self, server: str, hours: Sequence[MeteredHour]) -> None:
        """Unite what a server metered with what is known. Databases without a row are left out."""
        if not hours:
            return
        async with self._control.transaction() as connection:
            await connection.execute(
                STORE,
                server,
                [each.database_id for each in hours],
                [each.hour for each in hours],
                [_multirange(each.spans) for each in hours],
                [each.sent_bytes for each in hours],
                [each.size_bytes for each in hours],
                [each.size_at for each in hours],
            )

    async def settle(self, hours: Sequence[SettledHour], synced: dict[str, datetime], compute_mcu: int) -> Drift:
        """Put the provider's figures in the place of estimates; `synced` is how far each database is now."""
        async with self._control.transaction() as connection:
            row = await connection.fetchrow(
                SETTLE,
                [each.database_id for each in hours],
                [each.hour for each in hours],
                [each.quantities.compute_mcu_us for each in hours],
                [each.quantities.storage_byte_us for each in hours],
                [each.quantities.history_byte_us for each in hours],
                [each.quantities.egress_bytes for each in hours],
                [each.quantities.branch_us for each in hours],
                compute_mcu,
            )
            for table in DATABASE_TABLES:
                await lock_databases(connection, table, synced)
                await connection.execute(
                    f"UPDATE {table} AS d SET last_consumption_sync = s.until"
                    " FROM unnest($1::text[], $2::timestamptz[]) AS s (id, until)"
                    " WHERE d.id = s.id AND (d.last_consumption_sync IS NULL OR d.last_consumption_sync < s.until)",
                    list(synced),
                    list(synced.values()),
                )
        return Drift(int(row["estimated"]), int(row["billed"]))

    async def settled(self, stretches: Sequence[tuple[str, datetime, datetime]]) -> dict[str, Quantities]:
        """What the provider's rows say of each database from one moment to another."""
        if not stretches:
            return {}
        async with self._control.connection() as connection:
            rows = await connection.fetch(
                SETTLED,
                [database_id for database_id, _, _ in stretches],
                [start for _, start, _ in stretches],
                [until for _, _, until in stretches],
            )
        return {row["id"]: _quantities(row) for row in rows}

    async def prune(self, now: datetime) -> None:
        """Delete estimates that were replaced two months ago, and everything after fourteen."""
        async with self._control.transaction() as connection:
            await connection.execute(
                "DELETE FROM db_usage_ledger WHERE hour < $1::timestamptz - interval '14 months'", now
            )
            await connection.execute(
                "DELETE FROM db_usage_ledger AS l WHERE source <> 'provider' AND size_at IS NULL"
                " AND hour < $1::timestamptz - interval '2 months' AND EXISTS (SELECT FROM db_usage_ledger AS b"
                " WHERE b.database_id = l.database_id AND b.hour = l.hour AND b.source = 'provider')",
                now,
            )

    async def usage(
        self, windows: Sequence[tuple[str, datetime, datetime | None]], now: datetime, compute_mcu: int
    ) -> list[DatabaseUsage]:
        """What users' databases used in windows of time (user, from, until or open), as it is known at `now`.

        Hours that the provider billed count as billed, the rest as metered, at `compute_mcu` while awake. An hour that
        begins before the window counts as metered: the provider's figure for it is of both windows.
        """
        async with self._control.connection() as connection:
            rows = await connection.fetch(
                USAGE,
                [user for user, _, _ in windows],
                [start for _, start, _ in windows],
                [until for _, _, until in windows],
                now,
                compute_mcu,
            )
        return [
            DatabaseUsage(
                window=row["window"] - 1,
                user_id=row["user_id"],
                scope=Scope(row["scope"]),
                database_id=row["id"],
                owner_id=row["owner_id"],
                project_name=row["project_name"],
                status=DatabaseStatus(row["status"]),
                ownership=Ownership(row["ownership_type"]),
                quantities=_quantities(row),
                size_bytes=row["size_bytes"],
                present=row["present"],
                paused=row["paused"],
                awake_until=row["awake_until"],
                size_at=row["size_at"],
            )
            for row in rows
        ]


def _quantities(row: asyncpg.Record) -> Quantities:
    return Quantities(*(int(row[field.name]) for field in fields(Quantities)))


def _multirange(spans: Sequence[Span]) -> str:
    return "{" + ",".join(f"[{start.isoformat()},{end.isoformat()})" for start, end in spans) + "}"
