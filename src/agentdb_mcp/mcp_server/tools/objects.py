"""Tools that show what a database holds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from agentdb_mcp.errors import SqlError
from agentdb_mcp.execution import catalog
from agentdb_mcp.mcp_server import rendering, schemas
from agentdb_mcp.mcp_server.arguments import Arguments, Name
from agentdb_mcp.mcp_server.rendering import Rendered
from agentdb_mcp.mcp_server.tools.base import Operations, Tool
from agentdb_mcp.models import Scope
from agentdb_mcp.services.queries import waking_notes

ObjectType = Literal["table", "view", "sequence", "extension"]


class ListSchemas(Arguments):
    pass


class ListObjects(Arguments):
    schema_name: Name = Field(default="public", description="The schema to list.")
    object_type: ObjectType = Field(default="table", description="What to list.")


class GetObjectDetails(Arguments):
    object_name: Name = Field(description="The object's name, as list_objects gives it.")
    schema_name: Name = Field(default="public", description="The schema it is in.")
    object_type: ObjectType = Field(default="table", description="What it is.")


async def _list_schemas(do: Operations, scope: Scope, _: ListSchemas) -> Rendered:
    answers = await do.queries.catalog(do.tenant, scope, [catalog.schemas()])
    return rendering.listing(
        "schemas", rendering.as_objects(answers[0]), empty="There are no schemas.", notes=waking_notes(answers)
    )


async def _list_objects(do: Operations, scope: Scope, given: ListObjects) -> Rendered:
    statement = catalog.objects(given.schema_name, given.object_type)
    answers = await do.queries.catalog(do.tenant, scope, [statement])
    return rendering.listing(
        "objects",
        rendering.as_objects(answers[0]),
        empty=f"There are no {given.object_type}s in schema {given.schema_name}.",
        notes=waking_notes(answers),
    )


async def _get_object_details(do: Operations, scope: Scope, given: GetObjectDetails) -> Rendered:
    schema, name = given.schema_name, given.object_name
    if given.object_type == "extension":
        return await _extension_details(do, scope, name)
    reads = [catalog.relation(schema, name)]
    if given.object_type == "sequence":
        reads.append(catalog.sequence(schema, name))
    else:
        reads += [read(schema, name) for read in _RELATION_PARTS.values()]
    found, *parts = answers = await do.queries.catalog(do.tenant, scope, reads)
    notes = waking_notes(answers)
    if not found.rows:
        raise _not_found(given.object_type, f"{schema}.{name}")
    fields: dict[str, Any] = {"name": name, "schema": schema} | rendering.as_objects(found)[0]
    if given.object_type == "sequence":
        if not parts[0].rows:
            raise _not_found("sequence", f"{schema}.{name}")
        return rendering.details(fields | rendering.as_objects(parts[0])[0], notes)
    for key, part in zip(_RELATION_PARTS, parts, strict=True):
        if part.rows or key == "columns":
            fields[key] = rendering.as_objects(part)
    return rendering.details(fields, notes)


_RELATION_PARTS = {
    "columns": catalog.columns,
    "constraints": catalog.constraints,
    "indexes": catalog.indexes,
    "triggers": catalog.triggers,
}


async def _extension_details(do: Operations, scope: Scope, name: str) -> Rendered:
    answers = await do.queries.catalog(do.tenant, scope, [catalog.extension(name)])
    if not answers[0].rows:
        raise _not_found("extension", name)
    fields = {"name": name, "type": "extension"} | rendering.as_objects(answers[0])[0]
    return rendering.details(fields, waking_notes(answers))


def _not_found(kind: str, name: str) -> SqlError:
    return SqlError(
        f"There is no {kind} {name}.", hint="See what there is with list_schemas and list_objects.", sqlstate="42P01"
    )


TOOLS = (
    Tool(
        "list_schemas",
        "List schemas",
        "List the database's schemas and whose they are: `yours` (you may create in it), `system` or `other`.",
        ListSchemas,
        schemas.SCHEMAS,
        _list_schemas,
    ),
    Tool(
        "list_objects",
        "List tables, views, sequences or extensions",
        "List the objects of one type in a schema, with estimated rows, size in bytes and comment.",
        ListObjects,
        schemas.OBJECTS,
        _list_objects,
    ),
    Tool(
        "get_object_details",
        "Describe a table, view, sequence or extension",
        "Columns with types and defaults, constraints and keys, indexes, triggers; a view's definition.",
        GetObjectDetails,
        schemas.DETAILS,
        _get_object_details,
    ),
)
