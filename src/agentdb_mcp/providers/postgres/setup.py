"""What a cluster needs before it has projects: the registry of them, and a template that hides neighbours.

On a cluster that projects share, its catalogs show every database, role and session to everyone. Where the admin is a
superuser, projects are copied from a template in which PUBLIC has lost them, as well as what writes past a read-only
transaction; their owners keep them. An admin who is none cannot take catalogs away.
"""

from __future__ import annotations

import asyncpg

from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.logs import get_logger
from agentdb_mcp.providers.postgres.cluster import Cluster, quoted

log = get_logger(__name__)

REGISTRY = "agentdb_projects"
# The number rises with the statements below: an older cluster gets a new template.
TEMPLATE = "agentdb_template_2"
OWNERS = "agentdb_project_owners"
# Up to Postgres 15, CREATEROLE is power over every role of the cluster, a neighbour's too.
OLDEST = 16
# Any constant of ours does.
_SETUP_LOCK = 0x616764625F736574

# Names are unique: whoever comes second adopts. Passwords are here as Neon keeps them; the admin alone reads them.
_TABLE = """
    CREATE TABLE IF NOT EXISTS public.project (
        id text PRIMARY KEY,
        name text NOT NULL UNIQUE,
        database_name text NOT NULL,
        role_name text NOT NULL,
        password text NOT NULL,
        state text NOT NULL DEFAULT 'creating' CHECK (state IN ('creating', 'ready', 'deleting')),
        created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
    );
    CREATE TABLE IF NOT EXISTS public.copy (
        id text PRIMARY KEY,
        project_id text NOT NULL REFERENCES public.project,
        database_name text NOT NULL UNIQUE,
        name text NOT NULL,
        state text NOT NULL DEFAULT 'making' CHECK (state IN ('making', 'kept')),
        expires_at timestamptz NOT NULL,
        created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
    );
"""

HIDDEN_RELATIONS = [
    "pg_auth_members",
    "pg_database",
    "pg_db_role_setting",
    "pg_group",
    "pg_prepared_xacts",
    "pg_replication_slots",
    "pg_roles",
    "pg_shdepend",
    "pg_shdescription",
    "pg_stat_activity",
    "pg_stat_database",
    "pg_stat_database_conflicts",
    "pg_stat_gssapi",
    "pg_stat_progress_analyze",
    "pg_stat_progress_basebackup",
    "pg_stat_progress_cluster",
    "pg_stat_progress_copy",
    "pg_stat_progress_create_index",
    "pg_stat_progress_vacuum",
    "pg_stat_replication",
    "pg_stat_ssl",
    "pg_user",
]
HIDDEN_FUNCTIONS = [
    "inet_client_addr",
    "inet_client_port",
    "inet_server_addr",
    "inet_server_port",
    "lo_creat",
    "lo_create",
    "lo_from_bytea",
    "lo_put",
    "lo_truncate",
    "lo_truncate64",
    "lo_unlink",
    "lowrite",
    "pg_export_snapshot",
    "pg_logical_emit_message",
]

# As in Postgres, but without reading pg_database: information_schema.columns runs it as whoever asks.
_OCTET_LENGTH = """
    CREATE OR REPLACE FUNCTION information_schema._pg_char_octet_length(typid oid, typmod integer) RETURNS integer
        LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
        RETURN CASE WHEN typid IN (25, 1042, 1043) THEN CASE WHEN typmod = -1 THEN (2 ^ 30)::integer ELSE
            information_schema._pg_char_max_length(typid, typmod)
            * pg_encoding_max_length(pg_char_to_encoding(getdatabaseencoding())) END END
"""


async def prepare(cluster: Cluster) -> str:
    """Make what is missing, once among all processes; the template for new databases."""
    async with cluster.connection() as admin:
        powers = await check_powers(admin)
        await admin.execute("SELECT pg_catalog.pg_advisory_lock($1)", _SETUP_LOCK)
        if not await admin.fetchval("SELECT true FROM pg_database WHERE datname = $1", REGISTRY):
            await admin.execute(f"CREATE DATABASE {REGISTRY} TEMPLATE template0 ENCODING 'UTF8'")
        await admin.execute(f"REVOKE ALL ON DATABASE {REGISTRY} FROM PUBLIC")
        async with cluster.connection(REGISTRY) as inside:
            await inside.execute(_TABLE)
        if not powers["superuser"]:
            return "template0"
        if not await admin.fetchval("SELECT true FROM pg_database WHERE datname = $1", TEMPLATE):
            await _make_template(cluster, admin)
        return TEMPLATE


async def check_powers(admin: asyncpg.Connection) -> asyncpg.Record:
    """Raises ProvisioningFailed where the login cannot make databases and roles, or the server is too old."""
    if admin.get_server_version().major < OLDEST:
        raise ProvisioningFailed(
            f"The projects' cluster runs Postgres {admin.get_server_version().major}; {OLDEST} or newer is needed.",
            hint="Before that, a role that may make roles has power over those of its neighbours.",
        )
    powers = await admin.fetchrow(
        "SELECT rolsuper AS superuser, rolsuper OR rolcreatedb AND rolcreaterole AS enough"
        " FROM pg_roles WHERE rolname = CURRENT_USER"
    )
    if not powers["enough"]:
        raise ProvisioningFailed(
            "The login of AGENTDB_PROVIDER_URL may not make databases and roles.",
            hint="ALTER ROLE … CREATEDB CREATEROLE;",
        )
    return powers


async def _make_template(cluster: Cluster, admin: asyncpg.Connection) -> None:
    """A half-made one is under another name and made anew."""
    making = f"{TEMPLATE}_making"
    if not await admin.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", OWNERS):
        await admin.execute(f"CREATE ROLE {OWNERS} NOLOGIN")
    await admin.execute(f"DROP DATABASE IF EXISTS {making} WITH (FORCE)")
    await admin.execute(f"CREATE DATABASE {making} TEMPLATE template0 ENCODING 'UTF8'")
    await admin.execute(f"REVOKE ALL ON DATABASE {making} FROM PUBLIC")
    async with cluster.connection(making) as inside:
        await _add_statement_statistics(inside)
        await _hide(inside)
        await inside.execute(_OCTET_LENGTH)
    await admin.execute(f"ALTER DATABASE {making} ALLOW_CONNECTIONS false")
    await admin.execute(f"ALTER DATABASE {making} RENAME TO {TEMPLATE}")


async def _hide(inside: asyncpg.Connection) -> None:
    """Only what this version has."""
    relations = await inside.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relname = ANY ($1::text[])",
        HIDDEN_RELATIONS,
    )
    for (name,) in relations:
        await inside.execute(f"REVOKE ALL ON pg_catalog.{quoted(name)} FROM PUBLIC")
        await inside.execute(f"GRANT SELECT ON pg_catalog.{quoted(name)} TO {OWNERS}")
    functions = await inside.fetch(
        "SELECT oid::regprocedure::text FROM pg_proc"
        " WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY ($1::text[])",
        HIDDEN_FUNCTIONS,
    )
    for (signature,) in functions:
        await inside.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")


async def _add_statement_statistics(inside: asyncpg.Connection) -> None:
    """It takes a superuser to install; where the server does not load it, it would only fail."""
    if "pg_stat_statements" in await inside.fetchval("SELECT current_setting('shared_preload_libraries')"):
        try:
            await inside.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements SCHEMA public")
        except asyncpg.PostgresError as error:
            log.warning("pg_stat_statements could not be added to projects", sqlstate=error.sqlstate)
