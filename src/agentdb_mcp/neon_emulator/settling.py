"""The passing of time: idle computes fall asleep, use is written down, quotas that are broken are enforced.

However long ago that was done last, what fell due in between happens as of its own moment: a jump of the clock is no
different from time that passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import asyncpg

from agentdb_mcp.neon_emulator.clock import month_of
from agentdb_mcp.neon_emulator.computes import Computes, stretch_of
from agentdb_mcp.neon_emulator.quotas import OF_BYTES, breach, has_quota, quota_of
from agentdb_mcp.neon_emulator.state import Branch, Endpoint, Project, living_parts
from agentdb_mcp.neon_emulator.stretches import Stretch, exhausted_at
from agentdb_mcp.neon_emulator.usage import Entry, Totals


@dataclass(frozen=True, slots=True)
class _Books:
    """What is to be brought up to `now`; `held` are bytes by branch."""

    now: datetime
    projects: list[Project]
    endpoints: list[Endpoint]
    branches: list[Branch]
    held: Mapping[str, int]


async def settle(computes: Computes, project_ids: Sequence[str] | None = None, *, sizes: bool = True) -> None:
    """Bring these projects, or all, up to now; without `sizes`, storage is left to the next time."""
    usage = computes.usage
    async with usage.lock, computes.pool.acquire() as connection:
        books = await _open(computes, connection, project_ids, sizes=sizes)
        idle = await _falling_asleep(computes, books)
        ran = [
            stretch_of(endpoint, idle.get(endpoint.id, books.now))
            for endpoint in books.endpoints
            if endpoint.current_state == "active"
        ]
        sent = usage.of_sent(books.endpoints)
        broken = await _broken(computes, connection, books, ran, sent)
        ran = [stretch.until(broken.get(stretch.project_id, books.now)) for stretch in ran]
        entries = usage.of_time(ran) + sent
        booked = {stretch.endpoint_id: stretch.end for stretch in ran}
        if sizes:
            entries += usage.of_sizes(books.branches, books.held, books.now)
            async with connection.transaction():
                entries += await usage.of_snapshots(connection, [project.id for project in books.projects], books.now)
                await usage.book(connection, entries, booked, books.held, books.now)
        else:
            await usage.book(connection, entries, booked)
    for stretch in ran:
        if stretch.project_id in broken or stretch.endpoint_id in idle:
            await computes.end_at(stretch.endpoint_id, stretch.end, by_quota=stretch.project_id in broken)


async def _open(
    computes: Computes, connection: asyncpg.Connection, project_ids: Sequence[str] | None, *, sizes: bool
) -> _Books:
    now, rows = computes.clock.now(), await living_parts(connection, project_ids)
    projects = list({project.id: project for project, _, _ in rows}.values())
    branches = [branch for _, branch, _ in rows]
    endpoints = [endpoint for _, _, endpoint in rows if endpoint]
    held = {branch.id: branch.size_bytes for branch in branches}
    if sizes:
        for endpoint in endpoints:
            if computes.may_be_writing(endpoint.id):
                computes.usage.sized.discard(endpoint.branch_id)
        held = await computes.usage.measure(connection, branches)
    return _Books(now, projects, endpoints, branches, held)


async def _falling_asleep(computes: Computes, books: _Books) -> dict[str, datetime]:
    """When endpoints that nothing happened on fell asleep; a statement or transaction that is open keeps one awake."""
    if not computes.proxied:
        return {}
    active = [endpoint for endpoint in books.endpoints if endpoint.current_state == "active"]
    due = {endpoint.id: at for endpoint in active if (at := computes.idle_at(endpoint)) and at <= books.now}
    if not due:
        return due
    records = await computes.pool.fetch(
        "SELECT endpoint.id, database.oid FROM endpoint JOIN database USING (branch_id) WHERE endpoint.id = ANY($1)",
        list(due),
    )
    busy = await computes.cluster.busy_databases(record["oid"] for record in records)
    for record in records:
        if record["oid"] in busy:
            computes.touched[record["id"]] = books.now
            due.pop(record["id"], None)
    return due


async def _broken(
    computes: Computes,
    connection: asyncpg.Connection,
    books: _Books,
    ran: Sequence[Stretch],
    sent: Sequence[Entry],
) -> dict[str, datetime]:
    """When a quota of projects that ran was used up; one on bytes, when the last ones passed."""
    limited = [project for project in books.projects if has_quota(project.settings)]
    if not limited or not ran:
        return {}
    first = min(stretch.start for stretch in ran)
    months = await computes.usage.by_month(connection, [project.id for project in limited], min(first, books.now))
    pending = Counter[str]()
    for entry in sent:
        pending[entry.project_id] += int(entry.used["sent_bytes"])
    broken: dict[str, datetime] = {}
    for project in limited:
        own = [stretch for stretch in ran if stretch.project_id == project.id]
        used = {month: totals for (owner, month), totals in months.items() if owner == project.id}
        moments = []
        if (of_time := exhausted_at(own, quota_of(project.settings), used)) is not None:
            moments.append(of_time)
        held = sum(books.held[b.id] for b in books.branches if b.project_id == project.id and b.parent_id is None)
        current = used.get(month_of(books.now), Totals())
        current = replace(current, sent_bytes=current.sent_bytes + pending[project.id], bytes=held)
        if own and breach(project.settings, current, OF_BYTES):
            running = {stretch.endpoint_id for stretch in own}
            moments.append(max(computes.last_active(found) for found in books.endpoints if found.id in running))
        if moments:
            broken[project.id] = min(moments)
    return broken
