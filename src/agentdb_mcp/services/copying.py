"""A query's rows of one of the tenant's databases into a table of the other: judged, paid for and recorded on both."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, replace

import anyio

from agentdb_mcp import gate
from agentdb_mcp.errors import AgentDBError, InvalidArgument, SqlError, StatementTimeout
from agentdb_mcp.execution import Call, Mode, Slot, Statement, Transfer
from agentdb_mcp.execution.copying import Abandoned
from agentdb_mcp.models import Column, Kind, Limits, Result, Scope, StatementFacts, Tenant
from agentdb_mcp.services.calls import Calls, waking_notes
from agentdb_mcp.services.databases import OpenDatabase
from agentdb_mcp.services.recording import Entry, noted_in, recorded
from agentdb_mcp.services.rows import Table, qualified
from agentdb_mcp.services.spending import Allowance

# Rows so far, and that in words; the number grows from one to the next.
Report = Callable[[int, str], Awaitable[None]]
REPORT_S = 1.0
READS = frozenset({Kind.READ, Kind.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Copied:
    """`columns` with the table's types; `bytes` is what was sent, as text; `remarks` hold names from the databases."""

    table: Table
    scope: Scope
    rows: int
    bytes: int
    columns: tuple[Column, ...]
    duration_ms: float
    budget_note: str | None
    notes: tuple[str, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two databases, what may be spent there, and its entry in the audit log."""

    database: OpenDatabase
    allowance: Allowance
    entry: Entry | None
    failing: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class Copying:
    calls: Calls

    async def copy(self, tenant: Tenant, source: Scope, query: str, table: Table, mode: Mode, report: Report) -> Copied:
        """Copy the rows into (schema, table) of the database that is not `source`, all or nothing.

        Raises AgentDBError.
        """
        if table[0].startswith("pg_temp"):
            raise InvalidArgument("A temporary table ends with the call.", hint="Name another schema, or none.")
        if mode == "create" and "." in table[1]:
            raise InvalidArgument(
                f"to_table is a table's name without its schema (got {table[1]!r}).",
                hint="Name the schema in to_schema; a table with a dot in its name is made with CREATE TABLE.",
            )
        target = Scope.GLOBAL if source is Scope.AGENT else Scope.AGENT
        writes, calls = equivalents(table, mode), self.calls
        with (
            recorded(calls.recorder, tenant, target, writes) as written,
            recorded(calls.recorder, tenant, source, [Statement(query)]) as read,
            calls.stream(tenant),
        ):
            started = time.perf_counter()
            facts = await calls.classify(query)
            if facts.kinds - READS:
                raise InvalidArgument(
                    f"The query must read, and it does more ({facts.why}).",
                    hint="Write a SELECT with the rows to copy.",
                )
            async with self._sides(tenant, source, target, read, written) as (reading, writing):
                calls.decide([facts], reading.database, reading.allowance, transaction=False)
                writing = await self._judged(writes, writing)
                text = gate.read_statement(query, calls.text_limits).text
                seconds = min(reading.allowance.seconds, writing.allowance.seconds)
                limits = calls.policy.limits
                transfer = Transfer(text, target, table, mode, max_bytes=limits.copy_max_bytes, patience_s=seconds)
                with closing(transfer):
                    results = await self._run(tenant, transfer, reading, writing, seconds, report)
        return Copied(
            table,
            target,
            int(results[-1].command_tag.rpartition(" ")[2]),
            transfer.bytes,
            transfer.columns,
            round((time.perf_counter() - started) * 1000, 3),
            writing.allowance.note,
            waking_notes(results),
            transfer.notes,
        )

    @asynccontextmanager
    async def _sides(
        self, tenant: Tenant, source: Scope, target: Scope, read: Entry | None, written: Entry | None
    ) -> AsyncIterator[tuple[_Side, _Side]]:
        """Both databases with what they may spend. Who holds some of a budget does not wait for more of it."""
        wanted_s, calls = self.calls.policy.limits.copy_timeout_s, self.calls
        async with AsyncExitStack() as held:
            first = await calls.databases.open(tenant, source)
            second = await calls.databases.open(tenant, target)
            reading = await held.enter_async_context(calls.allowance(first, wanted_s))
            with noted_in(written):
                writing = await held.enter_async_context(calls.allowance(second, wanted_s, patient=False))
            yield (
                _Side(first, reading, read, f"The query failed in the {source} database; nothing was copied."),
                _Side(second, writing, written, f"The {target} database did not take the rows; nothing was copied."),
            )

    async def _judged(self, writes: list[Statement], writing: _Side) -> _Side:
        """The side with what the gate says of statements that would do the same."""
        with noted_in(writing.entry):
            facts: list[StatementFacts] = [await self.calls.classify(statement.sql) for statement in writes]
        database, allowance = writing.database, writing.allowance
        decisions = [self.calls.decide([fact], database, allowance, transaction=False) for fact in facts]
        return replace(writing, read_only=any(decision.read_only for decision in decisions))

    async def _run(
        self, tenant: Tenant, transfer: Transfer, reading: _Side, writing: _Side, seconds: float, report: Report
    ) -> list[Result]:
        """Both sessions until both have ended; the failure that is not of the other's making is the copy's."""
        limits = self.calls.limits()
        limits = Limits(seconds, limits.max_rows, limits.max_bytes)
        failures, reader, progress = list[AgentDBError](), anyio.CancelScope(), _Progress(transfer, report)
        results: dict[Scope, Result] = {}

        async def run(side: _Side, call: Call, slot: Slot) -> None:
            with noted_in(side.entry):
                try:
                    (results[side.database.scope],) = await self.calls.run(tenant, side.database, call, slot)
                except AgentDBError as error:
                    failures.append(_explained(error, side))
                    transfer.abandon()

        async def read(slot: Slot) -> None:
            with reader:
                await run(reading, Call((), limits, work=transfer.read), slot)

        async def write(slot: Slot) -> None:
            await run(writing, Call((), limits, read_only=writing.read_only, work=transfer.write), slot)
            if failures and not transfer.reader_listens:
                reader.cancel()

        targets = reading.database.target, writing.database.target
        async with self.calls.pools.two_slots(*targets) as (of_reader, of_writer), anyio.create_task_group() as group:
            group.start_soon(progress.keep_telling)
            async with anyio.create_task_group() as both:
                both.start_soon(read, of_reader)
                both.start_soon(write, of_writer)
            group.cancel_scope.cancel()
        if failures:
            raise next((error for error in failures if not isinstance(error, Abandoned)), failures[0])
        with anyio.move_on_after(REPORT_S):
            await progress.tell()
        return [results[side.database.scope] for side in (reading, writing)]


def equivalents(table: Table, mode: Mode) -> list[Statement]:
    """Statements that do to the table what a copy does: what the gate judges and the audit log knows it by."""
    name = qualified(table)
    insert = Statement(f"INSERT INTO {name} DEFAULT VALUES")
    if mode == "create":
        return [Statement(f"CREATE TABLE {name} ()"), insert]
    return [Statement(f"DELETE FROM {name}"), insert] if mode == "replace" else [insert]


def _explained(error: AgentDBError, side: _Side) -> AgentDBError:
    if isinstance(error, SqlError | StatementTimeout):
        until = side.allowance.until if isinstance(error, StatementTimeout) and side.allowance.lowered else ""
        error.hint = " ".join(part for part in (side.failing, error.hint, until) if part)
    return error


@dataclass(slots=True)
class _Progress:
    """Tells how far it is; whoever is slow to listen holds nothing up."""

    transfer: Transfer
    report: Report
    _told: int = -1

    async def keep_telling(self) -> None:
        """Until cancelled."""
        while True:
            await self.tell()
            await anyio.sleep(REPORT_S)

    async def tell(self) -> None:
        rows = self.transfer.rows
        if rows > self._told:
            self._told = rows
            await self.report(rows, f"{rows:,} rows, {math.ceil(self.transfer.bytes / 1000):,} kB")
