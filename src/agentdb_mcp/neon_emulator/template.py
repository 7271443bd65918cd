"""The database that every project's is copied from: on a shared cluster, neighbours must not be seen.

At Neon each project has a cluster of its own, and its catalogs show nobody else. Here shared catalogs would show every
project's roles, databases and sessions to everyone, so PUBLIC loses them, as well as the server's address and what
writes past a read-only transaction.
"""

from __future__ import annotations

import logging

import asyncpg

from agentdb_mcp.neon_emulator.location import Location
from agentdb_mcp.neon_emulator.naming import quoted

# The number rises with the statements below: an older cluster gets a new template.
TEMPLATE = "neon_emulator_template_2"

HIDDEN_RELATIONS = (
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
)
HIDDEN_FUNCTIONS = (
    "inet_client_addr()",
    "inet_client_port()",
    "inet_server_addr()",
    "inet_server_port()",
    "lo_creat(int)",
    "lo_create(oid)",
    "lo_from_bytea(oid, bytea)",
    "lo_put(oid, bigint, bytea)",
    "lo_truncate(int, int)",
    "lo_truncate64(int, bigint)",
    "lo_unlink(oid)",
    "lowrite(int, bytea)",
    "pg_export_snapshot()",
)
HIDDEN_BY_NAME = ("pg_logical_emit_message",)

# As in Postgres, but without reading pg_database: information_schema.columns runs it as whoever asks.
OCTET_LENGTH = """
    CREATE OR REPLACE FUNCTION information_schema._pg_char_octet_length(typid oid, typmod integer) RETURNS integer
        LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
        RETURN CASE WHEN typid IN (25, 1042, 1043) THEN CASE WHEN typmod = -1 THEN (2 ^ 30)::integer ELSE
            information_schema._pg_char_max_length(typid, typmod)
            * pg_encoding_max_length(pg_char_to_encoding(getdatabaseencoding())) END END
"""

logger = logging.getLogger(__name__)


async def make_template(connection: asyncpg.Connection, location: Location) -> None:
    """Make the template where it is missing; a half-made one is under another name and made anew."""
    if await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", TEMPLATE):
        return
    making = f"{TEMPLATE}_making"
    await connection.execute(f"DROP DATABASE IF EXISTS {quoted(making)} WITH (FORCE)")
    await connection.execute(f"CREATE DATABASE {quoted(making)} TEMPLATE template0 ENCODING 'UTF8'")
    await connection.execute(f"REVOKE ALL ON DATABASE {quoted(making)} FROM PUBLIC")
    inside = await location.connect(making)
    try:
        await _add_statement_statistics(inside)
        await inside.execute(OCTET_LENGTH)
        for relation in HIDDEN_RELATIONS:
            await inside.execute(f"REVOKE ALL ON pg_catalog.{relation} FROM PUBLIC")
        for function in await _hidden_functions(inside):
            await inside.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    finally:
        await inside.close()
    await connection.execute(f"ALTER DATABASE {quoted(making)} ALLOW_CONNECTIONS false")
    await connection.execute(f"ALTER DATABASE {quoted(making)} RENAME TO {quoted(TEMPLATE)}")


async def _hidden_functions(connection: asyncpg.Connection) -> list[str]:
    """Those of the list that this version has, with their signatures."""
    rows = await connection.fetch(
        "SELECT f::text FROM (SELECT to_regprocedure('pg_catalog.' || s) AS f FROM unnest($1::text[]) AS s) x"
        " WHERE f IS NOT NULL UNION SELECT oid::regprocedure::text FROM pg_proc"
        " WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY ($2::text[])",
        list(HIDDEN_FUNCTIONS),
        list(HIDDEN_BY_NAME),
    )
    return [row[0] for row in rows]


async def _add_statement_statistics(connection: asyncpg.Connection) -> None:
    """Do what Neon's admin may do by itself but takes a superuser here."""
    if "pg_stat_statements" not in await connection.fetchval("SELECT current_setting('shared_preload_libraries')"):
        return
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    except asyncpg.PostgresError as error:
        logger.warning("pg_stat_statements could not be added to projects (SQLSTATE %s)", error.sqlstate)
