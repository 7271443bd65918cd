"""Ordered SQL files, forward only. Safe to apply twice, and from any number of processes at once."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files

import anyio
import asyncpg

from agentdb_mcp.errors import ConfigurationError, DatabaseUnavailable

# Serializes migrations of one control database.
LOCK = 0x61676E7464626D67
# Whoever waits to change a table keeps running servers from it: rather give up soon, and try again.
LOCK_TIMEOUT_MS = 500
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def all_migrations() -> list[Migration]:
    """Every file `NNNN_name.sql` of this package, in order."""
    found = [file for file in files(__package__).iterdir() if file.name.endswith(".sql")]
    return sorted(
        (Migration(int(file.name[:4]), file.name[5:-4], file.read_text("utf-8")) for file in found),
        key=lambda migration: migration.version,
    )


async def apply(connection: asyncpg.Connection) -> list[Migration]:
    """Apply what is missing, all in one transaction; what was applied. Steps of newer versions are no hindrance.

    Raises DatabaseUnavailable where a table stays in use for too long, with nothing changed.
    """
    known = all_migrations()
    applied = await _applied(connection)
    if all(applied.get(migration.version) == migration.checksum for migration in known):
        return []
    for pause in PAUSES_S:
        with suppress(asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            return await _apply(connection, known)
        await anyio.sleep(pause)
    try:
        return await _apply(connection, known)
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
        raise DatabaseUnavailable(
            "A table of the control database was in use for too long to be changed; nothing was.",
            retryable=True,
            hint="Run `agentdb-mcp migrate` again when backups and long transactions there are over.",
        ) from None


async def _apply(connection: asyncpg.Connection, known: list[Migration]) -> list[Migration]:
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        await connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS agentdb_migration ("
            " version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT now())"
        )
        applied = await _applied(connection)
        missing = [migration for migration in known if migration.version not in applied]
        for migration in known:
            if applied.get(migration.version, migration.checksum) != migration.checksum:
                raise ConfigurationError(
                    f"Migration {migration.version:04} was applied in another form than this version ships.",
                    hint="Use the version of agentdb-mcp that made the control database, or restore a backup.",
                )
        for migration in missing:
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO agentdb_migration (version, name, checksum) VALUES ($1, $2, $3)",
                migration.version,
                migration.name,
                migration.checksum,
            )
    return missing


async def pending(connection: asyncpg.Connection) -> list[Migration]:
    """What `apply` would do."""
    applied = await _applied(connection)
    return [migration for migration in all_migrations() if migration.version not in applied]


async def newer(connection: asyncpg.Connection) -> list[int]:
    """Steps that a newer version of ours applied, by their numbers; `apply` goes on beside them."""
    return sorted(set(await _applied(connection)) - {migration.version for migration in all_migrations()})


async def _applied(connection: asyncpg.Connection) -> dict[int, str]:
    if await connection.fetchval("SELECT to_regclass('agentdb_migration')") is None:
        return {}
    rows = await connection.fetch("SELECT version, checksum FROM agentdb_migration")
    return {row["version"]: row["checksum"] for row in rows}
