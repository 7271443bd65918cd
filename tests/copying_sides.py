"""A tenant's two databases, with what goes on in them seen from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import asyncpg

from agentdb_mcp.bootstrap import Application
from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.services import Copied, Copying

AGENT, GLOBAL = Scope.AGENT, Scope.GLOBAL
# Stops for a minute after fifty thousand rows.
STALLING = """SELECT i AS id, CASE WHEN i = 50000 THEN pg_sleep(60)::text ELSE repeat('x', 100) END AS text
    FROM generate_series(1, 100000) AS i"""


@dataclass(frozen=True)
class Sides:
    application: Application
    tenant: Tenant
    reports: list[int] = field(default_factory=list)

    async def sql(self, scope: Scope, sql: str, *params: object) -> list[list[Any]]:
        return (await self.application.queries.execute(self.tenant, scope, [Statement(sql, params)])).results[0].rows

    async def copy(self, query: str, table: str, mode: Any = "append", source: Scope = AGENT) -> Copied:
        async def report(rows: int, _: str) -> None:
            self.reports.append(rows)

        copying = Copying(self.application.queries.calls)
        with anyio.fail_after(60):
            return await copying.copy(self.tenant, source, query, ("public", table), mode, report)

    async def refused(self, query: str, table: str, mode: Any = "append", source: Scope = AGENT) -> AgentDBError:
        try:
            copied = await self.copy(query, table, mode, source)
        except AgentDBError as error:
            return error
        raise AssertionError(f"{query}: {copied}")

    async def remake(self, table: str, columns: str, scope: Scope = GLOBAL) -> None:
        """The table anew, with these columns."""
        await self.sql(scope, f"DROP TABLE IF EXISTS {table} CASCADE")
        await self.sql(scope, f"CREATE TABLE {table} ({columns})")


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    with anyio.fail_after(50):
        while not (found := await condition()):
            await anyio.sleep(0.02)
    return found


@dataclass(frozen=True)
class Outside:
    """A superuser in one of the databases."""

    connection: asyncpg.Connection

    async def arriving(self) -> int:
        """The backend that has taken rows in, once it has some."""

        async def some() -> Any:
            return await self.connection.fetchval(
                "SELECT pid FROM pg_stat_progress_copy WHERE command = 'COPY FROM' AND datname = current_database()"
                " AND tuples_processed > 1000"
            )

        return int(await until(some))

    async def quiet(self) -> None:
        """Wait until no backend copies here, in either direction, or has a transaction open."""

        async def none() -> bool:
            return not await self.connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND xact_start IS NOT NULL AND backend_type = 'client backend'"
            )

        await until(none)

    async def tables(self) -> set[str]:
        rows = await self.connection.fetch("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        return {row[0] for row in rows}


@asynccontextmanager
async def outside(postgres: EmbeddedPostgres, database: str) -> AsyncIterator[Outside]:
    connection = await asyncpg.connect(postgres.uri(database).reveal())
    try:
        yield Outside(connection)
    finally:
        await connection.close()
