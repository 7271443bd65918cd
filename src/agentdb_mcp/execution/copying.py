"""A query's rows from one session into a table of another by COPY: as bytes, in bounded memory, all or nothing.

The query stands in `COPY (…) TO STDOUT`, which the driver sends by the simple protocol: a text that closed the bracket
could go on as it pleases. Therefore Postgres itself reads the same text alone first, by the extended protocol, which
takes one whole statement. A text that is one has no bracket that would close ours and no quote or comment that would
reach beyond it (a line break ends the last of these), and a semicolon inside the brackets is a syntax error, found
before anything runs. None of this depends on the gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import anyio
import asyncpg

from agentdb_mcp.errors import AgentDBError, InvalidArgument, ResultTooLarge, SqlError
from agentdb_mcp.execution import copy_columns as columns
from agentdb_mcp.execution import wire
from agentdb_mcp.execution.copy_columns import SourceColumn, TargetColumn
from agentdb_mcp.execution.errors import CONNECTION_ERRORS, statement_error
from agentdb_mcp.execution.guard import GuardedConnection
from agentdb_mcp.execution.login import quote
from agentdb_mcp.execution.types import TypeInfo
from agentdb_mcp.models import Column, Limits, Result, Scope

Mode = Literal["append", "replace", "create"]
# A row passes as one message, which is in memory a few times.
ROW_BYTES = 8_000_000
# What comes in one read beyond the row that it ends, at most.
_READ_AHEAD = 1_000_000
# What our own reads of a few columns' types may take.
_OUR_ROWS, _OUR_BYTES = 10_000, 10_000_000


class Abandoned(AgentDBError):
    """The other session of the copy has failed, and that is what the caller is told."""

    def __init__(self) -> None:
        super().__init__("The other side of the copy failed.")


class _Rows:
    """COPY text on its way: one chunk at a time, so that the slower side sets the pace."""

    def __init__(self) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[bytes](0)
        self.complete = False
        self._refused = False

    async def put(self, chunk: bytes) -> None:
        try:
            await self._send.send(chunk)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise Abandoned from None

    def end(self) -> None:
        """There are no more."""
        self.complete = True
        self._send.close()

    def refuse(self) -> None:
        """Postgres takes no more, and says why once the driver asks."""
        self._refused = True
        self.close()

    def close(self) -> None:
        self._send.close()
        self._receive.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._receive.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            if self.complete or self._refused:
                raise StopAsyncIteration from None
            raise Abandoned from None


class Transfer:
    """One copy: `read` is the work of the session with the query, `write` of that with the table in `scope`.

    `rows` and `bytes` are what was read so far; `columns` and `notes` tell of the table once it is ready. At most
    `max_bytes` are copied, and a side waits for the other `patience_s` at most. Close it.
    """

    def __init__(
        self, query: str, scope: Scope, table: tuple[str, str], mode: Mode, *, max_bytes: int, patience_s: float
    ) -> None:
        self.rows = self.bytes = 0
        self.columns: tuple[Column, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.reader_listens = False  # it waits for the table, and ends by itself when abandoned
        self._query = query
        self._scope = scope
        self._table = table
        self._mode = mode
        self._max_bytes = max_bytes
        self._patience_s = patience_s
        self._source: list[SourceColumn] = []
        self._described, self._ready = anyio.Event(), anyio.Event()
        self._abandoned = False
        self._rows = _Rows()

    def abandon(self) -> None:
        """One side has failed: the other fails as well, when it next waits."""
        self._abandoned = True
        self._described.set()
        self._ready.set()
        self._rows.close()

    def close(self) -> None:
        self._rows.close()

    async def read(self, connection: GuardedConnection, types: dict[int, TypeInfo]) -> Result:
        """Describe the query, and once the table is ready pass its rows on. Raises AgentDBError."""
        await self._be_patient(connection)
        described = await wire.describe(connection, self._query, types)
        oids = [info.oid for _, info in described]
        found = await _run(connection, types, columns.SOURCE_SQL, oids)
        self._source = columns.source_columns(described, found)
        self._described.set()
        self.reader_listens = True
        await self._wait_for(self._ready)
        self.reader_listens = False
        tag = await self._read_rows(connection)
        self._rows.end()
        return Result((), [], truncated=False, command_tag=tag, duration_ms=0.0, bytes=self.bytes)

    async def _read_rows(self, connection: GuardedConnection) -> str:
        async def pass_on(chunk: bytes) -> None:
            self.rows += chunk.count(b"\n")  # in a value it is escaped
            self.bytes += len(chunk)
            if self.bytes > self._max_bytes:
                raise ResultTooLarge(
                    f"The rows are more than the {self._max_bytes:,} bytes that one copy may have; nothing was copied.",
                    hint="Copy them in parts, with a WHERE on the key.",
                )
            await self._rows.put(chunk)
            connection.guard.begin(ROW_BYTES + _READ_AHEAD)

        connection.guard.begin(ROW_BYTES + _READ_AHEAD)
        try:
            return await wire.copy_out(connection, self._query, pass_on)
        except asyncpg.PostgresSyntaxError as error:
            if getattr(error, "context", None):  # of a function that the query calls
                raise
            raise InvalidArgument(
                "Only a query's rows can be copied: SELECT, VALUES, TABLE, or one of these after WITH.",
                hint="Write it as a SELECT.",
            ) from None
        except CONNECTION_ERRORS:
            if not connection.guard.exceeded:
                raise
            raise ResultTooLarge(
                f"One row is larger than the {ROW_BYTES:,} bytes that can be copied; nothing was copied.",
                hint="Cut long values with left() or substring().",
            ) from None

    async def write(self, connection: GuardedConnection, types: dict[int, TypeInfo]) -> Result:
        """Make the table ready, and take the rows in. Raises AgentDBError."""
        await self._be_patient(connection)
        await self._wait_for(self._described)
        make_ready = self._create if self._mode == "create" else self._match
        found, notes = await make_ready(connection, types)
        self.columns = tuple(Column(column.name, column.type) for column in found)
        self.notes = tuple(notes)
        names = ", ".join(quote(column.name) for column in found)
        sql = f"COPY {columns.name_of(self._table)} ({names}) FROM STDIN"
        self._ready.set()
        try:
            tag = await wire.copy_in(connection, sql, self._rows, self._rows.refuse)
        except CONNECTION_ERRORS:
            raise
        except asyncpg.PostgresError as error:
            raise _with_place(error) from None
        if not self._rows.complete:
            raise Abandoned
        return Result((), [], truncated=False, command_tag=tag, duration_ms=0.0)

    async def _create(
        self, connection: GuardedConnection, types: dict[int, TypeInfo]
    ) -> tuple[list[TargetColumn], list[str]]:
        wanted = self._source
        found = await _run(
            connection,
            types,
            columns.TARGET_TYPES_SQL,
            [each.schema for each in wanted],
            [each.base for each in wanted],
            [each.extension for each in wanted],
        )
        made, notes = columns.columns_to_make(
            wanted, [None if row[0] is None else str(row[0]) for row in found], self._scope
        )
        defined = ", ".join(f"{quote(column.name)} {column.sql}" for column in made)
        try:
            await _run(connection, types, f"CREATE TABLE {columns.name_of(self._table)} ({defined})")
        except asyncpg.DuplicateTableError:
            raise SqlError(
                f"There is a {'.'.join(self._table)} in the {self._scope} database already.",
                hint='Use mode "append" or "replace" to copy into it, or another name.',
                sqlstate="42P07",
            ) from None
        return made, notes

    async def _match(
        self, connection: GuardedConnection, types: dict[int, TypeInfo]
    ) -> tuple[list[TargetColumn], list[str]]:
        name = columns.name_of(self._table)
        found = await _run(connection, types, columns.TABLE_SQL, *self._table)
        filled = columns.columns_to_fill(self._source, found, self._table, self._scope)
        if self._mode == "replace":
            # Readers go on with the old rows; who writes waits, so that in the end there is nothing but the query's.
            await _run(connection, types, f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")
            followers = await _run(connection, types, columns.FOLLOWERS_SQL, *self._table)
            columns.check_no_followers(followers, self._table)
            # Of a partitioned table all is in others; those that inherit from a plain one are tables of their own.
            rows = name if found[0][0] == "p" else f"ONLY {name}"
            await _run(connection, types, f"DELETE FROM {rows}")
            columns.check_empty(await _run(connection, types, f"SELECT true FROM {rows} LIMIT 1"), self._table)
        return filled

    async def _wait_for(self, event: anyio.Event) -> None:
        await event.wait()
        if self._abandoned:
            raise Abandoned

    async def _be_patient(self, connection: GuardedConnection) -> None:
        milliseconds = int(self._patience_s * 1000)
        await connection.execute(f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds}")


async def _run(
    connection: GuardedConnection, types: dict[int, TypeInfo], sql: str, *params: object
) -> list[list[object]]:
    """Rows of a statement of our own."""
    limits = Limits(0, _OUR_ROWS, _OUR_BYTES)  # its time is the call's
    answer = await wire.run(connection, sql, params, limits=limits, stop_early=False, catalog=types)
    return answer.rows


def _with_place(error: asyncpg.PostgresError) -> AgentDBError:
    """As Postgres tells: the table, the line of the rows, the column."""
    ours = statement_error(error)
    context: Sequence[str] = (getattr(error, "context", None) or "").splitlines()
    place = next((line for line in context if line.startswith("COPY ")), None)
    if place is not None and len(place) < 1000:
        ours.message += f" ({place})"
    return ours
