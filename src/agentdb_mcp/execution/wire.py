"""The one place that speaks to asyncpg's protocol object: everything in and out as Postgres text.

asyncpg's public `fetch` decodes to Python objects (losing infinity, 24:00, wide years) and sends catalog queries of
its own for types it has not met; here neither happens. Statements go by the extended protocol, so Postgres itself
refuses a second one in the text (42601). `protocol.prepare`, `bind_execute`, `execute` and `get_settings` are asyncpg's
own internal interface, hence the pin in pyproject.toml; tests/integration/test_values_roundtrip.py watches it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any

import anyio
import asyncpg
from asyncpg.protocol import protocol as asyncpg_protocol

from agentdb_mcp.errors import InvalidArgument, ResultTooLarge
from agentdb_mcp.execution.beyond import Beyond
from agentdb_mcp.execution.errors import CONNECTION_ERRORS
from agentdb_mcp.execution.guard import GuardedConnection
from agentdb_mcp.execution.types import BUILTIN_TYPES, LOOKUP_SQL, TypeInfo
from agentdb_mcp.execution.values import Decoder, decode_all, decoder, encode
from agentdb_mcp.models import Column, Limits, Result

# Values that are fetched at a time: as Python objects they take ten times what Postgres sends, and are dropped past
# the answer's limits.
PORTION_CELLS = 20_000
# Reading on past the page may receive so much at a time. Its time limit is set by a statement and portal with a name:
# the caller's keeps the unnamed one, which Postgres counts in pg_stat_statements when the transaction ends, and a named
# one not. What does not listen to the limit is ended this much later.
READ_ON_BYTES, READ_ON_LIMIT, READ_ON_GRACE_S = 5_000_000, "agentdb_read_on", 0.5
# Rows that are taken one by one: column by column takes a quarter of the time for a thousand, and three times for one.
FEW_ROWS = 8
_BASE64_TYPES = {"bytea": "base64", "bytea[]": "base64"}


# Rows as they come, with their columns; who takes them also says how fast.
Sink = Callable[[Sequence[Column], list[list[object]]], Awaitable[None]]
# A sink gets about this much at a time; far more is too large to pass on. How many rows that is, the rows before them
# tell: a thousand that turn out larger still fit, up to 64 KB each.
SINK_BYTES, SINK_MAX_BYTES, SINK_FIRST_ROWS, SINK_MAX_ROWS = 1_000_000, 64_000_000, 16, 1000


class _Answer:
    """Rows up to the limits, decoded as they come; `full` once one was left out, which `beyond` may take."""

    def __init__(self, infos: list[TypeInfo], catalog: dict[int, TypeInfo], max_rows: int, max_bytes: int) -> None:
        self.infos = infos
        self.rows: list[list[object]] = []
        self.size = 0
        self.widest = 0
        self.fetched = 0
        self.full = False
        self._decoders = [decoder(info, catalog) for info in infos]
        self.decode = _row_decoder(self._decoders)
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self.beyond: Beyond | None = None

    def add(self, records: Sequence[Any]) -> None:
        """Raises ResultTooLarge when not even one row fits."""
        self.fetched += len(records)
        if len(records) > FEW_ROWS and self._take_whole(records):
            return
        for record in records:
            size = sum(map(len, filter(None, record))) + 4 * len(record)
            if not self._fits(size):
                if self.beyond is None or not self.beyond.takes(size):
                    return
                self.beyond.add(tuple(record), size)
                continue
            self.size += size
            self.widest = max(self.widest, size)
            self.rows.append(self.decode(record))

    def _take_whole(self, records: Sequence[Any]) -> bool:
        """Rows that fit all together, column by column, which takes less than one by one; `widest` is a bound."""
        if self.full or len(self.rows) + len(records) > self._max_rows or not self._decoders:
            return False
        columns = list(zip(*records, strict=True))
        lengths = [list(map(len, filter(None, column))) for column in columns]
        size = sum(map(sum, lengths)) + 4 * len(columns) * len(records)
        if self.size + size > self._max_bytes:
            return False
        self.size += size
        longest = [max(each, default=0) for each in lengths]
        self.widest = max(self.widest, sum(longest) + 4 * len(columns))
        self.rows += map(list, zip(*map(decode_all, columns, self._decoders, longest), strict=True))
        return True

    def _fits(self, size: int) -> bool:
        if self.full or len(self.rows) >= self._max_rows:
            self.full = True
        elif self.size + size > self._max_bytes:
            if not self.rows:
                raise ResultTooLarge(
                    f"One row is larger than the {self._max_bytes:,} bytes that an answer may have.",
                    hint="Select fewer columns, or cut long values with left() or substring().",
                )
            self.full = True
        return not self.full


def _row_decoder(decoders: Sequence[Decoder | None]) -> Callable[[Sequence[str | None]], list[object]]:
    """Knows the types alone: what is held keeps it for as long."""
    places = [(place, decode) for place, decode in enumerate(decoders) if decode]

    def decode_row(row: Sequence[str | None]) -> list[object]:
        values: list[object] = list(row)
        for place, decode in places:
            if (text := row[place]) is not None:
                values[place] = decode(text)
        return values

    return decode_row


async def describe(
    connection: GuardedConnection, sql: str, catalog: dict[int, TypeInfo]
) -> tuple[tuple[str, TypeInfo], ...]:
    """The columns that a text gives, which Postgres reads alone and as one statement. Raises InvalidArgument."""
    _check_text(sql)
    statement = await _prepare(connection, sql)
    if statement._get_parameters():
        raise InvalidArgument("The query has parameters, and takes none.", hint="Write the values into the SQL.")
    columns = [(column.name, column.type.oid) for column in statement._get_attributes()]
    await _learn_types(connection, {oid for _, oid in columns}, catalog)
    return tuple((name, catalog[oid]) for name, oid in columns)


async def copy_out(connection: GuardedConnection, query: str, sink: Callable[[bytes], Awaitable[None]]) -> str:
    """Pass a query's rows on as COPY text, at the sink's pace; the command tag.

    The query must be one that `describe` has read in this session: see copying.py.
    """
    tag: bytes | str = await connection._protocol.copy_out(f"COPY ({query}\n) TO STDOUT", sink, None)
    return tag if isinstance(tag, str) else tag.decode()


async def copy_in(connection: GuardedConnection, sql: str, rows: AsyncIterator[bytes], end: Callable[[], None]) -> str:
    """Take COPY text in, at Postgres's pace; the command tag.

    The driver looks for an answer only once the rows have ended, so `end` is called as soon as there is one, or no
    connection: it must end the rows.
    """
    connection.guard.heard = _Answered(end)
    try:
        tag: str = await connection._protocol.copy_in(sql, rows, None, None, None, None)
    finally:
        connection.guard.heard = None
    return tag


class _Answered:
    """Reads message by message what comes during a COPY, until one answers it; what is told meanwhile does not."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end
        self._rest = b""
        self._skip = 0

    def __call__(self, data: bytes) -> None:
        if not data:
            self._end()
            return
        data, at = self._rest + data, self._skip
        while at + 5 <= len(data):
            if data[at : at + 1] in _ANSWERS:
                self._end()
            at += 1 + int.from_bytes(data[at + 1 : at + 5], "big")
        self._rest, self._skip = data[at:], max(0, at - len(data))


