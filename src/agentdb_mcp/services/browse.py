"""What people see of a database: its tables, and their rows page by page, read the way an agent's statement is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentdb_mcp.errors import InvalidArgument, NotFound
from agentdb_mcp.execution import Sink, Statement, catalog
from agentdb_mcp.models import Result, Scope, Tenant
from agentdb_mcp.services import rows
from agentdb_mcp.services.queries import Answer, Queries
from agentdb_mcp.services.rows import Field, Filter, Order, RowKey, Table, identifier

__all__ = ["Browse", "Details", "Order", "RowKey", "identifier"]

EDITABLE = frozenset({"table", "partitioned table"})
# Beyond so many columns a page shows less of each value.
MANY_COLUMNS, SHOWN_OF_MANY = 40, 60


@dataclass(frozen=True, slots=True)
class Details:
    """A table or view: rows of the catalog by name, what is null left out."""

    schema: str
    name: str
    type: str
    comment: str | None
    definition: str | None
    columns: Sequence[Mapping[str, Any]]
    constraints: Sequence[Mapping[str, Any]]
    indexes: Sequence[Mapping[str, Any]]
    triggers: Sequence[Mapping[str, Any]]
    primary_key: Sequence[str]

    @property
    def table(self) -> Table:
        return self.schema, self.name

    @property
    def fields(self) -> list[Field]:
        return [Field(each["name"], each["type"]) for each in self.columns]

    @property
    def editable(self) -> bool:
        """Rows are told apart by the primary key: without one, none is changed."""
        return self.type in EDITABLE and bool(self.primary_key)


@dataclass(frozen=True, slots=True)
class Browse:
    queries: Queries

    async def tables(self, tenant: Tenant, scope: Scope) -> Result:
        """Rows of schema, name, type, rows, size_bytes, comment, columns: tables and views that are not the system's.

        Raises AgentDBError.
        """
        return (await self.queries.catalog(tenant, scope, [catalog.tables()]))[0]

    async def details(self, tenant: Tenant, scope: Scope, table: Table) -> Details:
        """Columns, keys, indexes and triggers of (schema, table). Raises NotFound, AgentDBError."""
        reads = [
            read(*table)
            for read in (
                catalog.relation, catalog.columns, catalog.constraints, catalog.indexes, catalog.triggers,
                catalog.primary_key,
            )
        ]  # fmt: skip
        found, *parts = await self.queries.catalog(tenant, scope, reads)
        if not found.rows:
            missing = f"There is no table {table[1]!r} in the schema {table[0]!r}."
            raise NotFound(missing, hint="It may have been dropped.")
        head = _objects(found)[0]
        columns, constraints, indexes, triggers, key = (_objects(part) for part in parts)
        return Details(
            *table,
            head["type"],
            head.get("comment"),
            head.get("definition"),
            columns,
            constraints,
            indexes,
            triggers,
            [each["name"] for each in key],
        )

    async def page(
        self,
        tenant: Tenant,
        scope: Scope,
        table: Table,
        *,
        limit: int,
        offset: int = 0,
        order_by: Sequence[Order] = (),
    ) -> Answer:
        """Rows of (schema, table), whose order is the given one, else whatever Postgres finds first."""
        order = ", ".join(f"{identifier(each.column)}{' DESC' if each.descending else ''}" for each in order_by)
        sql = f"{_select(table)}{' ORDER BY ' if order else ''}{order} LIMIT $1 OFFSET $2"
        return await self.queries.execute(tenant, scope, [Statement(sql, [limit, offset])], max_rows=limit)

    async def shown(
        self,
        tenant: Tenant,
        scope: Scope,
        details: Details,
        *,
        limit: int,
        offset: int = 0,
        after: Mapping[str, str] | None = None,
        from_end: bool = False,
        filters: Sequence[Filter] = (),
        order_by: Sequence[Order] = (),
        whole: bool = False,
    ) -> Answer:
        """A page as texts, cut unless `whole`, by the primary key unless told, or backwards `from_end`.

        Of an editable table the primary key, whole, and xmin are last. Raises AgentDBError.
        """
        statement = rows.select_page(
            details.table,
            details.fields,
            filters=filters,
            order_by=order_by,
            key=details.primary_key,
            limit=limit,
            offset=offset,
            after=after,
            from_end=from_end,
            version=details.editable,
            shown=_length(details, whole=whole),
        )
        return await self.queries.execute(tenant, scope, [statement], max_rows=limit)

    async def row(self, tenant: Tenant, scope: Scope, details: Details, key: Mapping[str, str]) -> list[Any]:
        """One row's texts and its xmin. Raises NotFound, AgentDBError."""
        statement = rows.select_row(details.table, details.fields, key)
        found = (await self.queries.execute(tenant, scope, [statement], max_rows=1)).results[0].rows
        if not found:
            raise NotFound("The row is not there any more.", hint="Somebody deleted it or changed its key: reload.")
        return found[0]

    async def insert(self, tenant: Tenant, scope: Scope, details: Details, values: Mapping[str, str | None]) -> None:
        """Raises AgentDBError."""
        await self.queries.execute(tenant, scope, [rows.insert_row(details.table, values)])

    async def update(
        self, tenant: Tenant, scope: Scope, details: Details, key: RowKey, values: Mapping[str, str | None]
    ) -> None:
        """Raises InvalidArgument where somebody else changed the row since it was read, AgentDBError."""
        _check_editable(details)
        answer = await self.queries.execute(tenant, scope, [rows.update_row(details.table, key, values)])
        if answer.results[0].command_tag.endswith(" 0"):
            raise InvalidArgument(CHANGED, hint="Reload to see the row as it is now, then change it again.")

    async def delete(self, tenant: Tenant, scope: Scope, details: Details, keys: Sequence[RowKey]) -> int:
        """How many of the rows were deleted: those that somebody changed since they were read stay. AgentDBError."""
        _check_editable(details)
        statements = [rows.delete_row(details.table, key) for key in keys]
        answer = await self.queries.execute(tenant, scope, statements, transaction=len(statements) > 1)
        return sum(int(result.command_tag.rpartition(" ")[2]) for result in answer.results)

    async def export(self, tenant: Tenant, scope: Scope, table: Table, sink: Sink) -> None:
        """All rows of (schema, table), as they come."""
        await self.queries.stream(tenant, scope, Statement(_select(table)), sink)


def _length(details: Details, *, whole: bool) -> int:
    if whole:
        return rows.OPENED
    return SHOWN_OF_MANY if len(details.columns) > MANY_COLUMNS else rows.SHOWN


def _check_editable(details: Details) -> None:
    if not details.editable:
        raise InvalidArgument("Its rows cannot be told apart: there is no primary key.", hint="Use SQL to change it.")


CHANGED = "Somebody else changed or deleted the row meanwhile; nothing was changed."


def _objects(answer: Result) -> list[dict[str, Any]]:
    names = [column.name for column in answer.columns]
    return [{name: value for name, value in zip(names, row, strict=True) if value is not None} for row in answer.rows]


def _select(table: Table) -> str:
    return f"SELECT * FROM {rows.qualified(table)}"
