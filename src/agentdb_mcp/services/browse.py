"""What people see of a database: its tables, and their rows page by page, read the way an agent's statement is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentdb_mcp.execution import Statement, catalog
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
        values: list[Any] = [limit, offset]
        order = ", ".join(f"{identifier(each.column)}{' DESC' if each.descending else ''}" for each in order_by)
        sql = f"SELECT * FROM {identifier(table[0])}.{identifier(table[1])}"
        sql += f" ORDER BY {order}" if order else ""
        statement = Statement(f"{sql} LIMIT $1 OFFSET $2", values)
        return await self.queries.execute(tenant, scope, [statement], max_rows=limit)


def identifier(name: str) -> str:
    """Quoted, so that any name is a name."""
    return '"' + name.replace('"', '""') + '"'
