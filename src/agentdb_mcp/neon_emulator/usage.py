"""What was used, by hour and by month: compute and activity, bytes kept over time, bytes sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import anyio
import asyncpg

from agentdb_mcp.neon_emulator.clock import Clock, by_hour, hour_of
from agentdb_mcp.neon_emulator.state import Branch, Endpoint
from agentdb_mcp.neon_emulator.stretches import Stretch

COLUMNS = (
    "compute_seconds",
    "active_seconds",
    "root_byte_hours",
    "child_byte_hours",
    "restore_byte_hours",
    "snapshot_byte_hours",
    "extra_branch_hours",
    "sent_bytes",
    "private_sent_bytes",
)
NAMES = ", ".join(COLUMNS)
SUMS = ", ".join(f"sum({name}) AS {name}" for name in COLUMNS)
ARRAYS = ", ".join(f"${number}::float8[]" for number in range(3, 3 + len(COLUMNS)))


def _added(table: str) -> str:
    """What happens to a row that is there."""
    sums = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in COLUMNS)
    return f"ON CONFLICT (project_id, hour) DO UPDATE SET {sums}, fresh = true"


# One statement, so that what is booked and how far it is booked never differ.
BOOK = f"""
WITH given AS (
    SELECT project_id, hour, {SUMS}
      FROM unnest($1::text[], $2::timestamptz[], {ARRAYS}) AS given (project_id, hour, {NAMES}) GROUP BY 1, 2
), of_hour AS (
    INSERT INTO hourly_usage (project_id, hour, {NAMES})
    SELECT project_id, hour, {NAMES} FROM given ORDER BY 1, 2 {_added("hourly_usage")}
), of_endpoint AS (
    UPDATE endpoint SET booked_until = greatest(booked_until, booked.until)
      FROM unnest($12::text[], $13::timestamptz[]) AS booked (id, until) WHERE endpoint.id = booked.id
), of_branch AS (
    UPDATE branch SET size_bytes = sized.bytes, sized_at = greatest(sized_at, $16)
      FROM unnest($14::text[], $15::int8[]) AS sized (id, bytes) WHERE branch.id = sized.id
)
INSERT INTO monthly_usage (project_id, hour, {NAMES})
SELECT project_id, date_trunc('month', hour, 'UTC'), {SUMS} FROM given GROUP BY 1, 2 ORDER BY 1, 2
{_added("monthly_usage")}
"""
PUBLISH = f"""
WITH changed AS (
    UPDATE hourly_usage SET fresh = false WHERE fresh RETURNING project_id, hour, {NAMES}
)
INSERT INTO published_usage (project_id, hour, {NAMES}) SELECT * FROM changed
ON CONFLICT (project_id, hour) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in COLUMNS)}
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """Use of a project in one hour, by column."""

    project_id: str
    hour: datetime
    used: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Totals:
    """Of one project in a month; `bytes` are what its root branch holds now."""

    compute_seconds: float = 0
    active_seconds: float = 0
    byte_hours: float = 0
    sent_bytes: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Usage:
    pool: asyncpg.Pool
    clock: Clock
    # By endpoint and hour, not yet written down.
    sent: Counter[tuple[str, datetime]] = field(default_factory=Counter)
    # Branches that nothing went to or came from since their size was measured: looking again would find the same.
    sized: set[str] = field(default_factory=set)
    published_at: datetime | None = None
    # Everything that books reads how far it is booked first.
    lock: anyio.Lock = field(default_factory=anyio.Lock)

    def count_sent(self, endpoint_id: str, count: int) -> None:
        self.sent[endpoint_id, hour_of(self.clock.now())] += count

    def of_time(self, stretches: Iterable[Stretch]) -> list[Entry]:
        """Computes that ran, at their smallest size."""
        return [
            Entry(stretch.project_id, hour, {"compute_seconds": seconds * stretch.units, "active_seconds": seconds})
            for stretch in stretches
            for hour, seconds in by_hour(stretch.start, stretch.end)
        ]

    def of_sent(self, endpoints: Iterable[Endpoint]) -> list[Entry]:
        """Bytes that went out since this was asked last; the caller writes them down."""
        projects = {endpoint.id: endpoint.project_id for endpoint in endpoints}
        waiting = [key for key in self.sent if key[0] in projects]
        return [Entry(projects[key[0]], key[1], {"sent_bytes": self.sent.pop(key)}) for key in waiting]

    def of_sizes(self, branches: Iterable[Branch], sizes: Mapping[str, int], now: datetime) -> list[Entry]:
        """A branch has held since it was last looked at what it holds now: time passes between changes."""
        entries = []
        for branch in branches:
            for hour, seconds in by_hour(branch.sized_at, now):
                hours = seconds / 3600
                held = sizes[branch.id] * hours
                root, child = {"root_byte_hours": held}, {"child_byte_hours": held, "extra_branch_hours": hours}
                entries.append(Entry(branch.project_id, hour, root if branch.parent_id is None else child))
        return entries

    async def of_snapshots(
        self, connection: asyncpg.Connection, project_ids: Sequence[str], now: datetime
    ) -> list[Entry]:
        """What snapshots held since this was asked last; the caller writes it down in the same transaction."""
        records = await connection.fetch(
            "UPDATE snapshot SET sized_at = now.at FROM snapshot AS old, LATERAL (SELECT greatest(old.sized_at,"
            " least($2, coalesce(old.expires_at, $2))) AS at) AS now"
            " WHERE old.id = snapshot.id AND old.project_id = ANY($1)"
            " RETURNING old.project_id, old.size_bytes, old.sized_at AS since, now.at AS until",
            list(project_ids),
            now,
        )
        return [
            Entry(record["project_id"], hour, {"snapshot_byte_hours": record["size_bytes"] * seconds / 3600})
            for record in records
            for hour, seconds in by_hour(record["since"], record["until"])
        ]

    async def measure(self, connection: asyncpg.Connection, branches: Sequence[Branch]) -> dict[str, int]:
        """The bytes that each branch holds; only those are looked at where something may have changed."""
        known = {branch.id: branch.size_bytes for branch in branches}
        changed = [branch.id for branch in branches if branch.id not in self.sized]
        if not changed:
            return known
        self.sized |= set(changed)  # before looking, so that what changes meanwhile is noticed
        records = await connection.fetch(
            "SELECT branch_id, coalesce(sum(pg_database_size(pg_database.oid)), 0)::int8 AS bytes"
            " FROM unnest($1::text[]) AS changed (branch_id)"
            " LEFT JOIN database USING (branch_id) LEFT JOIN pg_database ON pg_database.oid = database.oid GROUP BY 1",
            changed,
        )
        return known | {record["branch_id"]: record["bytes"] for record in records}

    async def book(
        self,
        connection: asyncpg.Connection,
        entries: Sequence[Entry],
        booked: Mapping[str, datetime] | None = None,
        sizes: Mapping[str, int] | None = None,
        sized_at: datetime | None = None,
    ) -> None:
        """Add use, and note how far endpoints are booked and how large branches are; the caller holds `lock`."""
        booked, sizes = booked or {}, sizes or {}
        if not (entries or booked or sizes):
            return
        columns = [[entry.used.get(name, 0) for entry in entries] for name in COLUMNS]
        await connection.execute(
            BOOK,
            [entry.project_id for entry in entries],
            [entry.hour for entry in entries],
            *columns,
            list(booked),
            list(booked.values()),
            list(sizes),
            list(sizes.values()),
            sized_at,
        )

    async def by_month(
        self, connection: asyncpg.Connection, project_ids: Sequence[str], since: datetime
    ) -> dict[tuple[str, datetime], Totals]:
        """From the month of `since` on, as far as it is written down."""
        records = await connection.fetch(
            "SELECT project_id, hour, compute_seconds, active_seconds, sent_bytes,"
            " root_byte_hours + child_byte_hours AS byte_hours FROM monthly_usage"
            " WHERE project_id = ANY($1) AND hour >= date_trunc('month', $2::timestamptz, 'UTC')",
            list(project_ids),
            since,
        )
        return {
            (record["project_id"], record["hour"]): Totals(
                record["compute_seconds"], record["active_seconds"], record["byte_hours"], int(record["sent_bytes"])
            )
            for record in records
        }

    async def publish(self) -> None:
        """Renew what the consumption history is read from, where something has changed."""
        async with self.lock:  # it changes rows that booking changes, in no order
            await self.pool.execute(PUBLISH)
        self.published_at = self.clock.now()
