"""`agentdb_job`: when each background job is due, and which worker has it.

Every time is the control database's own, so workers whose clocks differ agree. As for databases, the fence rises with
each claim, and a write that carries an old one changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from agentdb_mcp.store.control import ControlDatabase


@dataclass(frozen=True, slots=True)
class JobClaim:
    """The right to run a job that is due until the lease ends or another worker claims it."""

    name: str
    fence: int


@dataclass(frozen=True, slots=True)
class JobRow:
    """What became of a job. `overdue_s` is 0 before it is due and while a worker has it."""

    name: str
    period_s: float
    last_run_at: datetime | None
    last_error: str | None
    overdue_s: float


class JobStore:
    """Reads and fenced writes of the table. All raise DatabaseUnavailable."""

    def __init__(self, control: ControlDatabase) -> None:
        self._control = control

    async def declare(self, name: str, period_s: float) -> None:
        """The job should run every `period_s` seconds: for the first time now."""
        async with self._control.connection() as connection:
            await connection.execute(
                "INSERT INTO agentdb_job AS job (name, period_s) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET"
                " period_s = $2, next_run_at = least(job.next_run_at, now() + make_interval(secs => $2))"
                " WHERE job.period_s <> $2",
                name,
                period_s,
            )

    async def claim(self, name: str, lease_s: float) -> JobClaim | None:
        """Take the job if it is due and no worker has it."""
        async with self._control.connection() as connection:
            fence = await connection.fetchval(
                "UPDATE agentdb_job SET fence = fence + 1, lease_expires_at = now() + make_interval(secs => $2)"
                " WHERE name = $1 AND next_run_at <= now() AND (lease_expires_at IS NULL OR lease_expires_at <= now())"
                " RETURNING fence",
                name,
                lease_s,
            )
        return None if fence is None else JobClaim(name, fence)

    async def due_in(self, name: str) -> float | None:
        """Seconds until the job can be claimed, unless its worker renews the lease; None if it is not declared."""
        async with self._control.connection() as connection:
            seconds: float | None = await connection.fetchval(
                "SELECT extract(epoch FROM greatest(next_run_at, lease_expires_at) - now())::float8"
                " FROM agentdb_job WHERE name = $1",
                name,
            )
        return seconds

    async def renew(self, claim: JobClaim, lease_s: float) -> bool:
        """Whether the job is still ours, for another `lease_s`."""
        return await self._fenced(claim, "lease_expires_at = now() + make_interval(secs => $3)", lease_s)

    async def finish(self, claim: JobClaim, error_code: str | None) -> bool:
        """The run is over. Due times that passed meanwhile are skipped; the next is a whole number of periods on."""
        return await self._fenced(
            claim,
            "lease_expires_at = NULL, last_run_at = now(), last_error = $3, next_run_at = next_run_at + make_interval("
            "secs => period_s * (floor(extract(epoch FROM now() - next_run_at)::float8 / period_s) + 1))",
            error_code,
        )

    async def release(self, claim: JobClaim) -> bool:
        """The run was interrupted: the job stays due."""
        return await self._fenced(claim, "lease_expires_at = NULL")

    async def all(self) -> list[JobRow]:
        """Every job that a worker ever declared, by name."""
        async with self._control.connection() as connection:
            rows = await connection.fetch(
                "SELECT name, period_s, last_run_at, last_error, CASE WHEN lease_expires_at > now() THEN 0 ELSE"
                " greatest(extract(epoch FROM now() - next_run_at)::float8, 0) END AS overdue_s"
                " FROM agentdb_job ORDER BY name"
            )
        return [JobRow(*row) for row in rows]

    async def _fenced(self, claim: JobClaim, assignments: str, *values: object) -> bool:
        async with self._control.connection() as connection:
            changed = await connection.fetchval(
                f"UPDATE agentdb_job SET {assignments} WHERE name = $1 AND fence = $2 RETURNING true",
                claim.name,
                claim.fence,
                *values,
            )
        return changed is not None
