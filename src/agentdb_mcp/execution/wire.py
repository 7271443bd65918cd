"""The one place that speaks to asyncpg's protocol object: everything in and out as Postgres text.

asyncpg's public `fetch` decodes to Python objects (losing infinity, 24:00, wide years) and sends catalog queries of
its own for types it has not met; here neither happens. Statements go by the extended protocol, so Postgres itself
refuses a second one in the text (42601). `protocol.prepare`, `bind_execute`, `execute` and `get_settings` are asyncpg's
own internal interface, hence the pin in pyproject.toml; tests/integration/test_values_roundtrip.py watches it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import asyncpg
from asyncpg.protocol import protocol as asyncpg_protocol

from agentdb_mcp.errors import InvalidArgument, ResultTooLarge
from agentdb_mcp.execution.guard import GuardedConnection
from agentdb_mcp.execution.types import BUILTIN_TYPES, LOOKUP_SQL, TypeInfo
from agentdb_mcp.execution.values import decoder, encode
from agentdb_mcp.models import Column, Result

# Values that are fetched at a time: as Python objects they take ten times what Postgres sends, and are dropped past
# the answer's limits.
PORTION_CELLS = 20_000
_BASE64_TYPES = {"bytea": "base64", "bytea[]": "base64"}


# Rows as they come, with their columns; who takes them also says how fast.
Sink = Callable[[Sequence[Column], list[list[object]]], Awaitable[None]]
# A sink gets about this much at a time; far more is too large to pass on. How many rows that is, the rows before them
# tell: a thousand that turn out larger still fit, up to 64 KB each.
SINK_BYTES, SINK_MAX_BYTES, SINK_FIRST_ROWS, SINK_MAX_ROWS = 1_000_000, 64_000_000, 16, 1000


class _Answer:
    """Rows up to the limits, decoded as they come; `full` once one was left out."""

    def __init__(self, infos: list[TypeInfo], catalog: dict[int, TypeInfo], max_rows: int, max_bytes: int) -> None:
        self.infos = infos
        self.rows: list[list[object]] = []
        self.size = 0
        self.fetched = 0
        self.full = False
        self._decoders = [decoder(info, catalog) for info in infos]
        self._max_rows = max_rows
        self._max_bytes = max_bytes

    def add(self, records: Sequence[Any]) -> None:
        """Raises ResultTooLarge when not even one row fits."""
        self.fetched += len(records)
        for record in records:
            if self.full or len(self.rows) >= self._max_rows:
                self.full = True
                return
            size = sum(len(text) for text in record if text is not None) + 4 * len(record)
            if self.size + size > self._max_bytes:
                if not self.rows:
                    raise ResultTooLarge(
                        f"One row is larger than the {self._max_bytes:,} bytes that an answer may have.",
                        hint="Select fewer columns, or cut long values with left() or substring().",
                    )
                self.full = True
                return
            self.size += size
            self.rows.append(
                [text if text is None or not d else d(text) for text, d in zip(record, self._decoders, strict=True)]
            )


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
    max_rows: int,
    max_bytes: int,
    stop_early: bool,
    catalog: dict[int, TypeInfo],
    sink: Sink | None = None,
) -> Result:
    """Prepare, bind and execute one text; rows past either limit are left out, or all of them given to the sink.

    With `stop_early` Postgres stops making rows past the limit; without it the statement runs to its end, because
    rows that were not made are also functions that did not run.

    `catalog` remembers the types met in this database; `duration_ms` is the caller's to fill in.
    """
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
        return await _pass_on(connection, statement, arguments, shown, _Answer(infos, catalog, _ANY, _ANY), sink)
    portion = max(1, PORTION_CELLS // max(1, len(columns)))
    if stop_early:
        portion = min(portion, max_rows + 1)
    answer = _Answer(infos, catalog, max_rows, max_bytes)
    protocol = connection._protocol
    rows, tag, complete = await protocol.bind_execute(statement, arguments, "", portion, True, None)
    answer.add(rows)
    while not complete and not (stop_early and answer.full):
        rows, tag, complete = await protocol.execute(statement, "", portion, True, None)
        answer.add(rows)
    return Result(shown, answer.rows, answer.full, _whole_tag(tag, answer.fetched), 0.0, answer.size)


_ANY = 2**62


async def _pass_on(
    connection: GuardedConnection,
    statement: asyncpg_protocol.PreparedStatementState,
    arguments: list[str | None],
    columns: tuple[Column, ...],
    answer: _Answer,
    sink: Sink,
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
    return Result(columns, [], False, _whole_tag(tag, answer.fetched), 0.0, answer.size)


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


async def _prepare(connection: asyncpg.Connection, sql: str) -> asyncpg_protocol.PreparedStatementState:
    protocol = connection._protocol
    statement = await protocol.prepare("", sql, None, record_class=asyncpg.Record)
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
