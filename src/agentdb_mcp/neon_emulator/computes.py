"""Computes that sleep and wake: what the proxy, the API and the passing of time do to endpoints."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

import anyio
import asyncpg

from agentdb_mcp.neon_emulator.behaviour import Behaviour
from agentdb_mcp.neon_emulator.clock import Clock, month_of
from agentdb_mcp.neon_emulator.cluster import Cluster
from agentdb_mcp.neon_emulator.errors import ApiError, not_found
from agentdb_mcp.neon_emulator.operations import Operations
from agentdb_mcp.neon_emulator.quotas import breach, has_quota
from agentdb_mcp.neon_emulator.state import Database, Endpoint, Operation, find_project, select
from agentdb_mcp.neon_emulator.stretches import Stretch
from agentdb_mcp.neon_emulator.usage import Totals, Usage

ENDING_S, ENDING_STEP_S = 2.0, 0.02
NEVER = -1

logger = logging.getLogger(__name__)


class Session(Protocol):
    """A connection that came through the proxy."""

    # Whether its client has sent something that Postgres has not answered.
    asking: bool

    def abort(self) -> None: ...


class Refused(Exception):
    """A connection that is not let in: what its client is told, as Postgres would."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message


UNKNOWN_ENDPOINT = (
    "The requested endpoint could not be found, or you don't have access to it. "
    "Please check the provided ID and try again."
)


