"""MCP prompts: how to go about the common jobs with these tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, GetPromptResult, Prompt, PromptArgument, PromptMessage, TextContent

from agentdb_mcp.models import Scope

_ARGUMENT_MAX = 10_000


@dataclass(frozen=True, slots=True)
class _Job:
    """`task` names the one argument, if it has one, as `{it}`; `{database}` is the database's name."""

    name: str
    title: str
    description: str
    task: str
    argument: tuple[str, str] | None = None


_JOBS = (
    _Job(
        "design_table",
        "Design a table",
        "Look at what exists, propose a table for what is to be stored, create it once it is agreed.",
        "Design one or more Postgres tables in the {database} database for this: {it}\n\n"
        "1. See what exists with get_schema; reuse its tables, names and types where they fit.\n"
        "2. Propose the DDL: `bigint GENERATED ALWAYS AS IDENTITY` keys, `timestamptz` for times, `text` rather than"
        " varchar(n), `numeric` for money, NOT NULL wherever a value must be, CHECK constraints for what must hold,"
        " foreign keys with an index on their columns, jsonb only for what has no fixed shape, a COMMENT.\n"
        "3. Say which questions it answers fast, and the index that each needs; no index without a question.\n"
        "4. Show it and wait for agreement; then create all of it with one execute_transaction, and read it back with"
        " get_schema.",
        ("purpose", "What is to be stored, and what will be asked of it."),
    ),
    _Job(
        "find_slow_queries",
        "Find slow queries and what would help",
        "Rank what takes the most time, explain the worst, and test an index before it is made.",
        "Find what is slow in the {database} database, and what would help.\n\n"
        "1. get_top_queries with sort_by `resources`; if there are no statistics, follow its hint.\n"
        "2. For the worst three: explain_query, with analyze only where it reads and is quick enough; say in words"
        " where the time goes.\n"
        "3. analyze_workload_indexes, or analyze_query_indexes for these; check each proposal with explain_query and"
        " hypothetical_indexes. analyze_db_health for bloat, missing statistics and unused indexes.\n"
        "4. Report a table: query, share of time, cause, remedy, cost before and after. Create nothing before it is"
        " agreed; every index costs space and writes.",
    ),
    _Job(
        "safe_migration",
        "Change the schema safely",
        "Plan a change, try it without keeping it, make a way back, then run it.",
        "Change the {database} database: {it}\n\n"
        "1. See what is there with get_schema, and how many rows it concerns; look for views, functions and foreign"
        " keys that depend on it.\n"
        "2. Write the statements. Prefer changes that need no rewrite of the table: add a column with a constant"
        " default, add constraints NOT VALID and validate them afterwards; never drop what the other agents of the"
        " user may still read without saying so.\n"
        "3. try_migration with them, and mend what it reports.\n"
        "4. Show the statements, what they change, and how to go back; wait for agreement.\n"
        "5. create_checkpoint if data could be lost and checkpoints are available; then one execute_transaction; then"
        " check the result with get_schema and a count of the rows.",
        ("change", "What is to be different afterwards."),
    ),
)
_BY_NAME = {job.name: job for job in _JOBS}
_DATABASE = PromptArgument(name="database", description="agent (the default) or global.", required=False)


def list_prompts(fixed_scope: Scope | None) -> list[Prompt]:
    """With the argument `database` unless the scope is fixed."""
    return [
        Prompt(
            name=job.name,
            title=job.title,
            description=job.description,
            arguments=[
                *(
                    [PromptArgument(name=job.argument[0], description=job.argument[1], required=True)]
                    if job.argument
                    else []
                ),
                *([] if fixed_scope else [_DATABASE]),
            ],
        )
        for job in _JOBS
    ]


def get_prompt(name: str, given: Mapping[str, str], fixed_scope: Scope | None) -> GetPromptResult:
    """One message from the user. Raises MCPError naming what is wrong."""
    job = _BY_NAME.get(name)
    if job is None:
        raise MCPError(INVALID_PARAMS, f"There is no prompt {name[:80]!r}; prompts/list names them.")
    arguments = dict(given)
    database = str(fixed_scope) if fixed_scope else arguments.pop("database", str(Scope.AGENT))
    if database not in tuple(Scope):
        raise MCPError(INVALID_PARAMS, "database must be 'agent' or 'global'.")
    it = _only_argument(job, arguments)
    text = job.task.replace("{database}", database).replace("{it}", it)
    if not fixed_scope:
        text += f'\n\nGive `database: "{database}"` to every tool that takes it.'
    return GetPromptResult(
        description=job.description, messages=[PromptMessage(role="user", content=TextContent(text=text))]
    )


def _only_argument(job: _Job, arguments: dict[str, str]) -> str:
    name = job.argument[0] if job.argument else None
    value = arguments.pop(name, "").strip() if name else ""
    if arguments:
        raise MCPError(INVALID_PARAMS, f"The prompt {job.name} takes no argument {next(iter(arguments))[:80]!r}.")
    if name and not 0 < len(value) <= _ARGUMENT_MAX:
        raise MCPError(INVALID_PARAMS, f"The prompt {job.name} needs {name}, of up to {_ARGUMENT_MAX:,} characters.")
    return value
