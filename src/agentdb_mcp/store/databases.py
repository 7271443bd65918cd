"""`user_global_database` and `workspace_database`: one row a database, with a lease whose fence every change checks.

A row is claimed before anything is made at the provider. The fence number rises with each claim, and a write that
carries an old one changes nothing: a process that was stopped past its lease cannot repoint a row.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import asyncpg

from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.models import AccessMode, DatabaseStatus, Ownership, Scope
from agentdb_mcp.store.control import ControlDatabase
from agentdb_mcp.store.database_rows import BilledDatabase, Claim, DatabaseRow, Inventory
from agentdb_mcp.store.identity import ARCHIVED_AT

_TABLES = {Scope.AGENT: ("workspace_database", "workspace_id"), Scope.GLOBAL: ("user_global_database", "user_id")}

# In the order in which the deletion of a user reaches them, its budget last: what locks rows of many does so too.
DATABASE_TABLES = ("workspace_database", "user_global_database")

_OWNERS = {Scope.AGENT: "workspace", Scope.GLOBAL: '"user"'}

_COLUMNS = (
    "id, project_name, status, ownership_type, access_mode, neon_project_id, neon_branch_id, neon_connection_uri,"
    " database_name, role_name, generation, fence, paused, user_id, checkpoint_bytes, last_error,"
    " coalesce(lease_expires_at > now(), false) AS leased"
)


# A new generation without a project; what the former one used is still asked for.
_ANEW = (
    "status = 'pending', generation = generation + 1, fence = fence + 1, neon_project_id = NULL,"
    " neon_branch_id = NULL, neon_connection_uri = NULL, role_name = NULL, database_name = NULL, paused = false,"
    " checkpoint_bytes = 0, lease_expires_at = NULL, updated_at = now(), former_until = updated_at,"
    " former_project_ids = CASE WHEN former_until > coalesce(last_consumption_sync, created_at)"
    " THEN former_project_ids ELSE '{}' END || array_remove(ARRAY[neon_project_id], NULL)"
)


class OwnerUnknown(ProvisioningFailed):
    """The user or workspace of a declared database does not exist, or not any more."""


class DatabaseStore:
    """Reads and fenced writes of both tables."""

    def __init__(self, control: ControlDatabase) -> None:
        self._control = control

    async def find(self, scope: Scope, project_name: str) -> DatabaseRow | None:
        table, owner = _TABLES[scope]
        async with self._control.connection() as connection:
            row = await connection.fetchrow(
                f"SELECT {_COLUMNS}, {owner} AS owner_id FROM {table} WHERE project_name = $1", project_name
            )
        return _row(scope, row) if row else None

    async def of_user(self, user_id: str) -> list[DatabaseRow]:
        """The user's global database first, then the agents', by creation."""
        rows: list[DatabaseRow] = []
        async with self._control.connection() as connection:
            for scope in (Scope.GLOBAL, Scope.AGENT):
                table, owner = _TABLES[scope]
                found = await connection.fetch(
                    f"SELECT {_COLUMNS}, {owner} AS owner_id FROM {table} WHERE user_id = $1"
                    " AND status <> 'deleted' ORDER BY created_at, id",
                    user_id,
                )
                rows += [_row(scope, row) for row in found]
        return rows

    async def inventory(self) -> list[Inventory]:
        """Every row that is not deleted."""
        found: list[Inventory] = []
        async with self._control.connection() as connection:
            for scope, (table, owner) in _TABLES.items():
                rows = await connection.fetch(
                    f"SELECT {_COLUMNS}, {owner} AS owner_id,"
                    " coalesce(lease_expires_at <= now(), false) AS abandoned,"
                    " extract(epoch FROM now() - updated_at)::float8 AS idle_s, NOT EXISTS (SELECT FROM"
                    f" {_OWNERS[scope]} AS o WHERE o.id = d.{owner}) AS ownerless, (SELECT extract(epoch FROM now() -"
                    f" {ARCHIVED_AT})::float8 FROM {_OWNERS[scope]} AS o WHERE o.id = d.{owner}) AS archived_s"
                    f" FROM {table} AS d WHERE status <> 'deleted' ORDER BY created_at, id"
                )
                found += [
                    Inventory(
                        _row(scope, row),
                        row["leased"],
                        row["idle_s"],
                        row["ownerless"],
                        row["archived_s"],
                        row["abandoned"],
                    )
                    for row in rows
                ]
        return found

    async def by_status(self) -> dict[DatabaseStatus, int]:
        """How many there are, of either kind."""
        parts = " UNION ALL ".join(f"SELECT status FROM {table}" for table in DATABASE_TABLES)
        async with self._control.connection() as connection:
            rows = await connection.fetch(f"SELECT status, count(*) AS many FROM ({parts}) AS each GROUP BY status")
        return dict.fromkeys(DatabaseStatus, 0) | {DatabaseStatus(row["status"]): row["many"] for row in rows}

    async def handed_over(self) -> list[tuple[DatabaseRow, str]]:
        """Databases of workspaces whose owner does not pay for them yet, with that owner."""
        async with self._control.connection() as connection:
            rows = await connection.fetch(
                "SELECT d.*, coalesce(d.lease_expires_at > now(), false) AS leased, d.workspace_id AS owner_id,"
                " w.owner_id AS now_of FROM workspace_database AS d"
                " JOIN workspace AS w ON w.id = d.workspace_id"
                " WHERE d.user_id IS DISTINCT FROM w.owner_id AND d.status NOT IN ('deleting', 'deleted') ORDER BY d.id"
            )
        return [(_row(Scope.AGENT, row), row["now_of"]) for row in rows]

    async def set_payer(self, row: DatabaseRow, user_id: str) -> DatabaseRow:
        """The workspace belongs to another user now, who has a budget; the project has to move to that tier's account.

        Raises OwnerUnknown.
        """
        async with self._control.transaction() as connection:
            try:
                await connection.execute(
                    "UPDATE workspace_database SET user_id = $2, updated_at = now() WHERE id = $1", row.id, user_id
                )
            except asyncpg.ForeignKeyViolationError:
                raise _owner_unknown(Scope.GLOBAL) from None
            await connection.execute(
                "UPDATE user_db_budget SET placed_tier = NULL, updated_at = now() WHERE user_id = $1", user_id
            )
        return replace(row, user_id=user_id)

    async def declare(
        self, scope: Scope, owner_id: str, *, user_id: str, project_name: str, revive: bool = False
    ) -> None:
        """Write the row that says a database should exist. `revive` starts a new generation of a deleted one.

        Raises OwnerUnknown.
        """
        table, owner = _TABLES[scope]
        columns, values = (f"{owner}, user_id", "$1, $3") if scope is Scope.AGENT else (owner, "$1")
        arguments = (owner_id, project_name, user_id) if scope is Scope.AGENT else (owner_id, project_name)
        async with self._control.connection() as connection:
            try:
                await connection.execute(
                    f"INSERT INTO {table} ({columns}, project_name) VALUES ({values}, $2)"
                    " ON CONFLICT DO NOTHING",  # of the name or of the owner, whichever is met first
                    *arguments,
                )
                if revive:
                    await connection.execute(
                        f"UPDATE {table} SET {_ANEW}, {owner} = $1"
                        + (", user_id = $3" if scope is Scope.AGENT else "")
                        + " WHERE project_name = $2 AND status = 'deleted'",
                        *arguments,
                    )
            except asyncpg.ForeignKeyViolationError:
                raise _owner_unknown(scope) from None

    async def claim(
        self, scope: Scope, project_name: str, statuses: list[DatabaseStatus], lease_s: float
    ) -> Claim | None:
        """Take the row if it is in one of the statuses and nobody holds a live lease on it."""
        table, owner = _TABLES[scope]
        async with self._control.connection() as connection:
            row = await connection.fetchrow(
                f"UPDATE {table} SET fence = fence + 1, lease_expires_at = now() + make_interval(secs => $3),"
                " status = CASE WHEN status = 'pending' THEN 'provisioning' ELSE status END, updated_at = now()"
                " WHERE project_name = $1 AND status = ANY ($2::text[])"
                "   AND (lease_expires_at IS NULL OR lease_expires_at < now())"
                f" RETURNING {_COLUMNS}, {owner} AS owner_id",
                project_name,
                [str(status) for status in statuses],
                lease_s,
            )
        return Claim(_row(scope, row), row["fence"]) if row else None

    async def renew(self, claim: Claim, lease_s: float) -> None:
        await self._fenced(claim, "lease_expires_at = now() + make_interval(secs => $3)", lease_s)

    async def record_project(self, claim: Claim, project_id: str, branch_id: str | None) -> None:
        await self._fenced(claim, "neon_project_id = $3, neon_branch_id = $4", project_id, branch_id)

    async def record_ready(self, claim: Claim, uri: str, database_name: str, role_name: str) -> None:
        await self._fenced(
            claim,
            "status = 'ready', neon_connection_uri = $3, database_name = $4, role_name = $5,"
            " lease_expires_at = NULL, last_error = NULL",
            uri,
            database_name,
            role_name,
        )

    async def record_checkpoints(self, claim: Claim, checkpoint_bytes: int) -> None:
        """What the database's checkpoints hold together."""
        await self._fenced(claim, "checkpoint_bytes = $3", checkpoint_bytes)

    async def release(self, claim: Claim, error_code: str | None) -> None:
        """Give the lease back: after a failure, for the next caller to try; None where the work is done."""
        await self._fenced(claim, "lease_expires_at = NULL, last_error = $3", error_code)

    async def record_deleted(self, claim: Claim) -> None:
        await self._fenced(
            claim,
            "status = 'deleted', lease_expires_at = NULL, neon_connection_uri = NULL, role_name = NULL,"
            " checkpoint_bytes = 0, last_error = NULL",
        )

    async def tombstone(self, row: DatabaseRow) -> None:
        """Mark this generation for removal; the row stays until the project is gone."""
        table, _ = _TABLES[row.scope]
        async with self._control.connection() as connection:
            await connection.execute(
                f"UPDATE {table} SET status = 'deleting', fence = fence + 1, lease_expires_at = NULL,"
                " updated_at = now() WHERE id = $1 AND generation = $2 AND status NOT IN ('deleting', 'deleted')",
                row.id,
                row.generation,
            )

    async def renounce(self, row: DatabaseRow) -> bool:
        """Begin a new generation of a row whose project is gone; False if the row changed meanwhile."""
        table, _ = _TABLES[row.scope]
        async with self._control.connection() as connection:
            changed = await connection.fetchval(
                f"UPDATE {table} SET {_ANEW} WHERE id = $1 AND generation = $2 AND fence = $3 RETURNING true",
                row.id,
                row.generation,
                row.fence,
            )
        return changed is not None

    async def forget(self, row: DatabaseRow) -> None:
        """Drop a tombstone that never was anybody's database, so that its name is free for whoever has it."""
        table, owner = _TABLES[row.scope]
        async with self._control.connection() as connection:
            await connection.execute(
                f"DELETE FROM {table} WHERE id = $1 AND status = 'deleted' AND {owner} IS NULL AND user_id IS NULL"
                " AND neon_project_id IS NULL AND former_project_ids = '{}'",
                row.id,
            )

    async def entomb(self, scope: Scope, project_name: str) -> DatabaseRow | None:
        """A tombstone for a project that no row wants, ownerless or of a row already deleted; None if one wants it."""
        table, owner = _TABLES[scope]
        async with self._control.connection() as connection:
            row = await connection.fetchrow(
                f"INSERT INTO {table} AS d (project_name, status) VALUES ($1, 'deleting') ON CONFLICT (project_name)"
                " DO UPDATE SET status = 'deleting', fence = d.fence + 1, updated_at = now()"
                f" WHERE d.status = 'deleted' RETURNING {_COLUMNS}, {owner} AS owner_id",
                project_name,
            )
        return _row(scope, row) if row else None

    async def record_paused(self, row: DatabaseRow, paused: bool | None) -> None:
        """What the provider was told last of this generation's project; None before it is told anything else."""
        table, _ = _TABLES[row.scope]
        async with self._control.connection() as connection:
            await connection.execute(
                f"UPDATE {table} SET paused = $3 WHERE id = $1 AND generation = $2", row.id, row.generation, paused
            )

    async def with_checkpoints(self) -> list[DatabaseRow]:
        """Ready databases that had checkpoints when that was looked at last."""
        found: list[DatabaseRow] = []
        async with self._control.connection() as connection:
            for scope, (table, owner) in _TABLES.items():
                rows = await connection.fetch(
                    f"SELECT {_COLUMNS}, {owner} AS owner_id FROM {table}"
                    " WHERE status = 'ready' AND checkpoint_bytes > 0 ORDER BY id"
                )
                found += [_row(scope, row) for row in rows]
        return found

    async def billed(self) -> list[BilledDatabase]:
        """What the platform pays for, or paid for until its deletion and not all of that is known.

        Neon tells days of the past for two months: what it did not tell of a deleted project by then, it never will.
        """
        found: list[BilledDatabase] = []
        async with self._control.connection() as connection:
            for table, _ in _TABLES.values():
                rows = await connection.fetch(
                    "SELECT id, array_remove(CASE WHEN former_until > since THEN former_project_ids ELSE '{}' END"
                    " || neon_project_id, NULL) AS project_ids, user_id, created_at, last_consumption_sync"
                    f" FROM {table}, LATERAL (SELECT coalesce(last_consumption_sync, created_at) AS since) AS s"
                    " WHERE ownership_type = 'platform' AND (status <> 'deleted' OR since < updated_at"
                    " AND updated_at > now() - interval '2 months')"
                )
                found += [
                    BilledDatabase(row["id"], tuple(row["project_ids"]), *list(row.values())[2:])
                    for row in rows
                    if row["project_ids"]
                ]
        return found

    async def _fenced(self, claim: Claim, assignments: str, *values: object) -> None:
        table, _ = _TABLES[claim.row.scope]
        async with self._control.connection() as connection:
            changed = await connection.fetchval(
                f"UPDATE {table} SET {assignments}, updated_at = now() WHERE id = $1 AND fence = $2 RETURNING id",
                claim.row.id,
                claim.fence,
                *values,
            )
        if changed is None:
            raise ProvisioningFailed(
                "Another process took over while this one was waiting.", hint="Run it again.", retryable=True
            )


