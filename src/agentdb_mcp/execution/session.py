"""One call in a connection: preamble, the caller's own text by the extended protocol, end and reset.

Three round trips: preamble, parse and describe · bind and execute · rollback with reset; a call that writes commits in
one of its own, so that nothing which fails after it is taken for its failure. The snapshot is taken before the
caller's text runs, so a read-only transaction cannot be lifted; limits set before a statement starts are not undone by
it; nothing of the session outlives the call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import anyio
import asyncpg

from agentdb_mcp.errors import (
    AgentDBError,
    DatabaseUnavailable,
    ResultTooLarge,
    SqlError,
    StatementRefused,
    StatementTimeout,
)
from agentdb_mcp.execution import wire
from agentdb_mcp.execution.errors import CONNECTION_ERRORS, connection_error, statement_error
from agentdb_mcp.execution.guard import GuardedConnection
from agentdb_mcp.execution.types import OURS, TypeInfo
from agentdb_mcp.execution.wire import Sink
from agentdb_mcp.models import Limits, Result
from agentdb_mcp.telemetry import told, traced

# What DISCARD ALL does, in parts: as a whole it refuses to share a text with the COMMIT.
RESET = (
    "CLOSE ALL; RESET SESSION AUTHORIZATION; RESET ALL; DEALLOCATE ALL; UNLISTEN *;"
    " SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD PLANS; DISCARD TEMP; DISCARD SEQUENCES"
)
# Command tags after which the transaction is not the one that we began.
TRANSACTION_TAGS = frozenset(
    {"BEGIN", "START TRANSACTION", "COMMIT", "ROLLBACK", "PREPARE TRANSACTION", "COMMIT PREPARED", "ROLLBACK PREPARED"}
)
# Bytes that a call may receive: rows in Postgres's own form, notices and errors included.
RECEIVE_FACTOR, RECEIVE_SLACK = 4, 1_000_000
CATALOG_PATH = "pg_catalog, pg_temp"
AGENT_PATH = "public, pg_temp, extensions"


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL text, byte for byte as the caller wrote it, with the values of $1, $2, …"""

    sql: str
    params: Sequence[object] = ()


# What is done with a session that is ours for a call, and the types met in its database.
Work = Callable[[GuardedConnection, dict[int, TypeInfo]], Awaitable[Result]]


@dataclass(frozen=True, slots=True)
class Call:
    """What runs in one transaction: `catalog` marks our own reads, which get no path but Postgres's own.

    With a `sink` rows are passed on as they come, of any number, and none are in the answer. Without `keep` nothing of
    it takes effect. `work` is done in the place of statements, within one statement's limits.
    `undo` runs after the transaction, however that ended, for what a rollback leaves in the session; a call that is
    `ours` has statements that its caller did not count. `done` is told each statement's place and answer as it comes;
    `unasked` are the places of reads that are no part of the answer.
    """

    statements: Sequence[Statement]
    limits: Limits
    read_only: bool = True
    keep: bool = True
    catalog: bool = False
    sink: Sink | None = None
    work: Work | None = None
    undo: str = ""
    ours: bool = False
    done: Callable[[int, Result], object] = lambda _place, _result: None
    unasked: frozenset[int] = frozenset()

    @property
    def seconds(self) -> float:
        return self.limits.timeout_s * max(1, len(self.statements))

    @property
    def commits(self) -> bool:
        return self.keep and not self.read_only


class BrokenSession(Exception):
    """The connection can no longer be trusted: end its backend. Carries what the caller is told."""

    def __init__(self, error: AgentDBError) -> None:
        super().__init__(error.message)
        self.error = error


class StaleSession(BrokenSession):
    """As BrokenSession, and nothing of the caller's has run: a fresh connection may run the call."""


async def run_call(
    connection: GuardedConnection,
    call: Call,
    catalog: dict[int, TypeInfo],
    begun: Callable[[], None] = lambda: None,
    *,
    sealed: bool,
    grace_s: float,
) -> list[Result]:
    """Run the call; all or nothing. Raises AgentDBError after a clean reset, BrokenSession otherwise.

    `begun` is called once the database has answered and the caller's own is about to run.

    Postgres ends a statement at its limit. The deadline, `grace_s` later, ends what does not listen (and COPY, which
    hangs); a commit and a reset get at least `grace_s` of their own. A session whose reset failed is closed.
    """
    results: list[Result] = []
    deadline = anyio.current_time() + call.seconds + grace_s
    connection.guard.begin(RECEIVE_FACTOR * call.limits.max_bytes + RECEIVE_SLACK)
    try:
        with anyio.CancelScope(deadline=deadline) as running:
            await _run_all(connection, call, catalog, results, begun, sealed=sealed)
        if running.cancelled_caught:
            raise BrokenSession(_ended(call, grace_s))
        if call.commits:
            await _commit(connection, call.limits.timeout_s, deadline, grace_s)
    except (*CONNECTION_ERRORS, asyncpg.PostgresError, AgentDBError) as error:
        if connection.guard.exceeded:
            raise BrokenSession(error if isinstance(error, ResultTooLarge) else _too_large()) from None
        ours = error if isinstance(error, AgentDBError) else statement_error(error)
        if len(call.statements) > 1 and not call.ours:
            _name_statement(ours, len(results), len(call.statements))
        if not await _reset(connection, "ROLLBACK; " + call.undo, grace_s):
            raise BrokenSession(ours) from None
        raise ours from None
    if not await _reset(connection, ("" if call.commits else "ROLLBACK; ") + call.undo, grace_s):
        connection.terminate()  # what the call did is done: this costs the session, not the answer
    return results


