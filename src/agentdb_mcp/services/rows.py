"""The SQL by which people read and change rows: pure text and parameters. Names are quoted, values are parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from agentdb_mcp.errors import InvalidArgument
from agentdb_mcp.execution import Statement

Operator = Literal["=", "≠", "<", "≤", ">", "≥", "contains", "starts with", "is null", "is not null"]
_COMPARED: dict[str, str] = {"=": "=", "≠": "<>", "<": "<", "≤": "<=", ">": ">", "≥": ">="}
OPERATORS: tuple[Operator, ...] = ("=", "≠", "<", "≤", ">", "≥", "contains", "starts with", "is null", "is not null")
# Characters of a value that a page of rows shows; the rest is read when somebody asks for it.
SHOWN = 200
# Of a value that is opened or edited.
OPENED = 100_000

Table = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Order:
    column: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """`value` is what the operator compares with, in Postgres's own text form."""

    column: str
    operator: Operator
    value: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """A column as a statement names it, with its type."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class RowKey:
    """Which row, and in which version: `xmin` changes whenever somebody changes the row."""

    columns: Mapping[str, str]
    xmin: str


def identifier(name: str) -> str:
    """Quoted, so that any name is a name."""
    return '"' + name.replace('"', '""') + '"'


def qualified(table: Table) -> str:
    return f"{identifier(table[0])}.{identifier(table[1])}"


def select_page(
    table: Table,
    fields: Sequence[Field],
    *,
    filters: Sequence[Filter] = (),
    order_by: Sequence[Order] = (),
    key: Sequence[str] = (),
    limit: int,
    offset: int = 0,
    after: Mapping[str, str] | None = None,
    from_end: bool = False,
    version: bool = False,
    shown: int = SHOWN,
) -> Statement:
    """Each value as text of at most `shown` + 1 characters, so that a page stays small whatever its rows hold.

    With `version` the last columns are the `key`'s, up to OPENED + 1 characters, and the row's xmin. Ordered by
    `order_by` and then the key, else as Postgres finds the rows; `from_end` the other way round. `after` is a key:
    where the order is the key's alone, the rows beyond it are found by its index, and none before it are counted.
    """
    columns = [_shown(field, shown) for field in fields]
    if version:
        columns += [f"pg_catalog.left(t.{identifier(name)}::text, {OPENED + 1})" for name in key] + ["t.xmin::text"]
    where, params = _where(filters)
    if after is not None:
        where = _beyond(where, key, after, params, "<" if from_end else ">")
    ordered = _order(order_by, key, from_end=from_end)
    params += [limit, offset]
    # What is shown is made of the page's rows alone, not of those that sorting or skipping passes.
    sql = (
        f"SELECT {', '.join(columns) or 'NULL'} FROM (SELECT t.*{', t.xmin' if version else ''}"
        f" FROM {qualified(table)} AS t{where}{ordered} LIMIT ${len(params) - 1} OFFSET ${len(params)}) AS t{ordered}"
    )
    return Statement(sql, params)


def select_all(table: Table, filters: Sequence[Filter], order_by: Sequence[Order], key: Sequence[str]) -> Statement:
    """Every row that fits, as it is: in the order of `order_by` and then the key, or else as Postgres finds them."""
    where, params = _where(filters)
    order = _order(order_by, key) if order_by else ""
    return Statement(f"SELECT t.* FROM {qualified(table)} AS t{where}{order}", params)


def _order(order_by: Sequence[Order], key: Sequence[str], *, from_end: bool = False) -> str:
    sorted_by = {each.column for each in order_by}
    orders = [*order_by, *(Order(name) for name in key if name not in sorted_by)]
    order = ", ".join(
        f"t.{identifier(each.column)}{' DESC' if each.descending is not from_end else ''}" for each in orders
    )
    return f" ORDER BY {order}" if order else ""


def _beyond(
    where: str, key: Sequence[str], after: Mapping[str, str], params: list[object], operator: Literal["<", ">"]
) -> str:
    """The condition and that the key is beyond this one."""
    params += [after[name] for name in key]
    names = ", ".join(f"t.{identifier(name)}" for name in key)
    places = ", ".join(f"${len(params) - len(key) + index + 1}" for index in range(len(key)))
    return f"{where} {'AND' if where else 'WHERE'} ({names}) {operator} ({places})"


def select_row(table: Table, fields: Sequence[Field], key: Mapping[str, str], *, version: bool = True) -> Statement:
    """One row with its values whole up to OPENED + 1 characters, and its version."""
    where, params = _where([Filter(name, "=", value) for name, value in key.items()])
    columns = [_shown(field, OPENED) for field in fields] + (["t.xmin::text"] if version else [])
    return Statement(f"SELECT {', '.join(columns)} FROM {qualified(table)} AS t{where} LIMIT 1", params)


def insert_row(table: Table, values: Mapping[str, str | None]) -> Statement:
    """A row of these values, each in Postgres's text form; the other columns take their defaults."""
    if not values:
        return Statement(f"INSERT INTO {qualified(table)} DEFAULT VALUES")
    columns = ", ".join(identifier(name) for name in values)
    places = ", ".join(f"${index}" for index in range(1, len(values) + 1))
    return Statement(f"INSERT INTO {qualified(table)} ({columns}) VALUES ({places})", list(values.values()))


