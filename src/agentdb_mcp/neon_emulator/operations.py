"""Operations take time: scheduling → running → finished by the clock, and only one set of them a project at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import anyio
import asyncpg

from agentdb_mcp.neon_emulator.clock import Clock
from agentdb_mcp.neon_emulator.errors import ApiError
from agentdb_mcp.neon_emulator.state import Operation, Project, insert, select

CONFLICT = "project already has running conflicting operations, scheduling of new ones is prohibited"
SCHEDULING_PART = 0.25


def status_at(operation: Operation, now: datetime) -> str:
    if now < operation.starts_at:
        return "scheduling"
    return operation.outcome if operation.ends_at is not None and now >= operation.ends_at else "running"


def updated_at(operation: Operation, now: datetime) -> datetime:
    """The last change of its status."""
    passed = [moment for moment in (operation.starts_at, operation.ends_at) if moment is not None and moment <= now]
    return max([operation.created_at, *passed])


@dataclass(slots=True)
class Begun:
    """Operations whose work goes on; filled with how they stand when the block of `doing` ends."""

    identifiers: list[UUID]
    operations: list[Operation]


@dataclass(frozen=True, slots=True)
class Operations:
    pool: asyncpg.Pool
    clock: Clock
    seconds: float

    async def lock_project(self, connection: asyncpg.Connection, project_id: str) -> Project | None:
        """The living project, kept from others for the transaction; 423 while operations of it run."""
        rows = await select(connection, Project, "WHERE id = $1 AND state = 'ready' FOR UPDATE", project_id)
        if rows and await connection.fetchval(
            "SELECT EXISTS (SELECT FROM operation WHERE project_id = $1 AND (ends_at IS NULL OR ends_at > $2))",
            project_id,
            self.clock.now(),
        ):
            raise ApiError(423, CONFLICT)
        return rows[0] if rows else None

    async def begin(
        self,
        connection: asyncpg.Connection,
        project_id: str,
        branch_id: str,
        endpoint_id: str | None,
        actions: Sequence[str],
    ) -> list[UUID]:
        now = self.clock.now()
        common = {"project_id": project_id, "branch_id": branch_id, "endpoint_id": endpoint_id}
        made = [
            await insert(connection, Operation, action=action, created_at=now, starts_at=now, **common)
            for action in actions
        ]
        return [operation.id for operation in made]

    @asynccontextmanager
    async def doing(self, identifiers: Sequence[UUID], last_seconds: float | None = None) -> AsyncIterator[Begun]:
        """The work itself: on its end the operations run out one after another, or have failed."""
        begun = Begun(list(identifiers), [])
        try:
            yield begun
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._settle(self.pool, begun.identifiers, "failed", 0)
            raise
        begun.operations = await self._settle(
            self.pool, begun.identifiers, "finished", self.seconds if last_seconds is None else last_seconds
        )

    async def _settle(
        self, connection: asyncpg.Connection, identifiers: Sequence[UUID], outcome: str, last_seconds: float
    ) -> list[Operation]:
        """All but the last are over now; the last one has still to run, so that callers learn to wait."""
        now = self.clock.now()
        last = timedelta(seconds=last_seconds)
        for number, identifier in enumerate(identifiers, 1):
            final = number == len(identifiers)
            await connection.execute(
                "UPDATE operation SET outcome = $2, starts_at = $3, ends_at = $4 WHERE id = $1",
                identifier,
                outcome,
                now + last * SCHEDULING_PART if final else now,
                now + last if final else now,
            )
        return await select(connection, Operation, "WHERE id = ANY($1) ORDER BY seq", list(identifiers))

    async def close_open(self) -> None:
        """Those that a run left unfinished when it was killed."""
        await self.pool.execute(
            "UPDATE operation SET ends_at = $1, outcome = 'failed' WHERE ends_at IS NULL", self.clock.now()
        )
