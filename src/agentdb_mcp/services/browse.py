"""What people see of a database: its tables, and their rows page by page, read the way an agent's statement is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentdb_mcp.execution import Sink, Statement, catalog
from agentdb_mcp.models import Result, Scope, Tenant
from agentdb_mcp.services.queries import Answer, Queries


@dataclass(frozen=True, slots=True)
class Order:
    column: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Browse:
    queries: Queries

    async def tables(self, tenant: Tenant, scope: Scope) -> Result:
        """Rows of schema, name, type, rows, size_bytes, comment, columns: tables and views that are not the system's.

        Raises AgentDBError.
        """
        return (await self.queries.catalog(tenant, scope, [catalog.tables()]))[0]

    async def page(
        self,
        tenant: Tenant,
        scope: Scope,
        table: tuple[str, str],
        *,
        limit: int,
        offset: int = 0,
        order_by: Sequence[Order] = (),
    ) -> Answer:
        """Rows of (schema, table), whose order is the given one, else whatever Postgres finds first."""
        order = ", ".join(f"{identifier(each.column)}{' DESC' if each.descending else ''}" for each in order_by)
        sql = f"{_select(table)}{' ORDER BY ' if order else ''}{order} LIMIT $1 OFFSET $2"
        return await self.queries.execute(tenant, scope, [Statement(sql, [limit, offset])], max_rows=limit)

    async def export(self, tenant: Tenant, scope: Scope, table: tuple[str, str], sink: Sink) -> None:
        """All rows of (schema, table), as they come."""
        await self.queries.stream(tenant, scope, Statement(_select(table)), sink)


def _select(table: tuple[str, str]) -> str:
    return f"SELECT * FROM {identifier(table[0])}.{identifier(table[1])}"


def identifier(name: str) -> str:
    """Quoted, so that any name is a name."""
    return '"' + name.replace('"', '""') + '"'