@dataclass(slots=True)
class Computes:
    pool: asyncpg.Pool
    cluster: Cluster
    clock: Clock
    behaviour: Behaviour
    operations: Operations
    usage: Usage
    # Without the proxy nothing could wake what sleeps, so nothing falls asleep by itself.
    proxied: bool
    sessions: defaultdict[str, set[Session]] = field(default_factory=lambda: defaultdict(set))
    touched: dict[str, datetime] = field(default_factory=dict)
    _locks: defaultdict[str, anyio.Lock] = field(default_factory=lambda: defaultdict(anyio.Lock))

    # --- waking -----------------------------------------------------------------------------------------------------

    async def admit(self, endpoint_id: str) -> Endpoint:
        """Wake the compute for a connection and wait until it is up. Raises Refused."""
        async with self._locks[endpoint_id]:
            rows = await select(self.pool, Endpoint, "WHERE id = $1", endpoint_id)
            project = await find_project(self.pool, rows[0].project_id) if rows else None
            if project is None:
                raise Refused("XX000", UNKNOWN_ENDPOINT)
            if has_quota(project.settings) and (message := breach(project.settings, await self.used(project.id))):
                raise Refused("XX000", message)
            ready_at = rows[0].ready_at
            if rows[0].current_state == "idle":
                await self._start(rows[0])
                ready_at = (await select(self.pool, Endpoint, "WHERE id = $1", endpoint_id))[0].ready_at
            self.touch(rows[0])
        # In small steps, since the clock may be moved forward meanwhile.
        while (missing := (ready_at - self.clock.now()).total_seconds()) > 0:  # noqa: ASYNC110
            await anyio.sleep(min(missing, 0.05))
        return rows[0]

    def touch(self, endpoint: Endpoint) -> None:
        """Note that bytes went through."""
        self.touched[endpoint.id] = self.clock.now()
        self.usage.sized.discard(endpoint.branch_id)

    async def _start(self, endpoint: Endpoint) -> list[Operation]:
        """From idle to active; the caller holds the endpoint's lock."""
        seconds = self.behaviour.cold_start_seconds
        identifiers = await self.operations.begin(
            self.pool, endpoint.project_id, endpoint.branch_id, endpoint.id, ["start_compute"]
        )
        async with self.operations.doing(identifiers, seconds) as begun:
            now = self.clock.now()
            await self.pool.execute(
                "UPDATE endpoint SET current_state = 'active', ready_at = $2, booked_until = $3, last_active = $3,"
                " updated_at = $3 WHERE id = $1",
                endpoint.id,
                now + timedelta(seconds=seconds),
                now,
            )
            self.touched.pop(endpoint.id, None)
        return begun.operations

    # --- what the API asks for --------------------------------------------------------------------------------------

    async def start(self, project_id: str, endpoint_id: str) -> list[Operation]:
        async with self._locks[endpoint_id]:
            endpoint = await self._asked_for(project_id, endpoint_id)
            await self.refuse_exhausted(project_id)
            return await self._start(endpoint) if endpoint.current_state == "idle" else []

    async def suspend(self, project_id: str, endpoint_id: str) -> list[Operation]:
        async with self._locks[endpoint_id]:
            endpoint = await self._asked_for(project_id, endpoint_id)
            return await self._suspend(endpoint) if endpoint.current_state == "active" else []

    async def restart(self, project_id: str, endpoint_id: str) -> list[Operation]:
        async with self._locks[endpoint_id]:
            endpoint = await self._asked_for(project_id, endpoint_id)
            await self.refuse_exhausted(project_id)
            stopped = await self._suspend(endpoint, 0) if endpoint.current_state == "active" else []
            return stopped + await self._start(endpoint)

    async def _asked_for(self, project_id: str, endpoint_id: str) -> Endpoint:
        async with self.pool.acquire() as connection, connection.transaction():
            if await self.operations.lock_project(connection, project_id) is None:
                raise not_found("project")
            rows = await select(connection, Endpoint, "WHERE id = $1 AND project_id = $2", endpoint_id, project_id)
        if not rows:
            raise not_found("endpoint")
        return rows[0]

    async def refuse_exhausted(self, project_id: str) -> None:
        """Neither the API wakes what a quota has suspended."""
        project = await find_project(self.pool, project_id)
        if project is None or not has_quota(project.settings):
            return
        if message := breach(project.settings, await self.used(project_id)):
            raise ApiError(403, message)

    # --- suspending -------------------------------------------------------------------------------------------------

    async def _suspend(
        self, endpoint: Endpoint, seconds: float | None = None, at: datetime | None = None
    ) -> list[Operation]:
        """From active to idle, with every session ended; the caller holds the endpoint's lock."""
        identifiers = await self.operations.begin(
            self.pool, endpoint.project_id, endpoint.branch_id, endpoint.id, ["suspend_compute"]
        )
        async with self.operations.doing(identifiers, seconds) as begun:
            async with self.usage.lock, self.pool.acquire() as connection:
                fresh = await select(connection, Endpoint, "WHERE id = $1", endpoint.id)
                moment = at or self.clock.now()
                entries = self.usage.of_time([stretch_of(found, moment) for found in fresh])
                await self.usage.book(connection, entries + self.usage.of_sent(fresh), {endpoint.id: moment})
                await connection.execute(
                    "UPDATE endpoint SET current_state = 'idle', last_active = $2, updated_at = $2 WHERE id = $1",
                    endpoint.id,
                    moment,
                )
            await self.end_sessions(endpoint.id, endpoint.branch_id)
        return begun.operations

    async def end_sessions(self, endpoint_id: str, branch_id: str) -> None:
        """As at Neon, by 57P01; what came through the proxy and is still there after that is cut off."""
        known = await select(self.pool, Database, "WHERE branch_id = $1", branch_id)
        oids = [database.oid for database in known]
        root = await self.pool.fetchval("SELECT parent_id IS NULL FROM branch WHERE id = $1", branch_id)
        if root:  # what admins make by SQL belongs to the root branch
            roles = await self.pool.fetch("SELECT oid FROM role WHERE branch_id = $1", branch_id)
            made = await self.cluster.owned_databases([record["oid"] for record in roles], oids)
            others = await self.pool.fetch("SELECT oid FROM database WHERE branch_id <> $1", branch_id)
            oids = [oid for oid in made if oid not in {record["oid"] for record in others}]
        with anyio.move_on_after(ENDING_S):
            await self.cluster.disconnect([], oids)
            while self.sessions.get(endpoint_id):
                await anyio.sleep(ENDING_STEP_S)
                await self.cluster.disconnect([], oids)
        for session in list(self.sessions.get(endpoint_id, ())):
            session.abort()

    async def end_at(self, endpoint_id: str, moment: datetime, *, by_quota: bool) -> None:
        """Let what fell due at `moment` happen, unless a client has come in between."""
        async with self._locks[endpoint_id]:
            rows = await select(self.pool, Endpoint, "WHERE id = $1 AND current_state = 'active'", endpoint_id)
            if not rows:
                return
            idle_at = self.idle_at(rows[0])
            if by_quota or (idle_at is not None and idle_at <= self.clock.now()):
                await self._suspend(rows[0], at=max(moment, rows[0].booked_until))

    # --- what is known ----------------------------------------------------------------------------------------------

    def last_active(self, endpoint: Endpoint) -> datetime:
        return max(endpoint.last_active, self.touched.get(endpoint.id, endpoint.last_active))

    def idle_at(self, endpoint: Endpoint) -> datetime | None:
        """When the compute falls asleep if nothing happens any more."""
        timeout = endpoint.settings["suspend_timeout_seconds"]
        if timeout == NEVER:
            return None
        return self.last_active(endpoint) + timedelta(seconds=timeout or self.behaviour.default_suspend_seconds)

    def may_be_writing(self, endpoint_id: str) -> bool:
        """Past the proxy nobody would see it."""
        return not self.proxied or any(session.asking for session in self.sessions.get(endpoint_id, ()))

    async def used(self, project_id: str) -> Totals:
        """Since the consumption period began, as far as it is written down."""
        month = month_of(self.clock.now())
        used = await self.usage.by_month(self.pool, [project_id], month)
        held = await self.pool.fetchval(
            "SELECT coalesce(sum(size_bytes), 0) FROM branch WHERE project_id = $1 AND parent_id IS NULL", project_id
        )
        return replace(used.get((project_id, month), Totals()), bytes=int(held))

    def state_of(self, endpoint: Endpoint) -> str:
        starting = endpoint.current_state == "active" and self.clock.now() < endpoint.ready_at
        return "init" if starting else endpoint.current_state


def stretch_of(endpoint: Endpoint, until: datetime) -> Stretch:
    """What has not been booked yet of a compute that runs."""
    units, start = endpoint.settings["autoscaling_limit_min_cu"], endpoint.booked_until
    return Stretch(endpoint.project_id, endpoint.id, units, start, max(start, until))
