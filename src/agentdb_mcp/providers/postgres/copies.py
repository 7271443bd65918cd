"""Copies of projects' databases: checkpoints, and what a restore works with.

Copies are the admin's and closed. Their row is there before them and says `making` until they are kept: whatever an
interrupted call left, `tidy` finds. All of it on the connection that holds the lock of the project's name.

Postgres copies and renames only a database that nobody is in. While it does, it holds a lock that new connections wait
for, so it is enough to end, from beside, those that were there before.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import anyio
import asyncpg

from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.models import Checkpoint
from agentdb_mcp.providers.postgres.cluster import Cluster, quoted
from agentdb_mcp.providers.postgres.projects import Row, drop_copies

# Until the next look for sessions in the way.
AGAIN_S = 0.1

_KEPT = """
    SELECT copy.id, copy.name, copy.created_at, copy.expires_at, coalesce(pg_database_size(d.oid), 0) AS size_bytes
      FROM public.copy LEFT JOIN pg_database AS d ON d.datname = copy.database_name
     WHERE project_id = $1 AND state = 'kept' AND expires_at > clock_timestamp() ORDER BY copy.created_at, copy.id
"""


async def kept(registry: asyncpg.Connection, row: Row) -> list[Checkpoint]:
    return [Checkpoint(**found) for found in await registry.fetch(_KEPT, row.id)]


async def keep(cluster: Cluster, registry: asyncpg.Connection, row: Row, name: str, expires_at: datetime) -> Checkpoint:
    copy_id, database = await _begin(registry, row, name, expires_at)
    async with _vacated(cluster, row.database_name):
        await registry.execute(
            f"CREATE DATABASE {quoted(database)} TEMPLATE {quoted(row.database_name)} ALLOW_CONNECTIONS false"
        )
    await registry.execute(f"REVOKE ALL ON DATABASE {quoted(database)} FROM PUBLIC")
    await registry.execute("UPDATE public.copy SET state = 'kept' WHERE id = $1", copy_id)
    return next(each for each in await kept(registry, row) if each.id == copy_id)


async def restore(cluster: Cluster, registry: asyncpg.Connection, row: Row, copy_id: str) -> None:
    """A copy of the copy takes the database's name, which goes to `away` with what was there."""
    source = await registry.fetchval(
        "SELECT database_name FROM public.copy WHERE id = $1 AND project_id = $2 AND state = 'kept'"
        " AND expires_at > clock_timestamp()",
        copy_id,
        row.id,
    )
    if source is None:
        raise ProvisioningFailed("The checkpoint does not exist any more.", hint="List those that there are.")
    _, new = await _begin(registry, row)
    _, away = await _begin(registry, row)
    await registry.execute(
        f"CREATE DATABASE {quoted(new)} TEMPLATE {quoted(source)} OWNER {quoted(row.role_name)} ALLOW_CONNECTIONS false"
    )
    await _grant_as(registry, row, new)
    async with _vacated(cluster, row.database_name), registry.transaction():
        await registry.execute(f"ALTER DATABASE {quoted(row.database_name)} RENAME TO {quoted(away)}")
        await registry.execute(f"ALTER DATABASE {quoted(new)} RENAME TO {quoted(row.database_name)}")
        # Changed last: what is paused stays so.
        allowed = await registry.fetchval("SELECT datallowconn FROM pg_database WHERE datname = $1", away)
        await registry.execute(f"ALTER DATABASE {quoted(row.database_name)} ALLOW_CONNECTIONS {str(allowed).lower()}")
    await tidy(registry, row)


async def drop(registry: asyncpg.Connection, row: Row, copy_id: str) -> None:
    await drop_copies(registry, "WHERE project_id = $1 AND id = $2", row.id, copy_id)


async def tidy(registry: asyncpg.Connection, row: Row) -> None:
    """Drop what is half made and what has expired."""
    await drop_copies(
        registry, "WHERE project_id = $1 AND (state = 'making' OR expires_at <= clock_timestamp())", row.id
    )


async def _begin(
    registry: asyncpg.Connection, row: Row, name: str = "", expires_at: datetime | None = None
) -> tuple[str, str]:
    """The id and the database of a copy that is to be made; names are opaque, as shared catalogs may show them."""
    copy_id, database = f"cp-{secrets.token_hex(8)}", f"d_{secrets.token_hex(8)}"
    await registry.execute(
        "INSERT INTO public.copy (id, project_id, database_name, name, expires_at)"
        " VALUES ($1, $2, $3, $4, coalesce($5, 'infinity'::timestamptz))",
        copy_id,
        row.id,
        database,
        name,
        expires_at,
    )
    return copy_id, database


async def _grant_as(registry: asyncpg.Connection, row: Row, database: str) -> None:
    """The rights on the database itself that its original gives: Postgres copies what is inside only."""
    await registry.execute(f"REVOKE ALL ON DATABASE {quoted(database)} FROM PUBLIC")
    grants = await registry.fetch(
        "SELECT r.rolname, a.privilege_type FROM pg_database AS d, aclexplode(d.datacl) AS a"
        " JOIN pg_roles AS r ON r.oid = a.grantee WHERE d.datname = $1 AND a.grantee <> d.datdba",
        row.database_name,
    )
    for role, right in grants:
        await registry.execute(f"GRANT {right} ON DATABASE {quoted(database)} TO {quoted(role)}")


@asynccontextmanager
async def _vacated(cluster: Cluster, database: str) -> AsyncIterator[None]:
    """For the time of the block, whoever is in the database is sent away."""
    async with cluster.connection() as beside:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_send_away, beside, database)
                yield
                group.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None


async def _send_away(beside: asyncpg.Connection, database: str) -> None:
    while True:
        await beside.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = $1 AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
            database,
        )
        await anyio.sleep(AGAIN_S)