# ErrorResponse, CommandComplete, ReadyForQuery.
_ANSWERS = (b"E", b"C", b"Z")


def speak_text(connection: asyncpg.Connection) -> None:
    """Make the driver pass the text of every built-in type through, undecoded."""
    settings = connection._protocol.get_settings()
    for oid, name in asyncpg_protocol.BUILTIN_TYPE_OID_MAP.items():
        settings.set_builtin_type_codec(oid, name, "pg_catalog", "scalar", "text", "text")
    for oid, info in BUILTIN_TYPES.items():
        settings.set_builtin_type_codec(oid, info.name, "pg_catalog", "scalar", "text", "text")


async def run(
    connection: GuardedConnection,
    sql: str,
    params: Sequence[object],
    *,
    limits: Limits,
    stop_early: bool,
    catalog: dict[int, TypeInfo],
    sink: Sink | None = None,
) -> Result:
    """Prepare, bind and execute one text; rows past either limit are left out, or all of them given to the sink.

    With `stop_early` Postgres stops making rows past the limit, and past those that are held beyond it; without it the
    statement runs to its end, because rows that were not made are also functions that did not run.

    `catalog` remembers the types met in this database.
    """
    started = perf_counter()
    _check_text(sql)
    statement = await _prepare(connection, sql)
    parameter_oids = [parameter.oid for parameter in statement._get_parameters()]
    columns = [(column.name, column.type.oid) for column in statement._get_attributes()]
    oids = {*parameter_oids, *(oid for _, oid in columns)}
    if await _learn_types(connection, oids, catalog):
        statement.mark_unprepared()  # the look-up took the place of the unnamed statement
    arguments = _encode_all(params, parameter_oids, catalog)
    infos = [catalog[oid] for _, oid in columns]
    shown = tuple(
        Column(name, info.name, _BASE64_TYPES.get(info.name)) for (name, _), info in zip(columns, infos, strict=True)
    )
    if sink is not None:
        unbounded = _Answer(infos, catalog, _ANY, _ANY)
        return await _pass_on(connection, statement, arguments, shown, unbounded, sink, started)
    portion = max(1, PORTION_CELLS // max(1, len(columns)))
    if stop_early:
        portion = min(portion, limits.max_rows + 1)
    answer = _Answer(infos, catalog, limits.max_rows, limits.max_bytes)
    if limits.held_rows:
        answer.beyond = Beyond(limits.held_rows, limits.held_bytes, limits.max_bytes, answer.decode)
    protocol = connection._protocol
    rows, tag, complete = await protocol.bind_execute(statement, arguments, "", portion, True, None)
    answer.add(rows)
    while not complete and not (stop_early and answer.full):
        rows, tag, complete = await protocol.execute(statement, "", portion, True, None)
        answer.add(rows)
    if (beyond := answer.beyond) is None:
        tag_text, size = _whole_tag(tag, answer.fetched), answer.size
        return Result(shown, answer.rows, answer.full, tag_text, _since(started), size, widest=answer.widest)
    if not complete and not beyond.full:
        tag, complete = await _read_on(connection, statement, answer, beyond, limits.held_s)
    ended = complete and not beyond.full
    tag_text, size = _whole_tag(tag, answer.fetched), answer.size + beyond.size
    return Result(
        shown, answer.rows, answer.full, tag_text, _since(started), size,
        beyond=beyond.portions(), ended=ended, widest=answer.widest,
    )  # fmt: skip


async def _read_on(
    connection: GuardedConnection,
    statement: asyncpg_protocol.PreparedStatementState,
    answer: _Answer,
    beyond: Beyond,
    seconds: float,
) -> tuple[bytes | None, bool]:
    """Rows past the page of a call that only reads, for so many seconds; (tag, whether that was all).

    Nothing that goes wrong here takes the page away: it was complete before.
    """
    until = anyio.current_time() + seconds
    with anyio.move_on_after(seconds + READ_ON_GRACE_S) as reading, suppress(asyncpg.PostgresError, *CONNECTION_ERRORS):
        limit = await _prepare(
            connection, f"SET LOCAL statement_timeout = {max(1, int(seconds * 1000))}", READ_ON_LIMIT
        )
        await connection._protocol.bind_execute(limit, [], READ_ON_LIMIT, 0, True, None)
        while not beyond.full and anyio.current_time() < until:
            connection.guard.begin(READ_ON_BYTES)
            portion = beyond.next_rows(answer.fetched, answer.size + beyond.size)
            rows, tag, complete = await connection._protocol.execute(statement, "", portion, True, None)
            answer.add(rows)
            if complete:
                return tag, True
    if reading.cancelled_caught:
        connection.terminate()  # it does not listen: this costs the session, not the answer
    return None, False


_ANY = 2**62


async def _pass_on(
    connection: GuardedConnection,
    statement: asyncpg_protocol.PreparedStatementState,
    arguments: list[str | None],
    columns: tuple[Column, ...],
    answer: _Answer,
    sink: Sink,
    started: float,
) -> Result:
    """Every row, in portions of about the same size whatever rows there are: memory does not grow with their number."""
    protocol = connection._protocol
    portion, sent = SINK_FIRST_ROWS, 0
    connection.guard.begin(SINK_MAX_BYTES)
    rows, tag, complete = await protocol.bind_execute(statement, arguments, "", portion, True, None)
    while True:
        answer.add(rows)
        taken, answer.rows = answer.rows, []
        await sink(columns, taken)
        if complete:
            break
        size, sent = max(1, answer.size - sent), answer.size
        portion = min(SINK_MAX_ROWS, max(1, len(taken) * SINK_BYTES // size), 8 * len(taken))
        connection.guard.begin(SINK_MAX_BYTES)
        rows, tag, complete = await protocol.execute(statement, "", portion, True, None)
    return Result(columns, [], False, _whole_tag(tag, answer.fetched), _since(started), answer.size)


def _since(started: float) -> float:
    """Milliseconds."""
    return round((perf_counter() - started) * 1000, 3)


def _whole_tag(tag: bytes | None, fetched: int) -> str:
    """Of a SELECT that came in portions, Postgres's own tag counts the last one."""
    text = (tag or b"").decode()
    return f"SELECT {fetched}" if text.startswith("SELECT ") and fetched else text


def _check_text(sql: str) -> None:
    """What the protocol cannot carry would cost the connection."""
    if "\0" in sql:
        raise InvalidArgument("The SQL holds a NUL byte, which Postgres text cannot.", hint="Remove it.")
    try:
        sql.encode()
    except UnicodeEncodeError:
        raise InvalidArgument("The SQL is not valid Unicode: it holds half of a surrogate pair.") from None


async def _prepare(connection: asyncpg.Connection, sql: str, name: str = "") -> asyncpg_protocol.PreparedStatementState:
    protocol = connection._protocol
    statement = await protocol.prepare(name, sql, None, record_class=asyncpg.Record)
    settings = protocol.get_settings()
    for oid in statement._init_types():
        settings.set_builtin_type_codec(oid, str(oid), "", "scalar", "text", "text")
    statement._init_codecs()
    return statement


async def _learn_types(connection: asyncpg.Connection, oids: set[int], catalog: dict[int, TypeInfo]) -> bool:
    """Look up types not met before, elements of arrays included; True if a query was sent."""
    asked = False
    while missing := [oid for oid in oids if oid and oid not in catalog]:
        statement = await _prepare(connection, LOOKUP_SQL)
        wanted = "{" + ",".join(map(str, missing)) + "}"
        rows, _, _ = await connection._protocol.bind_execute(statement, [wanted], "", 0, True, None)
        for oid in missing:
            catalog[oid] = TypeInfo(oid, "unknown")
        for oid, name, element, delimiter in rows:
            catalog[int(oid)] = TypeInfo(int(oid), name, int(element), delimiter)
        oids = {catalog[oid].element for oid in missing}
        asked = True
    return asked


def _encode_all(params: Sequence[object], oids: Sequence[int], catalog: dict[int, TypeInfo]) -> list[str | None]:
    if len(params) != len(oids):
        raise InvalidArgument(
            f"The statement takes {len(oids)} parameters, params holds {len(params)}.",
            hint="Write $1, $2, … in the SQL and give one value for each in params.",
        )
    return [
        encode(value, catalog[oid], catalog, f"params[{index}]")
        for index, (value, oid) in enumerate(zip(params, oids, strict=True))
    ]
