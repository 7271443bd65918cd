"""The tools: what each is called, tells and does. Handlers get grouped services, never a client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from agentdb_mcp.errors import InvalidArgument, SqlError
from agentdb_mcp.execution import Statement, catalog
from agentdb_mcp.mcp_server import arguments as args
from agentdb_mcp.mcp_server import rendering, schemas
from agentdb_mcp.mcp_server.rendering import Rendered
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.policy import Policy
from agentdb_mcp.services import Queries, Usage
from agentdb_mcp.services.queries import waking_notes


@dataclass(frozen=True, slots=True)
class Operations:
    """What tools may do, for one tenant."""

    tenant: Tenant
    queries: Queries
    usage: Usage | None
    policy: Policy


Handler = Callable[[Operations, Scope, Any], Awaitable[Rendered]]


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    title: str
    description: str
    arguments: type[args.Arguments]
    output_schema: dict[str, Any]
    handler: Handler
    read_only: bool = True
    destructive: bool = False
    idempotent: bool = True


async def _list_schemas(do: Operations, scope: Scope, _: args.ListSchemas) -> Rendered:
    answers = await do.queries.catalog(do.tenant, scope, [catalog.schemas()])
    return rendering.listing(
        "schemas", rendering.as_objects(answers[0]), empty="There are no schemas.", notes=waking_notes(answers)
    )


async def _list_objects(do: Operations, scope: Scope, given: args.ListObjects) -> Rendered:
    statement = catalog.objects(given.schema_name, given.object_type)
    answers = await do.queries.catalog(do.tenant, scope, [statement])
    return rendering.listing(
        "objects",
        rendering.as_objects(answers[0]),
        empty=f"There are no {given.object_type}s in schema {given.schema_name}.",
        notes=waking_notes(answers),
    )


async def _get_object_details(do: Operations, scope: Scope, given: args.GetObjectDetails) -> Rendered:
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


async def _execute_sql(do: Operations, scope: Scope, given: args.ExecuteSql) -> Rendered:
    statements = [Statement(given.sql, given.params)]
    answer = await do.queries.execute(do.tenant, scope, statements, max_rows=given.max_rows)
    return rendering.result(answer.results[0], answer.budget_note, answer.notes)


async def _execute_transaction(do: Operations, scope: Scope, given: args.ExecuteTransaction) -> Rendered:
    statements = [Statement(item.sql, item.params) for item in given.statements]
    answer = await do.queries.execute(do.tenant, scope, statements, transaction=True)
    return rendering.results(answer.results, answer.budget_note, answer.notes)


async def _get_budget(do: Operations, _scope: Scope, _: args.GetBudget) -> Rendered:
    if do.usage is None:
        return rendering.unmanaged_budget()
    if do.tenant.user_id is None:
        raise InvalidArgument("The server does not know whose call this is.", hint="Set AGENTDB_USER_ID.")
    known = await do.usage.knows(do.tenant.user_id)
    report = await (do.usage.report(do.tenant.user_id) if known else do.usage.forecast())
    return rendering.budget(report, sorted(do.policy.statements.of(report.state).allow))


TOOLS = (
    Tool(
        "list_schemas",
        "List schemas",
        "List the database's schemas and whose they are: `yours` (you may create in it), `system` or `other`.",
        args.ListSchemas,
        schemas.SCHEMAS,
        _list_schemas,
    ),
    Tool(
        "list_objects",
        "List tables, views, sequences or extensions",
        "List the objects of one type in a schema, with estimated rows, size in bytes and comment.",
        args.ListObjects,
        schemas.OBJECTS,
        _list_objects,
    ),
    Tool(
        "get_object_details",
        "Describe a table, view, sequence or extension",
        "Columns with types and defaults, constraints and keys, indexes, triggers; a view's definition.",
        args.GetObjectDetails,
        schemas.DETAILS,
        _get_object_details,
    ),
    Tool(
        "execute_sql",
        "Run one SQL statement",
        "Run one Postgres statement, such as SELECT, INSERT, UPDATE, DELETE, CREATE TABLE or ALTER TABLE, and get its"
        " rows. It commits when it succeeds. Pass values through params as $1, $2, … instead of writing them into the"
        " SQL. The database is yours: create what you need in schema public.",
        args.ExecuteSql,
        schemas.RESULT,
        _execute_sql,
        read_only=False,
        destructive=True,
        idempotent=False,
    ),
    Tool(
        "execute_transaction",
        "Run several SQL statements, all or nothing",
        "Run statements in order in one transaction: if one fails, none takes effect. Do not write BEGIN or COMMIT.",
        args.ExecuteTransaction,
        schemas.RESULTS,
        _execute_transaction,
        read_only=False,
        destructive=True,
        idempotent=False,
    ),
    Tool(
        "get_budget",
        "See what is left of the month's budget",
        "The user's monthly limit over all databases, what is used, by database, and what is allowed now.",
        args.GetBudget,
        schemas.BUDGET,
        _get_budget,
    ),
)