def update_row(table: Table, key: RowKey, values: Mapping[str, str | None]) -> Statement:
    """Changes no row where somebody changed it since its version was read."""
    if not values:
        raise InvalidArgument("Nothing was changed.")
    params: list[object] = list(values.values())
    changes = ", ".join(f"{identifier(name)} = ${index}" for index, name in enumerate(values, 1))
    where, params = _of_key(key, params)
    return Statement(f"UPDATE {qualified(table)} AS t SET {changes}{where}", params)


def delete_row(table: Table, key: RowKey) -> Statement:
    """As `update_row`: a row that somebody changed meanwhile stays."""
    where, params = _of_key(key, [])
    return Statement(f"DELETE FROM {qualified(table)} AS t{where}", params)


def _of_key(key: RowKey, params: list[object]) -> tuple[str, list[object]]:
    parts = []
    for name, value in key.columns.items():
        params.append(value)
        parts.append(f"t.{identifier(name)} = ${len(params)}")
    params.append(key.xmin)
    parts.append(f"t.xmin::text = ${len(params)}")
    return f" WHERE {' AND '.join(parts)}", params


def _shown(field: Field, shown: int) -> str:
    column = f"t.{identifier(field.name)}"
    if field.type == "bytea":
        return (
            f"pg_catalog.left({column}::text, {shown + 1})"
            if shown == OPENED
            else (
                f"'\\x' || pg_catalog.encode(pg_catalog.substr({column}, 1, {shown // 2}), 'hex')"
                f" || CASE WHEN pg_catalog.length({column}) > {shown // 2} THEN '…' ELSE '' END"
            )
        )
    return f"pg_catalog.left({column}::text, {shown + 1})"


def _where(filters: Sequence[Filter]) -> tuple[str, list[object]]:
    parts, params = list[str](), list[object]()
    for each in filters:
        column = f"t.{identifier(each.column)}"
        if each.operator in ("is null", "is not null"):
            parts.append(f"{column} {each.operator.upper()}")
            continue
        params.append(each.value)
        place = f"${len(params)}"
        if each.operator == "contains":
            parts.append(f"pg_catalog.strpos(pg_catalog.lower({column}::text), pg_catalog.lower({place}::text)) > 0")
        elif each.operator == "starts with":
            parts.append(f"pg_catalog.starts_with({column}::text, {place}::text)")
        elif each.operator in _COMPARED:
            parts.append(f"{column} {_COMPARED[each.operator]} {place}")
        else:
            raise InvalidArgument(
                f"There is no operator {each.operator!r}.", hint=f"Use one of {', '.join(OPERATORS)}."
            )
    return (f" WHERE {' AND '.join(parts)}" if parts else ""), params