def _name_statement(error: AgentDBError, index: int, count: int) -> None:
    error.message = f"Statement {index + 1} of {count}: {error.message}"
    if isinstance(error, SqlError) and error.diagnosis:
        error.diagnosis = replace(error.diagnosis, statement=index)


def _preamble(call: Call, *, sealed: bool) -> list[str]:
    path = [f"SET LOCAL search_path = {CATALOG_PATH if call.catalog else AGENT_PATH}"] if call.catalog or sealed else []
    return [f"BEGIN READ {'ONLY' if call.read_only else 'WRITE'}", *path, *_limit(call.limits.timeout_s)]


async def _begin(connection: GuardedConnection, preamble: Sequence[str]) -> None:
    """For work that sends messages of its own. A connection that died while it was idle shows here."""
    try:
        await connection.execute("; ".join(preamble))
    except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
        raise StaleSession(connection_error(error)) from None


def _limit(seconds: float) -> list[str]:
    """A fresh time limit before each statement. The SELECT takes the snapshot: nothing lifts READ ONLY after it."""
    return [_set_timeout(seconds), "SELECT 1"]


def _set_timeout(seconds: float) -> str:
    """In tenths from a second on: before Postgres 18 each value takes a place of its own in pg_stat_statements."""
    milliseconds = max(1, int(seconds * 1000))
    if milliseconds > 1000:
        milliseconds -= milliseconds % 100
    return f"SET LOCAL statement_timeout = {milliseconds}"


async def _commit(connection: GuardedConnection, timeout_s: float, deadline: float, grace_s: float) -> None:
    """Commit, after what was put off until then has run: a COMMIT is under no limit of Postgres's own, that is."""
    left = max(deadline - anyio.current_time(), grace_s)
    limit = min(timeout_s, max(left - grace_s, grace_s / 2))
    try:
        with anyio.fail_after(left):
            await connection.execute(f"{_set_timeout(limit)}; SET CONSTRAINTS ALL IMMEDIATE; COMMIT")
    except CONNECTION_ERRORS:
        unknown = DatabaseUnavailable(
            "The connection ended, or no answer came, while the call was being committed:"
            " it may have taken effect or not.",
            hint="Look whether it took effect before running it again.",
        )
        raise BrokenSession(unknown) from None


async def _reset(connection: GuardedConnection, end: str, grace_s: float) -> bool:
    """End the transaction and leave nothing in the session; False if that failed."""
    with anyio.move_on_after(grace_s):
        try:
            await connection.execute(end + RESET)
        except (*CONNECTION_ERRORS, asyncpg.PostgresError):
            return False
        return True
    return False


async def _run_all(
    connection: GuardedConnection,
    call: Call,
    catalog: dict[int, TypeInfo],
    results: list[Result],
    begun: Callable[[], None],
    *,
    sealed: bool,
) -> None:
    if call.work is not None:
        await _begin(connection, _preamble(call, sealed=sealed))
        begun()
        results.append(await call.work(connection, catalog))
    for statement in call.statements:
        if results:
            connection.guard.send_ahead(_limit(call.limits.timeout_s))
            results.append(await _run_statement(connection, statement, call, catalog))
        else:
            results.append(await _run_first(connection, statement, call, catalog, begun, sealed=sealed))
        call.done(len(results) - 1, results[-1])


async def _run_first(
    connection: GuardedConnection,
    statement: Statement,
    call: Call,
    catalog: dict[int, TypeInfo],
    begun: Callable[[], None],
    *,
    sealed: bool,
) -> Result:
    """After the preamble, in one round trip with it. A connection that died while it was idle shows here.

    Reading a text can already run what its author made (a domain's CHECK, for a literal of that type), so it must not
    be read where the preamble failed: see `send_ahead`.
    """
    try:
        connection.guard.send_ahead(_preamble(call, sealed=sealed), begun)
        return await _run_statement(connection, statement, call, catalog)
    except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
        if connection.guard.sent_is_done:
            raise
        raise StaleSession(connection_error(error)) from None


@traced("postgresql", "client", told.POSTGRES, told=told.of_statement)
async def _run_statement(
    connection: GuardedConnection, statement: Statement, call: Call, catalog: dict[int, TypeInfo]
) -> Result:
    result = await wire.run(
        connection,
        statement.sql + OURS if call.catalog else statement.sql,
        statement.params,
        limits=call.limits,
        stop_early=call.read_only,
        catalog=catalog,
        sink=call.sink,
    )
    in_transaction = connection.is_closed() or connection.is_in_transaction()
    if result.command_tag in TRANSACTION_TAGS or not in_transaction:
        raise BrokenSession(
            StatementRefused(
                "The statement began or ended a transaction of its own.",
                hint="Each call is one transaction; for several statements in one use execute_transaction.",
            )
        )
    return result


def _ended(call: Call, grace_s: float) -> StatementTimeout:
    return StatementTimeout(
        f"The call did not end within {call.seconds + grace_s:g} s and was terminated.",
        hint="Make it smaller: add a WHERE or LIMIT, use an index, or split it.",
    )


def _too_large() -> ResultTooLarge:
    return ResultTooLarge(
        "The answer is larger than a call may receive; the statement was ended.",
        hint="Select fewer columns or rows, cut long values with left() or substring(), or aggregate.",
    )
