"""Opening a connection as the agent, and ending its backends.

A platform database has a sealed role (facts: an owner who can log in can give itself a password and walk around us):
NOLOGIN but for the moment in which we connect, with a fresh password each time. See layout.py for the role.
A user's own database is opened with the plain login it came with.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import anyio
import asyncpg

from agentdb_mcp import connection_uri
from agentdb_mcp.execution import guard
from agentdb_mcp.execution.errors import CONNECTION_ERRORS, connection_error
from agentdb_mcp.execution.guard import GuardedConnection
from agentdb_mcp.execution.wire import speak_text
from agentdb_mcp.models import DatabaseTarget

CONNECT_TIMEOUT_S = 15.0
REAP_TIMEOUT_S = 10.0
SEAL_TIMEOUT_S = 60.0
# An opening waits this long for a lock before it ends the transactions in its way, and tries this often.
PATIENCE_MS, INSISTENCE = 1500, 10
APPLICATION_NAME = "agentdb-mcp"
# Serializes openings of one database's sealed role, in all processes; any constant of ours does.
OPENING_LOCK = 0x61676E7464626F70

COMMON_SETTINGS = {
    "application_name": APPLICATION_NAME,
    "client_min_messages": "error",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "60s",
}
# Start-up parameters outrank whatever a role set for itself. The path is for our own catalog reads and the
# reset between calls; a call's own statements get theirs in its preamble (session.py).
SEALED_SETTINGS = COMMON_SETTINGS | {
    "search_path": "pg_catalog, pg_temp",
    "statement_timeout": "60s",
    "client_connection_check_interval": "2s",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "row_security": "on",
}

ADMIN_SETTINGS = {
    "application_name": f"{APPLICATION_NAME} admin",
    "search_path": "pg_catalog, pg_temp",
    "statement_timeout": "30s",
    "lock_timeout": "15s",
}


async def open_session(target: DatabaseTarget, **driver: object) -> GuardedConnection:
    """A new connection that runs as the agent, for as long as the caller waits. Raises DatabaseUnavailable."""
    try:
        connection = await (_open_sealed(target, target.role, driver) if target.role else _open_plain(target, driver))
    except (*CONNECTION_ERRORS, asyncpg.PostgresError, ValueError, IndexError) as error:
        raise connection_error(error) from None
    speak_text(connection)
    guard.install(connection)
    return connection


async def _open_plain(target: DatabaseTarget, driver: dict[str, object]) -> GuardedConnection:
    return await _connect(target, COMMON_SETTINGS, driver)


async def _open_sealed(target: DatabaseTarget, role: str, driver: dict[str, object]) -> GuardedConnection:
    password = secrets.token_urlsafe(24)
    connection: GuardedConnection | None = None
    async with admin_connection(target, timeout_s=None) as admin:
        await _insist(admin, role, 0, f"SELECT pg_catalog.pg_advisory_lock({OPENING_LOCK})")
        now: datetime
        now, database = await admin.fetchrow("SELECT pg_catalog.clock_timestamp(), pg_catalog.current_database()")
        unseal = _unseal_sql(quote(role), quote(database), password, now + timedelta(seconds=30))
        try:
            await _insist(admin, role, 0, unseal)
            connection = await _connect(target, SEALED_SETTINGS, driver | {"user": role, "password": password})
        finally:
            with anyio.fail_after(SEAL_TIMEOUT_S, shield=True):
                await _seal(admin, role, connection)
    return connection


async def _connect(
    target: DatabaseTarget, server_settings: dict[str, str], driver: dict[str, object]
) -> GuardedConnection:
    connection: GuardedConnection = await asyncpg.connect(
        connection_uri.for_driver(target.uri),
        server_settings=server_settings,
        statement_cache_size=0,
        timeout=None,
        **driver,
    )
    return connection


def _unseal_sql(role: str, database: str, password: str, until: datetime) -> str:
    """Let the role in until then, with nothing that it set for itself."""
    return (
        f"ALTER ROLE {role} RESET ALL; ALTER ROLE {role} IN DATABASE {database} RESET ALL;"
        f" ALTER ROLE {role} LOGIN PASSWORD '{password}' VALID UNTIL '{until.isoformat()}'"
    )


async def _seal(admin: asyncpg.Connection, role: str, connection: GuardedConnection | None) -> None:
    """Close the door, write down whom we let in, and end every other backend of the role that nobody wrote down."""
    pid = connection.get_server_pid() if connection else 0
    try:
        await _insist(admin, role, pid, f"ALTER ROLE {quote(role)} NOLOGIN")
        await admin.execute(
            "INSERT INTO agentdb.session SELECT a.pid, a.backend_start FROM pg_catalog.pg_stat_activity AS a"
            " WHERE a.pid = $1 AND a.usename = $2 ON CONFLICT DO NOTHING",
            pid,
            role,
        )
        await admin.execute(
            "SELECT pg_catalog.pg_terminate_backend(a.pid, 5000) FROM pg_catalog.pg_stat_activity AS a"
            " WHERE a.usename = $1 AND a.backend_type = 'client backend'"
            " AND NOT EXISTS (SELECT FROM agentdb.session AS s WHERE s.pid = a.pid AND s.started = a.backend_start)",
            role,
        )
        await admin.execute(
            "DELETE FROM agentdb.session AS s WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a"
            " WHERE a.pid = s.pid AND a.backend_start = s.started)"
        )
    except BaseException:
        if connection is not None:
            connection.terminate()
        raise


async def _insist(admin: asyncpg.Connection, role: str, spare: int, sql: str) -> None:
    """Run what an agent's open transaction may stand in the way of; end such transactions until it is done.

    An agent that changes its own role keeps that role's row locked until its transaction ends, and it can take any
    advisory lock: neither may keep the door open.
    """
    for _ in range(INSISTENCE):
        try:
            await admin.execute(f"SET lock_timeout = '{PATIENCE_MS}ms'; {sql}")
        except (asyncpg.LockNotAvailableError, asyncpg.InternalServerError, asyncpg.DeadlockDetectedError):
            await admin.execute(_END_HINDERERS, role, spare, OPENING_LOCK)
        else:
            return
    raise asyncpg.LockNotAvailableError("the role cannot be changed")


# Backends of the role that changed pg_authid or pg_db_role_setting and are not done, or that hold our advisory lock.
_END_HINDERERS = """
    SELECT pg_catalog.pg_terminate_backend(a.pid, 5000) FROM pg_catalog.pg_stat_activity AS a
     WHERE a.usename = $1 AND a.pid <> $2 AND EXISTS (
           SELECT FROM pg_catalog.pg_locks AS l WHERE l.pid = a.pid AND l.granted AND (
                  l.locktype = 'relation' AND l.relation IN (1260, 2964) AND l.mode <> 'AccessShareLock'
               OR l.locktype = 'advisory' AND (l.classid::int8 << 32 | l.objid::int8) = $3::int8))
"""


@asynccontextmanager
async def admin_connection(
    target: DatabaseTarget, *, timeout_s: float | None = CONNECT_TIMEOUT_S
) -> AsyncIterator[asyncpg.Connection]:
    """A short-lived connection of the admin's (of the same login where there is no admin).

    It never touches an object that an agent made.
    """
    connection = await asyncpg.connect(
        connection_uri.for_driver(target.uri), server_settings=ADMIN_SETTINGS, statement_cache_size=0, timeout=timeout_s
    )
    try:
        yield connection
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(REAP_TIMEOUT_S, shield=True):
            await connection.close(timeout=REAP_TIMEOUT_S)


async def reap(target: DatabaseTarget, pid: int) -> None:
    """End one backend of the agent's, from another connection: the watchdog's hand."""
    async with admin_connection(target) as admin:
        await admin.execute(
            "SELECT pg_catalog.pg_terminate_backend(a.pid, 5000) FROM pg_catalog.pg_stat_activity AS a"
            " WHERE a.pid = $1 AND a.usename = coalesce($2, CURRENT_USER)",
            pid,
            target.role,
        )


def quote(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
