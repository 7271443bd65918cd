"""Tools that run the agent's own SQL."""

from __future__ import annotations

from pydantic import Field

from agentdb_mcp.execution import Statement
from agentdb_mcp.mcp_server import rendering, schemas
from agentdb_mcp.mcp_server.arguments import Arguments, Handle, Params, Sql
from agentdb_mcp.mcp_server.rendering import Rendered
from agentdb_mcp.mcp_server.tools.base import Operations, Tool
from agentdb_mcp.models import Scope


class ExecuteSql(Arguments):
    sql: Sql
    params: Params = Field(default=[])
    max_rows: int | None = Field(default=None, ge=1, description="Rows of one page; get_rows gives the next.")


class GetRows(Arguments):
    handle: Handle
    max_rows: int | None = Field(default=None, ge=1, description="Rows of this page.")


class TransactionStatement(Arguments):
    sql: Sql
    params: Params = Field(default=[], description="As in execute_sql.")


class ExecuteTransaction(Arguments):
    statements: list[TransactionStatement] = Field(min_length=1, description="In order.")


async def _execute_sql(do: Operations, scope: Scope, given: ExecuteSql) -> Rendered:
    return rendering.page(
        await do.pages.first(do.tenant, scope, Statement(given.sql, given.params), given.max_rows),
        do.policy.limits.held_s,
    )


async def _get_rows(do: Operations, scope: Scope, given: GetRows) -> Rendered:
    return rendering.page(await do.pages.next(do.tenant, scope, given.handle, given.max_rows), do.policy.limits.held_s)


async def _execute_transaction(do: Operations, scope: Scope, given: ExecuteTransaction) -> Rendered:
    statements = [Statement(item.sql, item.params) for item in given.statements]
    return rendering.pages(await do.pages.transaction(do.tenant, scope, statements), do.policy.limits.held_s)


TOOLS = (
    Tool(
        "execute_sql",
        "Run one SQL statement",
        "Run one Postgres statement and get its rows. It commits when it succeeds. Pass values through params as $1,"
        " $2, … instead of writing them into the SQL. The database is yours: create what you need in schema public.",
        ExecuteSql,
        schemas.RESULT,
        _execute_sql,
        read_only=False,
        destructive=True,
        idempotent=False,
    ),
    Tool(
        "get_rows",
        "Get the next rows of an answer",
        "The next rows of an answer, or the rest of a long value, by its handle; nothing runs again.",
        GetRows,
        schemas.PAGE,
        _get_rows,
    ),
    Tool(
        "execute_transaction",
        "Run several SQL statements, all or nothing",
        "Run statements in order in one transaction: if one fails, none takes effect. Do not write BEGIN or COMMIT.",
        ExecuteTransaction,
        schemas.RESULTS,
        _execute_transaction,
        read_only=False,
        destructive=True,
        idempotent=False,
    ),
)
