"""The roles inside a platform database: the admin owns the database, the agent's sealed role owns what it makes.

The agent's role has CONNECT, CREATE and TEMPORARY on its own database, USAGE and CREATE in schema public, and no
login between openings (login.py). There is no second role to escape to. PUBLIC gets nothing. Extensions that need the
admin live in a schema of the admin's, which the agent can use and not write to. `agentdb.session`, which the agent
cannot read, knows the backends that we opened.
"""

from __future__ import annotations

import secrets

import asyncpg

from agentdb_mcp.errors import NotAllowed
from agentdb_mcp.execution.errors import CONNECTION_ERRORS, connection_error, statement_error
from agentdb_mcp.execution.login import admin_connection, quote
from agentdb_mcp.models import DatabaseTarget, Secret
from agentdb_mcp.telemetry import told, traced

EXTENSIONS = "extensions"


def new_role_name() -> str:
    """Opaque: shared catalogs list every role of a cluster to everyone."""
    return f"a_{secrets.token_hex(8)}"


@traced("provisioning.install", "client", told.POSTGRES)
async def install(admin_uri: Secret, role: str, *, connection_limit: int) -> None:
    """Make the agent's role and strip PUBLIC, all or nothing; safe to repeat.

    A role without its rights would not be found again by `agents_role`. Raises DatabaseUnavailable, ProvisioningFailed.
    """
    target = DatabaseTarget(key="install", uri=admin_uri)
    try:
        async with admin_connection(target) as admin, admin.transaction():
            database = quote(await admin.fetchval("SELECT pg_catalog.current_database()"))
            if not await admin.fetchval("SELECT true FROM pg_catalog.pg_roles WHERE rolname = $1", role):
                await admin.execute(f"CREATE ROLE {quote(role)}")
            await admin.execute(_layout_sql(quote(role), database, connection_limit))
            if not await admin.fetchval("SELECT pg_catalog.pg_has_role(CURRENT_USER, $1, 'USAGE')", role):
                await admin.execute(_membership_sql(quote(role), admin.get_server_version().major))
    except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
        raise connection_error(error) from None


async def agents_role(admin_uri: Secret) -> str | None:
    """The sealed role that `install` made in this database before, by the rights it gave it; None without one."""
    role = await _value(admin_uri, _AGENTS_ROLE_SQL)
    return None if role is None else str(role)


async def holds_anything(admin_uri: Secret) -> bool:
    """Whether anybody but us made something in this database: relations, functions or large objects."""
    return bool(await _value(admin_uri, _HOLDS_SQL))


async def _value(admin_uri: Secret, sql: str) -> object:
    try:
        async with admin_connection(DatabaseTarget(key="install", uri=admin_uri)) as admin:
            return await admin.fetchval(sql)
    except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
        raise connection_error(error) from None


_AGENTS_ROLE_SQL = r"""
    SELECT r.rolname
      FROM pg_catalog.pg_database AS d, pg_catalog.aclexplode(d.datacl) AS a, pg_catalog.pg_roles AS r
     WHERE d.datname = pg_catalog.current_database() AND a.privilege_type = 'CONNECT' AND r.oid = a.grantee
       AND r.rolname ~ '^a_[0-9a-f]{16}$'
     ORDER BY r.oid LIMIT 1
"""

# What an extension brought is not somebody's data.
_HOLDS_SQL = f"""
    SELECT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata) OR EXISTS (
        SELECT FROM (
            SELECT 'pg_catalog.pg_class'::pg_catalog.regclass AS catalog, oid, relnamespace AS schema
              FROM pg_catalog.pg_class
            UNION ALL
            SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, oid, pronamespace FROM pg_catalog.pg_proc
        ) AS o JOIN pg_catalog.pg_namespace AS n ON n.oid = o.schema
         WHERE n.nspname <> ALL (ARRAY['information_schema', 'agentdb', '{EXTENSIONS}'])
           AND n.nspname !~ '^pg_'
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS e
                            WHERE e.classid = o.catalog AND e.objid = o.oid AND e.deptype = 'e'))
"""


def _layout_sql(role: str, database: str, connection_limit: int) -> str:
    return f"""
        ALTER ROLE {role} NOLOGIN NOINHERIT NOCREATEDB NOCREATEROLE CONNECTION LIMIT {connection_limit};
        REVOKE ALL ON DATABASE {database} FROM PUBLIC;
        GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {database} TO {role};
        REVOKE ALL ON SCHEMA public FROM PUBLIC;
        GRANT USAGE, CREATE ON SCHEMA public TO {role};
        CREATE SCHEMA IF NOT EXISTS {EXTENSIONS};
        REVOKE ALL ON SCHEMA {EXTENSIONS} FROM PUBLIC;
        GRANT USAGE ON SCHEMA {EXTENSIONS} TO {role};
        CREATE SCHEMA IF NOT EXISTS agentdb;
        REVOKE ALL ON SCHEMA agentdb FROM PUBLIC;
        CREATE TABLE IF NOT EXISTS agentdb.session (
            pid int NOT NULL, started timestamptz NOT NULL, PRIMARY KEY (pid, started)
        );
    """


async def install_extension(target: DatabaseTarget, name: str) -> None:
    """Install what needs more than the agent's rights, in a schema that the agent cannot write to.

    An extension's script runs as the admin with that schema first in its path: nothing there may be the agent's.
    Raises SqlError, DatabaseUnavailable.
    """
    try:
        async with admin_connection(target) as admin:
            owner = await admin.fetchval(
                "SELECT pg_catalog.pg_get_userbyid(nspowner) FROM pg_catalog.pg_namespace WHERE nspname = $1",
                EXTENSIONS,
            )
            if owner is None or owner == target.role:
                raise NotAllowed(f"Schema {EXTENSIONS} is not the platform's.", hint="Drop or rename it.")
            await admin.execute(f"CREATE EXTENSION IF NOT EXISTS {quote(name)} SCHEMA {EXTENSIONS} CASCADE")
    except CONNECTION_ERRORS as error:
        raise connection_error(error) from None
    except asyncpg.PostgresError as error:
        raise statement_error(error) from None


def _membership_sql(role: str, version: int) -> str:
    """The admin must be able to end the role's backends; becoming the role (SET) is not needed."""
    return f"GRANT {role} TO CURRENT_USER" + (" WITH INHERIT TRUE, SET FALSE" if version >= 16 else "")