def _owner_unknown(scope: Scope) -> OwnerUnknown:
    return OwnerUnknown(
        f"The {'workspace' if scope is Scope.AGENT else 'user'} of this call is not known.",
        hint="Whoever runs the platform: create it first, or check AGENTDB_USER_ID and AGENTDB_WORKSPACE_ID.",
    )


async def lock_databases(connection: asyncpg.Connection, table: str, ids: Collection[str]) -> None:
    """Before many rows are changed: who locks them in one order does not wait for each other in a circle."""
    await connection.execute(f"SELECT FROM {table} WHERE id = ANY ($1) ORDER BY id FOR UPDATE", list(ids))


def _row(scope: Scope, row: asyncpg.Record) -> DatabaseRow:
    return DatabaseRow(
        id=row["id"],
        scope=scope,
        owner_id=row["owner_id"],
        user_id=row["user_id"],
        project_name=row["project_name"],
        status=DatabaseStatus(row["status"]),
        ownership=Ownership(row["ownership_type"]),
        access_mode=AccessMode(row["access_mode"]),
        project_id=row["neon_project_id"],
        branch_id=row["neon_branch_id"],
        uri=row["neon_connection_uri"],
        database_name=row["database_name"],
        role_name=row["role_name"],
        generation=row["generation"],
        fence=row["fence"],
        paused=row["paused"],
        last_error=row["last_error"],
        leased=row["leased"],
        checkpoint_bytes=row["checkpoint_bytes"],
    )
