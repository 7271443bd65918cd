"""Trying a migration: its statements in one transaction that is rolled back, and what that shows.

In the database itself, not in a copy: the same rows, rights, statistics and neighbours, and nothing is left to remove
whoever dies. A copy on a cluster would share the agent's sealed role with the database, and each opening of the one
would end the sessions of the other. The price is that the locks of a trial are real while it runs; it runs no longer
than the migration itself may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from agentdb_mcp.errors import AgentDBError, DatabaseUnavailable
from agentdb_mcp.execution import Call, Statement, trial
from agentdb_mcp.models import Result, Scope, Tenant
from agentdb_mcp.schema_changes import (
    Change,
    Changes,
    Held,
    Lock,
    Part,
    Relation,
    compare,
    locked,
    rewritten,
    taken_along,
)
from agentdb_mcp.services.queries import Queries

# Of one of our reads; past that, what is told of the schema is not complete.
MAX_PARTS, MAX_BYTES = 10_000, 4_000_000
# The place of the first statement in what is run.
_FIRST = 4


@dataclass(frozen=True, slots=True)
class Step:
    """What one statement came to; `tag` and `duration_ms` of one that ran, `error` of the one that failed."""

    number: int
    tag: str | None = None
    duration_ms: float | None = None
    error: AgentDBError | None = None
    locks: tuple[Lock, ...] = ()
    rewritten: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        return "failed" if self.error is not None else "not run" if self.tag is None else "ok"


@dataclass(frozen=True, slots=True)
class MigrationTrial:
    """`at_commit` is what would fail only then; `changes` are known where everything else succeeded.

    `taken_along` is what went without being named. `complete` is False where there was more than could be read.
    """

    steps: tuple[Step, ...]
    at_commit: AgentDBError | None = None
    changes: Changes | None = None
    taken_along: tuple[Change, ...] = ()
    complete: bool = True
    budget_note: str | None = None

    @property
    def succeeded(self) -> bool:
        return self.at_commit is None and all(step.outcome == "ok" for step in self.steps)


@dataclass(frozen=True, slots=True)
class MigrationTrials:
    queries: Queries

    async def run(self, tenant: Tenant, scope: Scope, statements: Sequence[Statement]) -> MigrationTrial:
        """Raises AgentDBError where nothing of it could run: the gate, the budget or the database said no."""
        each = chain.from_iterable((statement, trial.locks()) for statement in statements)
        # parts, relations, path, locks; then a statement and its locks each; then what COMMIT checks, and parts again.
        script = [
            *(trial.parts(), trial.relations(), trial.keep_path(), trial.locks()),
            *each,
            *(trial.put_off(), trial.same_path(), trial.parts()),
        ]
        ours = frozenset(range(len(script))) - {_FIRST + 2 * place for place in range(len(statements))}
        done: dict[int, Result] = {}

        def around(call: Call) -> Call:
            limits = replace(
                call.limits,
                max_rows=max(call.limits.max_rows, MAX_PARTS),
                max_bytes=max(call.limits.max_bytes, MAX_BYTES),
            )
            return replace(call, statements=script, limits=limits, done=done.__setitem__, ours=True, unasked=ours)

        error: AgentDBError | None = None
        note: str | None = None
        try:
            answer = await self.queries.execute(tenant, scope, statements, transaction=True, keep=False, around=around)
            note = answer.budget_note
        except AgentDBError as caught:
            # What our own reads fail with is nothing that the statements did; what COMMIT would check is.
            if isinstance(caught, DatabaseUnavailable) or len(done) in ours - {len(script) - 3}:
                raise
            error = caught
        return replace(_told(statements, script, done, error), budget_note=note)


def _told(
    statements: Sequence[Statement], script: Sequence[Statement], done: Mapping[int, Result], error: AgentDBError | None
) -> MigrationTrial:
    relations = _relations(done[1])
    steps: list[Step] = []
    before = _held(done[_FIRST - 1])
    for number in range(1, len(statements) + 1):
        place = _FIRST + 2 * (number - 1)
        if place not in done:
            failed = error if place == len(done) else None
            steps.append(Step(number, error=failed))
            continue
        after = _held(done[place + 1]) if place + 1 in done else before
        ran = done[place]
        steps.append(
            Step(
                number,
                ran.command_tag,
                ran.duration_ms,
                locks=tuple(locked(before, after, relations)),
                rewritten=tuple(rewritten(before, after, relations)),
            )
        )
        before = after
    complete = not done[0].truncated and not done[1].truncated
    if error is not None:
        at_commit = error if all(step.outcome == "ok" for step in steps) else None
        return MigrationTrial(tuple(steps), at_commit, complete=complete)
    changes = compare(_parts(done[0]), _parts(done[len(script) - 1]))
    along = taken_along(changes.removed, [statement.sql for statement in statements])
    complete = complete and not done[len(script) - 1].truncated
    return MigrationTrial(tuple(steps), None, changes, tuple(along), complete)


def _parts(read: Result) -> list[Part]:
    return [Part(str(kind), str(name), str(definition or "")) for kind, name, definition in read.rows]


def _relations(read: Result) -> dict[int, Relation]:
    return {
        _whole(oid): Relation(str(name), _whole(file), None if rows is None else _whole(rows))
        for oid, name, file, rows in read.rows
    }


def _held(read: Result) -> Held:
    locks = frozenset((_whole(oid), str(mode)) for oid, mode, _ in read.rows)
    return Held(locks, {_whole(oid): None if file is None else _whole(file) for oid, _, file in read.rows})


def _whole(value: object) -> int:
    return int(str(value))
