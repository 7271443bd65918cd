"""Making and removing one project, in steps that can be repeated after a crash at any of them.

Row first, then role, then database, then `ready`; removal by a row that says `deleting` until nothing is left. All of
it on one connection that holds the lock of the project's name.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import asyncpg

from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.models import Project
from agentdb_mcp.providers.postgres.cluster import quoted, scram_verifier
from agentdb_mcp.providers.postgres.setup import OWNERS, TEMPLATE

# CREATEDB, as at Neon: without it an owner cannot say NOCREATEDB of the roles that it makes.
ADMIN_ATTRIBUTES = "LOGIN INHERIT CREATEROLE CREATEDB NOSUPERUSER NOREPLICATION"
TERMINATE_WAIT_MS = 5000
BOOTSTRAP_SUPERUSER, FIRST_NORMAL_OID = 10, 16384
# A database's connection limit once its dropping has begun.
INVALID_DATABASE = -2


@dataclass(frozen=True, slots=True)
class Row:
    """A project as the registry has it."""

    id: str
    name: str
    database_name: str
    role_name: str
    password: str
    state: str
    created_at: str

    @property
    def project(self) -> Project:
        return Project(self.id, self.name, created_at=self.created_at)

    def __repr__(self) -> str:
        return f"Row({self.id})"


_SELECT = (
    "SELECT id, name, database_name, role_name, password, state, pg_catalog.to_char(created_at AT TIME ZONE 'UTC',"
    ' \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\') AS created_at FROM public.project'
)


async def rows(registry: asyncpg.Connection, condition: str, *values: object) -> list[Row]:
    return [
        Row(**found) for found in await registry.fetch(f"{_SELECT} {condition} ORDER BY project.created_at", *values)
    ]


async def locked(registry: asyncpg.Connection, name: str) -> Row | None:
    """The project of this name, ours alone until the connection ends; one that was being removed is removed first."""
    await registry.execute("SELECT pg_catalog.pg_advisory_lock(pg_catalog.hashtextextended($1, 0))", name)
    found = await rows(registry, "WHERE name = $1", name)
    if found and found[0].state == "deleting":
        await finish_delete(registry, found[0])
        return None
    return found[0] if found else None


async def locked_by_id(registry: asyncpg.Connection, project_id: str) -> Row | None:
    for row in await rows(registry, "WHERE id = $1", project_id):
        found = await locked(registry, row.name)
        return found if found and found.id == project_id else None
    return None


async def begin(registry: asyncpg.Connection, name: str) -> Row:
    """Names are opaque: shared catalogs may show them."""
    await registry.execute(
        "INSERT INTO public.project (id, name, database_name, role_name, password) VALUES ($1, $2, $3, $4, $5)",
        f"pg-{secrets.token_hex(8)}",
        name,
        f"d_{secrets.token_hex(8)}",
        f"o_{secrets.token_hex(8)}",
        secrets.token_urlsafe(24),
    )
    return (await rows(registry, "WHERE name = $1", name))[0]


async def complete(registry: asyncpg.Connection, row: Row, template: str) -> None:
    """Whatever is missing between the row and `ready`."""
    if row.state == "ready":
        return
    await make_role(registry, row, template)
    await make_database(registry, row, template)
    await open_database(registry, row)
    await mark_ready(registry, row)


async def make_role(registry: asyncpg.Connection, row: Row, template: str) -> None:
    if await registry.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", row.role_name):
        return
    role = quoted(row.role_name)
    async with registry.transaction():
        await registry.execute(f"CREATE ROLE {role} {ADMIN_ATTRIBUTES} PASSWORD '{scram_verifier(row.password)}'")
        if template == TEMPLATE:
            await registry.execute(f"GRANT {OWNERS} TO {role} WITH INHERIT TRUE, SET FALSE")
        else:  # a superuser needs no membership
            await registry.execute(f"GRANT {role} TO CURRENT_USER WITH INHERIT TRUE, SET TRUE")


async def make_database(registry: asyncpg.Connection, row: Row, template: str) -> None:
    """Closed until PUBLIC has lost its rights."""
    if not await registry.fetchval("SELECT true FROM pg_database WHERE datname = $1", row.database_name):
        await registry.execute(
            f"CREATE DATABASE {quoted(row.database_name)} TEMPLATE {template} ENCODING 'UTF8'"
            f" OWNER {quoted(row.role_name)} ALLOW_CONNECTIONS false"
        )


async def open_database(registry: asyncpg.Connection, row: Row) -> None:
    await registry.execute(f"REVOKE ALL ON DATABASE {quoted(row.database_name)} FROM PUBLIC")
    await allow_connections(registry, row, True)


async def mark_ready(registry: asyncpg.Connection, row: Row) -> None:
    await registry.execute("UPDATE public.project SET state = 'ready' WHERE id = $1", row.id)


async def allow_connections(registry: asyncpg.Connection, row: Row, allowed: bool) -> None:
    await registry.execute(f"ALTER DATABASE {quoted(row.database_name)} ALLOW_CONNECTIONS {str(allowed).lower()}")


async def end_connections(registry: asyncpg.Connection, row: Row) -> None:
    """Those of the database, and those that its owner has anywhere."""
    await registry.execute(
        "SELECT pg_terminate_backend(pid, $3) FROM pg_stat_activity"
        " WHERE (datname = $1 OR usename = $2) AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
        row.database_name,
        row.role_name,
        TERMINATE_WAIT_MS,
    )


async def set_password(registry: asyncpg.Connection, row: Row, password: str) -> None:
    """In the cluster and in the registry at once."""
    async with registry.transaction():
        await registry.execute(f"ALTER ROLE {quoted(row.role_name)} PASSWORD '{scram_verifier(password)}'")
        await registry.execute("UPDATE public.project SET password = $2 WHERE id = $1", row.id, password)
    await end_connections(registry, row)


async def delete(registry: asyncpg.Connection, row: Row) -> None:
    await registry.execute("UPDATE public.project SET state = 'deleting' WHERE id = $1", row.id)
    await finish_delete(registry, row)


async def finish_delete(registry: asyncpg.Connection, row: Row) -> None:
    """The owner is locked out, then its databases go, then every role that it made, then the row."""
    if await registry.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", row.role_name):
        await registry.execute(f"ALTER ROLE {quoted(row.role_name)} NOLOGIN")
    await end_connections(registry, row)
    await drop_copies(registry, "WHERE project_id = $1", row.id)
    owned = await registry.fetch(
        "SELECT datname FROM pg_database AS d LEFT JOIN pg_roles AS r ON r.oid = d.datdba"
        " WHERE datname = $1 OR rolname = $2",
        row.database_name,
        row.role_name,
    )
    for (name,) in owned:
        await _drop_database(registry, name)
    await _drop_roles(registry, row)
    await registry.execute("DELETE FROM public.project WHERE id = $1", row.id)


async def drop_copies(registry: asyncpg.Connection, condition: str, *values: object) -> None:
    """Databases first, then their rows."""
    for copy_id, database in await registry.fetch(f"SELECT id, database_name FROM public.copy {condition}", *values):
        if await registry.fetchval("SELECT true FROM pg_database WHERE datname = $1", database):
            await _drop_database(registry, database)
        await registry.execute("DELETE FROM public.copy WHERE id = $1", copy_id)


async def _drop_database(registry: asyncpg.Connection, name: str) -> None:
    """Also one that its owner made a template, and one whose dropping was cut off, which nobody can alter any more."""
    if await registry.fetchval("SELECT datconnlimit <> $2 FROM pg_database WHERE datname = $1", name, INVALID_DATABASE):
        await registry.execute(f"ALTER DATABASE {quoted(name)} IS_TEMPLATE false ALLOW_CONNECTIONS false")
    await registry.execute(f"DROP DATABASE {quoted(name)} WITH (FORCE)")


async def _drop_roles(registry: asyncpg.Connection, row: Row) -> None:
    """Postgres ties a role to its maker by a membership that the bootstrap superuser granted: nobody forges it."""
    made = await registry.fetch(
        """WITH RECURSIVE made (oid) AS (
               SELECT oid FROM pg_roles WHERE rolname = $1
               UNION
               SELECT tie.roleid FROM pg_auth_members AS tie JOIN made ON tie.member = made.oid
                WHERE tie.admin_option AND tie.grantor = $2::oid AND tie.roleid >= $3::oid
           )
           SELECT rolname FROM made JOIN pg_roles USING (oid) ORDER BY oid DESC""",
        row.role_name,
        BOOTSTRAP_SUPERUSER,
        FIRST_NORMAL_OID,
    )
    if not made:
        return
    names = ", ".join(quoted(name) for (name,) in made)
    try:
        async with registry.transaction():
            # What is left of them is rights on what is shared. In one statement, since they are members of one another,
            # and the owner last: the right to drop the others comes to us by way of it.
            await registry.execute(f"DROP OWNED BY {names}")
            await registry.execute(f"DROP ROLE {names}")
    except asyncpg.DependentObjectsStillExistError:
        raise ProvisioningFailed(
            "A role of the project owns objects in another database.",
            hint="Whoever runs the cluster: DROP OWNED there.",
        ) from None
