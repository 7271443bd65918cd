"""Real roles and databases for projects, on one shared Postgres cluster.

A project is one database and one admin role. What keeps projects apart is CONNECT: no database lets PUBLIC in, so an
admin reaches its own database only. Known limits of a shared cluster:

* pg_monitor and pg_signal_backend are cluster-wide: an admin sees other projects' statements and can end their
  sessions. pg_read_all_data shows it the (SCRAM) verifiers in pg_authid.
* A database that an admin makes by SQL is open to every role until that admin revokes CONNECT from PUBLIC.
* Up to Postgres 15, CREATEROLE means power over every role that is no superuser, so admins are not kept apart there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import anyio
import asyncpg

from agentdb_mcp.neon_emulator.location import Location
from agentdb_mcp.neon_emulator.naming import SUPER_ROLE, quoted, scram_verifier, with_suffix
from agentdb_mcp.neon_emulator.template import TEMPLATE, make_template

ATTEMPTS = 5
DROP_ATTEMPTS = 4
TERMINATE_WAIT_MS = 5000
# Where a role's making is recorded as a membership of its maker, granted by the bootstrap superuser.
CREATOR_TIES_SINCE = 16
BOOTSTRAP_SUPERUSER = 10
# A database's connection limit once its dropping has begun.
INVALID_DATABASE = -2
FIRST_NORMAL_OID = 16384

# No REPLICATION, although Neon grants it: on a shared cluster it would read every project's data.
ADMIN_ATTRIBUTES = "LOGIN INHERIT CREATEROLE CREATEDB BYPASSRLS NOREPLICATION NOSUPERUSER"
SUPER_ROLE_MEMBER_OF = "pg_read_all_data, pg_write_all_data, pg_monitor, pg_signal_backend"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Superuser's work on the cluster. It never runs SQL inside a database that a project has in its hands."""

    pool: asyncpg.Pool
    location: Location
    version: int
    # Concurrent changes of role catalogs fail with "tuple concurrently updated".
    roles_lock: anyio.Lock = field(default_factory=anyio.Lock)

    async def create_admin(self, connection: asyncpg.Connection, wanted: str, password: str) -> tuple[str, int]:
        """The name and oid of a new admin role; the caller holds `roles_lock` and a transaction."""
        name = wanted
        if await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name):
            name = with_suffix(wanted)
        await connection.execute(f"CREATE ROLE {quoted(name)} {ADMIN_ATTRIBUTES} PASSWORD '{scram_verifier(password)}'")
        # Without SET, an admin can give objects of its own to no role that others are members of.
        options = " WITH INHERIT TRUE, SET FALSE" if self.version >= CREATOR_TIES_SINCE else ""
        await connection.execute(f"GRANT {SUPER_ROLE} TO {quoted(name)}{options}")
        return name, await connection.fetchval("SELECT oid FROM pg_roles WHERE rolname = $1", name)

    async def set_password(self, connection: asyncpg.Connection, role_oid: int, password: str) -> None:
        """Give a role a new password; the caller holds `roles_lock` and a transaction."""
        name = await connection.fetchval("SELECT rolname FROM pg_roles WHERE oid = $1", role_oid)
        await connection.execute(f"ALTER ROLE {quoted(name)} PASSWORD '{scram_verifier(password)}'")

    async def create_database(self, wanted: str, owner: str) -> tuple[str, int]:
        """The name and oid of a new database that its owner alone can enter."""
        async with self.pool.acquire() as connection:
            name = await self._create_closed(connection, wanted, owner)
            await connection.execute(f"REVOKE ALL ON DATABASE {quoted(name)} FROM PUBLIC")
            await connection.execute(f"ALTER DATABASE {quoted(name)} ALLOW_CONNECTIONS true")
            oid: int = await connection.fetchval("SELECT oid FROM pg_database WHERE datname = $1", name)
        return name, oid

    async def _create_closed(self, connection: asyncpg.Connection, wanted: str, owner: str) -> str:
        name = wanted
        for _ in range(ATTEMPTS):
            if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name):
                try:
                    # Nobody can be connected to the template, so any number of copies can run at once. Closed until
                    # PUBLIC has lost its rights.
                    await connection.execute(
                        f"CREATE DATABASE {quoted(name)} TEMPLATE {quoted(TEMPLATE)}"
                        f" OWNER {quoted(owner)} ALLOW_CONNECTIONS false"
                    )
                except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
                    pass  # another took the name between the question and the making
                else:
                    return name
            name = with_suffix(wanted)
        raise RuntimeError("no free database name found")

    async def copy_database(self, source_oid: int, owner: str, *, closed: bool = False) -> tuple[str, int]:
        """A copy under a name of its own. Postgres copies only what nobody is in, so the source's sessions end."""
        source = await self._database_name(source_oid)
        try:
            await self._admit(source, False)
            await self.disconnect([], [source_oid])
            name = with_suffix(source)
            async with self.pool.acquire() as connection:
                await connection.execute(
                    f"CREATE DATABASE {quoted(name)} TEMPLATE {quoted(source)} OWNER {quoted(owner)}"
                    " ALLOW_CONNECTIONS false"
                )
        finally:
            with anyio.CancelScope(shield=True):
                await self._admit(source, True)
        await self.pool.execute(f"REVOKE ALL ON DATABASE {quoted(name)} FROM PUBLIC")
        if not closed:
            await self._admit(name, True)
        oid: int = await self.pool.fetchval("SELECT oid FROM pg_database WHERE datname = $1", name)
        return name, oid

    async def grants(self, database_oid: int) -> list[tuple[int, str]]:
        """Who has which rights on a database itself, which a copy has not: `(role, right)`."""
        records = await self.pool.fetch(
            "SELECT grantee, privilege_type FROM pg_database, aclexplode(datacl)"
            " WHERE pg_database.oid = $1 AND grantee NOT IN (0, datdba)",
            database_oid,
        )
        return [(record["grantee"], record["privilege_type"]) for record in records]

    async def grant(self, database_oid: int, grants: Sequence[tuple[int, str]]) -> None:
        """Give roles that are still there these rights."""
        database = await self._database_name(database_oid)
        for oid, right in grants:
            for role in await self._role_names([oid]):
                await self.pool.execute(f"GRANT {right} ON DATABASE {quoted(database)} TO {quoted(role)}")

    async def close(self, database_oids: Sequence[int]) -> None:
        """Let nobody in and end the sessions there."""
        for oid in database_oids:
            await self._admit(await self._database_name(oid), False)
        await self.disconnect([], database_oids)

    async def open(self, database_oids: Sequence[int]) -> None:
        for oid in database_oids:
            await self._admit(await self._database_name(oid), True)

    async def rename_database(self, connection: asyncpg.Connection, name: str, to: str) -> None:
        """Nobody may be in it; the caller holds a transaction."""
        await connection.execute(f"ALTER DATABASE {quoted(name)} RENAME TO {quoted(to)}")

    async def let_in(self, role_oids: Sequence[int], database_oids: Iterable[int]) -> None:
        """Let roles of a branch into databases of it: at Neon every role made by the API enters all of them."""
        for oid in database_oids:
            database = await self._database_name(oid)
            for role in await self._role_names(role_oids):
                await self.pool.execute(f"GRANT CONNECT, TEMPORARY ON DATABASE {quoted(database)} TO {quoted(role)}")

    async def _database_name(self, oid: int) -> str:
        name = await self.pool.fetchval("SELECT datname FROM pg_database WHERE oid = $1", oid)
        if name is None:
            raise LookupError("a database is gone that the emulator did not drop")
        return str(name)

    async def _admit(self, name: str, allowed: bool) -> None:
        await self.pool.execute(f"ALTER DATABASE {quoted(name)} ALLOW_CONNECTIONS {str(allowed).lower()}")

    async def set_reachable(
        self, connection: asyncpg.Connection, role_oids: Sequence[int], database_oids: Sequence[int], *, to: bool
    ) -> None:
        """Close or open a project's databases and admins; the caller holds `roles_lock` and a transaction."""
        for name in await self._role_names(role_oids):
            await connection.execute(f"ALTER ROLE {quoted(name)} {'LOGIN' if to else 'NOLOGIN'}")
        for oid in await self.owned_databases(role_oids, database_oids):
            name = await self._database_name(oid)
            await connection.execute(f"ALTER DATABASE {quoted(name)} ALLOW_CONNECTIONS {str(to).lower()}")

    async def owned_databases(self, role_oids: Iterable[int], database_oids: Iterable[int]) -> list[int]:
        """The databases named, and those that the roles and all that these made own."""
        records = await self.pool.fetch(
            "SELECT oid FROM pg_database WHERE oid = ANY($1::oid[]) OR datdba = ANY($2::oid[]) ORDER BY oid",
            list(database_oids),
            list(await self._with_made_roles(set(role_oids))),
        )
        return [record["oid"] for record in records]

    async def busy_databases(self, database_oids: Iterable[int]) -> set[int]:
        """Those in which a statement or a transaction is open."""
        records = await self.pool.fetch(
            "SELECT DISTINCT datid FROM pg_stat_activity"
            " WHERE datid = ANY($1::oid[]) AND state <> 'idle' AND backend_type = 'client backend'",
            list(database_oids),
        )
        return {record["datid"] for record in records}

    async def disconnect(self, role_oids: Sequence[int], database_oids: Sequence[int] = ()) -> None:
        """End the sessions of these roles and those in these databases, and wait until they are gone."""
        await self.pool.execute(
            "SELECT pg_terminate_backend(pid, $3) FROM pg_stat_activity"
            " WHERE (usesysid = ANY($1::oid[]) OR datid = ANY($2::oid[])) AND pid <> pg_backend_pid()",
            list(role_oids),
            list(database_oids),
            TERMINATE_WAIT_MS,
        )

    async def drop(self, role_oids: Sequence[int], database_oids: Sequence[int], spared: Sequence[int]) -> None:
        """Remove a project's databases and roles, those that its admin made by SQL too.

        Roles are found by the tie that Postgres 16 and later keep between a role and its maker; up to 15 there is none,
        and roles made by SQL stay behind. Databases are the ones known and those that any of the roles owns, except
        `spared`, which are other projects'. Names are looked up here, since an owner can rename its database. When all
        else is done, DependentObjectsStillExistError tells of roles that own something elsewhere: they have no login.
        """
        for attempt in range(1, DROP_ATTEMPTS + 1):
            try:
                await self._drop(set(role_oids), list(database_oids), list(spared))
                return
            except asyncpg.InternalServerError:
                # "tuple concurrently updated": the admin itself changed a role just then; it is locked out by now.
                if attempt == DROP_ATTEMPTS:
                    raise
                await anyio.sleep(0.05 * attempt)

    async def _drop(self, role_oids: set[int], database_oids: list[int], spared: list[int]) -> None:
        async with self.roles_lock:
            roles = await self._seal(role_oids)
            owned = await self.pool.fetch(
                "SELECT datname FROM pg_database"
                " WHERE (oid = ANY($1::oid[]) OR datdba = ANY($2::oid[])) AND oid <> ALL($3::oid[])",
                database_oids,
                list(roles),
                spared,
            )
            for record in owned:
                await self._drop_database(record["datname"])
            await self._drop_roles(roles)

    async def _seal(self, role_oids: set[int]) -> set[int]:
        """Lock out these roles and all that they made, until no session is left that could make another."""
        sealed: set[int] = set()
        while fresh := await self._with_made_roles(role_oids) - sealed:
            for name in await self._role_names(fresh):
                await self.pool.execute(f"ALTER ROLE {quoted(name)} NOLOGIN PASSWORD NULL")
            await self.disconnect(list(fresh))
            sealed |= fresh
        return sealed

    async def _with_made_roles(self, role_oids: set[int]) -> set[int]:
        if self.version < CREATOR_TIES_SINCE:
            return role_oids
        records = await self.pool.fetch(
            """WITH RECURSIVE made (oid) AS (
                   SELECT unnest($1::oid[])
                   UNION
                   SELECT tie.roleid FROM pg_auth_members AS tie JOIN made ON tie.member = made.oid
                    WHERE tie.admin_option AND tie.grantor = $2::oid AND tie.roleid >= $3::oid
               )
               SELECT oid FROM made""",
            list(role_oids),
            BOOTSTRAP_SUPERUSER,
            FIRST_NORMAL_OID,
        )
        return {record["oid"] for record in records}

    async def _role_names(self, role_oids: Iterable[int]) -> list[str]:
        records = await self.pool.fetch(
            "SELECT rolname FROM pg_roles WHERE oid = ANY($1::oid[]) ORDER BY oid", list(role_oids)
        )
        return [record["rolname"] for record in records]

    async def _drop_database(self, name: str) -> None:
        async with self.pool.acquire() as connection:
            # Its owner may have made it a template, which cannot be dropped; one whose dropping was cut off can be
            # dropped alone.
            valid = "SELECT datconnlimit <> $2 FROM pg_database WHERE datname = $1"
            if await connection.fetchval(valid, name, INVALID_DATABASE):
                await connection.execute(f"ALTER DATABASE {quoted(name)} IS_TEMPLATE false ALLOW_CONNECTIONS false")
            await connection.execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")

    async def _drop_roles(self, role_oids: set[int]) -> None:
        names = await self._role_names(role_oids)
        if not names:
            return
        listed = ", ".join(map(quoted, names))
        async with self.pool.acquire() as connection, connection.transaction():
            # Here this reaches only what is shared: rights on databases that others granted them.
            await connection.execute(f"DROP OWNED BY {listed}")
            # In one statement, since they may have granted memberships of one another.
            await connection.execute(f"DROP ROLE {listed}")


async def open_cluster(pool: asyncpg.Pool, location: Location) -> Cluster:
    """Lay out the shared roles and close the shared databases."""
    async with pool.acquire() as connection:
        version = connection.get_server_version().major
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", SUPER_ROLE):
            await connection.execute(f"CREATE ROLE {SUPER_ROLE} NOLOGIN")
        await connection.execute(f"GRANT {SUPER_ROLE_MEMBER_OF} TO {SUPER_ROLE}")
        own = quoted(location.own_database)
        await connection.execute(f"REVOKE ALL ON DATABASE postgres, template1, {own} FROM PUBLIC")
        await _warn_of_open_databases(connection)
        await make_template(connection, location)
    return Cluster(pool, location, version)


async def _warn_of_open_databases(connection: asyncpg.Connection) -> None:
    """Projects' admins read all data wherever they can connect."""
    names = await connection.fetchval(
        """SELECT string_agg(quote_ident(datname), ', ' ORDER BY datname) FROM pg_database
            WHERE datallowconn AND EXISTS (
                SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba)))
                 WHERE grantee = 0 AND privilege_type = 'CONNECT')"""
    )
    if names is not None:
        logger.warning("every project's admin can connect to %s: revoke CONNECT from PUBLIC there", names)
