"""What was used, by hour: compute and activity, bytes kept over time, bytes sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import anyio
import asyncpg

from agentdb_mcp.neon_emulator.clock import Clock, by_hour, hour_of
from agentdb_mcp.neon_emulator.cluster import Cluster
from agentdb_mcp.neon_emulator.state import Branch, Database, Endpoint, select

ADD = """
INSERT INTO usage (project_id, branch_id, root, hour, compute_seconds, active_seconds, byte_hours, extra_branch_hours,
                   sent_bytes)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (project_id, hour, branch_id) DO UPDATE SET
    compute_seconds = usage.compute_seconds + excluded.compute_seconds,
    active_seconds = usage.active_seconds + excluded.active_seconds,
    byte_hours = usage.byte_hours + excluded.byte_hours,
    extra_branch_hours = usage.extra_branch_hours + excluded.extra_branch_hours,
    sent_bytes = usage.sent_bytes + excluded.sent_bytes
"""
TOTALS = """
SELECT coalesce(sum(compute_seconds), 0) AS compute, coalesce(sum(active_seconds), 0) AS active,
       coalesce(sum(byte_hours), 0) AS byte_hours, coalesce(sum(sent_bytes), 0) AS sent
  FROM usage WHERE project_id = $1 AND hour >= $2
"""


@dataclass(frozen=True, slots=True)
class Totals:
    """Of one project since a moment; `bytes` are what its root branch holds now."""

    compute_seconds: float
    active_seconds: float
    byte_hours: float
    sent_bytes: int
    bytes: int


@dataclass(slots=True)
class Usage:
    pool: asyncpg.Pool
    cluster: Cluster
    clock: Clock
    # By endpoint, not yet written down.
    sent: Counter[str] = field(default_factory=Counter)
    published_at: datetime | None = None
    # Everything that books reads how far it is booked first.
    lock: anyio.Lock = field(default_factory=anyio.Lock)

    async def book_compute(self, endpoints: Sequence[Endpoint], until: datetime) -> None:
        """Active computes, at their smallest size, and what they sent; the caller holds `lock`."""
        rows: list[tuple[object, ...]] = []
        roots = await self._roots([endpoint.branch_id for endpoint in endpoints])
        for endpoint in endpoints:
            place = endpoint.project_id, endpoint.branch_id, roots.get(endpoint.branch_id, True)
            units = endpoint.settings["autoscaling_limit_min_cu"]
            if endpoint.current_state == "active":
                stretch = by_hour(endpoint.booked_until, until)
                rows += [(*place, hour, seconds * units, seconds, 0, 0, 0) for hour, seconds in stretch]
            if sent := self.sent.pop(endpoint.id, 0):
                rows.append((*place, hour_of(until), 0, 0, 0, 0, sent))
        if not rows:
            return
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.executemany(ADD, rows)
            await connection.execute(
                "UPDATE endpoint SET booked_until = greatest(booked_until, $2) WHERE id = ANY($1)",
                [endpoint.id for endpoint in endpoints],
                until,
            )

    async def _roots(self, branch_ids: Iterable[str]) -> dict[str, bool]:
        records = await self.pool.fetch(
            "SELECT id, parent_id IS NULL AS root FROM branch WHERE id = ANY($1)", list(branch_ids)
        )
        return {record["id"]: record["root"] for record in records}

    async def book_sizes(self, branches: Sequence[Branch]) -> None:
        """What each branch held since it was last looked at, and what it holds now; the caller holds `lock`."""
        if not branches:
            return
        now = self.clock.now()
        databases = await select(self.pool, Database, "WHERE branch_id = ANY($1)", [branch.id for branch in branches])
        sizes = await self.cluster.sizes(database.oid for database in databases)
        rows: list[tuple[object, ...]] = []
        for branch in branches:
            root = branch.parent_id is None
            for hour, seconds in by_hour(branch.sized_at, now):
                hours = seconds / 3600
                extra = 0 if root else hours
                rows.append((branch.project_id, branch.id, root, hour, 0, 0, branch.size_bytes * hours, extra, 0))
        held = Counter[str]()
        for database in databases:
            held[database.branch_id] += sizes.get(database.oid, 0)
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.executemany(ADD, rows)
            await connection.executemany(
                "UPDATE branch SET size_bytes = $2, sized_at = greatest(sized_at, $3) WHERE id = $1",
                [(branch.id, held[branch.id], now) for branch in branches],
            )

    async def totals(self, project_id: str, since: datetime) -> Totals:
        record = await self.pool.fetchrow(TOTALS, project_id, since)
        held = await self.pool.fetchval(
            "SELECT coalesce(sum(size_bytes), 0) FROM branch WHERE project_id = $1 AND parent_id IS NULL", project_id
        )
        return Totals(record["compute"], record["active"], record["byte_hours"], int(record["sent"]), int(held))

    async def publish(self) -> None:
        """Renew the copy that the consumption history is read from."""
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute("DELETE FROM published_usage")
            await connection.execute("INSERT INTO published_usage SELECT * FROM usage")
        self.published_at = self.clock.now()
