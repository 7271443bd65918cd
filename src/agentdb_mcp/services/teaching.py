"""What an agent is told of an error beyond Postgres's own words: its place, names that were meant, the next step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio

from agentdb_mcp import hints
from agentdb_mcp.errors import AgentDBError, SqlError
from agentdb_mcp.execution import Statement, names
from agentdb_mcp.hints import Lookup
from agentdb_mcp.models import Result, StatementFacts

# The catalog read's own limit, and how long it is waited for in all: a hint is worth no more.
READ_S, WAIT_S = 0.5, 1.0

Read = Callable[[Statement], Awaitable[Result]]


async def teach(error: SqlError, statements: Sequence[Statement], facts: Sequence[StatementFacts], read: Read) -> None:
    """Add to the error what helps. Fails never, and costs one catalog read at most."""
    said = error.diagnosis
    if said is None or error.sqlstate is None:
        return
    index = min(said.statement, len(statements) - 1)
    sql = statements[index].sql
    error.hint = hints.advice(error.sqlstate, said, sql, error.position) or error.hint
    shown = hints.place(sql, error.position) if error.position else None
    lines = [shown] if shown else []
    if said.context and "parameter $" not in said.context:  # in which function, and where there
        lines.append(hints.visible(said.context))
    wanted = hints.lookup(error.sqlstate, said, facts[index].objects)
    if wanted is not None:
        found = await _look_up(wanted, read)
        lines += found
        if any('"' in line for line in found) and wanted.kind in {"relation", "column", "function"}:
            error.hint = f"{error.hint} Names with capitals, blanks or signs need double quotes, as shown."
    error.context = "\n".join(lines) or None


async def _look_up(wanted: Lookup, read: Read) -> list[str]:
    with anyio.move_on_after(WAIT_S):
        try:
            result = await read(_statement(wanted))
        except AgentDBError:
            return []
        keys = [column.name for column in result.columns]
        rows = [{key: None if value is None else str(value) for key, value in zip(keys, row, strict=True)}
                for row in result.rows]  # fmt: skip
        return await anyio.to_thread.run_sync(hints.told, wanted, rows)
    return []


def _statement(wanted: Lookup) -> Statement:
    table = wanted.tables[0] if wanted.tables else None
    match wanted.kind:
        case "relation":
            return names.relations(wanted.name, wanted.schema)
        case "column" | "same column":
            return names.columns(wanted.name, wanted.tables)
        case "function":
            return names.functions(wanted.name, wanted.schema)
        case "constraint":
            return names.constraint(wanted.name, wanted.schema, table, wanted.type_name)
        case "not null":
            return names.column(wanted.name, wanted.schema, table or "")
