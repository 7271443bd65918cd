"""The tool that tries a migration and keeps nothing of it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from agentdb_mcp.execution import Statement
from agentdb_mcp.mcp_server import rendering, schemas
from agentdb_mcp.mcp_server.arguments import Arguments
from agentdb_mcp.mcp_server.encoding import compact
from agentdb_mcp.mcp_server.rendering import Rendered
from agentdb_mcp.mcp_server.tools.base import Operations, Tool
from agentdb_mcp.models import Scope
from agentdb_mcp.schema_changes import Change
from agentdb_mcp.services import MigrationTrial, MigrationTrials
from agentdb_mcp.services.migration_trials import Step

WAY = (
    "It ran in the database itself, in one transaction that was rolled back: nothing is kept. While it ran, other"
    " sessions waited for the locks that are told; numbers taken from sequences are used up."
)
# Changes that are told of each sort; definitions are cut.
MOST_CHANGES, MOST_TEXT = 100, 300


class TriedStatement(Arguments):
    sql: str = Field(min_length=1, description="One SQL statement.")
    params: list[Any] = Field(default=[], max_length=1000, description="As in execute_sql.")


class TryMigration(Arguments):
    statements: list[TriedStatement] = Field(min_length=1, description="In order.")


async def _try_migration(do: Operations, scope: Scope, given: TryMigration) -> Rendered:
    statements = [Statement(item.sql, item.params) for item in given.statements]
    trial = await MigrationTrials(do.queries).run(do.tenant, scope, statements)
    fields: dict[str, Any] = {
        "succeeded": trial.succeeded,
        "way": WAY,
        "statements": [_step(step) for step in trial.steps],
    }
    if trial.at_commit is not None:
        fields["at_commit"] = trial.at_commit.as_dict()
    if trial.changes is not None:
        fields["changes"] = {
            "added": _changes(trial.changes.added),
            "removed": _changes(trial.changes.removed),
            "changed": _changes(trial.changes.changed),
        }
        fields["taken_along"] = [f"{change.kind} {change.name}" for change in trial.taken_along[:MOST_CHANGES]]
    notes = [*_notes(trial), *([trial.budget_note] if trial.budget_note else [])]
    if notes:
        fields["notes"] = notes
    body = {key: value for key, value in fields.items() if key not in {"succeeded", "way", "notes"}}
    head = "All of it would succeed." if trial.succeeded else "It would fail, and nothing of it would take effect."
    return rendering.told(fields, "\n".join([head, rendering.framed(compact(body)), *notes, WAY]))


def _step(step: Step) -> dict[str, Any]:
    fields: dict[str, Any] = {"number": step.number, "outcome": step.outcome}
    if step.tag is not None:
        fields |= {"command_tag": step.tag, "duration_ms": step.duration_ms}
    if step.error is not None:
        fields["error"] = step.error.as_dict()
    if step.locks:
        fields["locks"] = [
            {"relation": lock.name, "blocks": lock.blocks} | ({} if lock.rows is None else {"rows": lock.rows})
            for lock in step.locks
        ]
    if step.rewritten:
        fields["rewritten"] = list(step.rewritten)
    return fields


def _changes(changes: tuple[Change, ...]) -> list[dict[str, Any]]:
    return [
        {"kind": change.kind, "name": change.name}
        | ({"before": change.before[:MOST_TEXT]} if change.before else {})
        | ({"after": change.after[:MOST_TEXT]} if change.after else {})
        for change in changes[:MOST_CHANGES]
    ]


def _notes(trial: MigrationTrial) -> list[str]:
    notes = []
    if not trial.complete:
        notes.append("The schema is larger than could be read: the changes are not complete.")
    if trial.changes and max(map(len, (trial.changes.added, trial.changes.removed, trial.changes.changed))) > (
        MOST_CHANGES
    ):
        notes.append(f"Only {MOST_CHANGES} changes of each sort are told.")
    if trial.taken_along:
        notes.append("What taken_along names would go without any statement naming it.")
    if any(step.rewritten for step in trial.steps):
        notes.append("A rewritten table is locked for as long as writing all its rows takes.")
    return notes


TOOLS = (
    Tool(
        "try_migration",
        "Try schema changes without keeping them",
        "Run statements in a transaction that is rolled back: errors, times, locks, rewrites, what CASCADE takes along,"
        " how the schema would differ.",
        TryMigration,
        schemas.TRIAL,
        _try_migration,
        read_only=False,
    ),
)
