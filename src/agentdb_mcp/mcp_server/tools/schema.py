"""The tool that shows a whole schema at once, which is a resource as well."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import Field

from agentdb_mcp.errors import SqlError
from agentdb_mcp.execution import schema
from agentdb_mcp.mcp_server import rendering, schemas
from agentdb_mcp.mcp_server.arguments import Arguments
from agentdb_mcp.mcp_server.rendering import Rendered
from agentdb_mcp.mcp_server.tools.base import Operations, Tool
from agentdb_mcp.models import Scope
from agentdb_mcp.services.queries import waking_notes
from agentdb_mcp.services.schema_text import MANY, schema_text

_HINT = "Only names and columns are shown of so many tables: give `tables` for the rest of some."


class GetSchema(Arguments):
    tables: list[str] = Field(
        default=[], max_length=50, description="Only these tables and views, whole; `schema.name` outside public."
    )


@dataclass(frozen=True, slots=True)
class Schema:
    """`text` is DDL, or a line a table where `summarised`; `tables` counts what it shows."""

    text: str
    tables: int
    summarised: bool
    notes: tuple[str, ...]


async def read_schema(do: Operations, scope: Scope, tables: Sequence[str] = ()) -> Schema:
    """The whole schema, or these tables of it. Raises SqlError for one that is not there, naming the nearest."""
    answers = await do.queries.catalog(do.tenant, scope, [schema.relations(), schema.enums()])
    relations, enums = (rendering.as_objects(answer) for answer in answers)
    if tables:
        relations = _chosen(relations, tables)
    summarised = not tables and len(relations) > MANY
    text = schema_text([_read(row) for row in relations], [_read(row) for row in enums], whole=not summarised)
    return Schema(text, len(relations), summarised, waking_notes(answers))


async def _get_schema(do: Operations, scope: Scope, given: GetSchema) -> Rendered:
    found = await read_schema(do, scope, given.tables)
    notes = [*found.notes, *([_HINT] if found.summarised else [])]
    fields: dict[str, Any] = {"tables": found.tables, "summarised": found.summarised, "ddl": found.text}
    return Rendered(fields | ({"notes": notes} if notes else {}), "\n".join([rendering.framed(found.text), *notes]))


def _chosen(relations: list[dict[str, Any]], tables: Sequence[str]) -> list[dict[str, Any]]:
    by_name = {name: row for row in reversed(relations) for name in _names(row)}
    for table in tables:
        if table not in by_name:
            near = get_close_matches(table, by_name, n=3)
            raise SqlError(
                f"There is no table or view {table}.",
                hint=f"Did you mean {' or '.join(near)}?" if near else "Leave `tables` out to see all.",
                sqlstate="42P01",
            )
    return list({row["qualified"]: row for row in (by_name[table] for table in tables)}.values())


def _names(row: dict[str, Any]) -> tuple[str, ...]:
    """How a caller may call it: as Postgres quotes it, and as it is."""
    plain = f"{row['schema']}.{row['name']}"
    return (row["qualified"], plain, *((row["name"],) if row["schema"] == "public" else ()))


def _read(row: dict[str, Any]) -> dict[str, Any]:
    """With its JSON read, however the driver gave it."""
    return {key: json.loads(value) if key in _JSON and isinstance(value, str) else value for key, value in row.items()}


_JSON = frozenset({"column_names", "columns", "constraints", "indexes", "comments", "labels"})

TOOLS = (
    Tool(
        "get_schema",
        "See the whole schema at once",
        "All tables and views as DDL, with keys, indexes, comments and estimated rows; past ten tables a line for"
        " each, and the DDL of those that you name.",
        GetSchema,
        schemas.answer(schemas.NOTES, tables=schemas.INTEGER, summarised=schemas.BOOLEAN, ddl=schemas.STRING),
        _get_schema,
    ),
)
