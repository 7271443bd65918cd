"""Indexes and tables as far as advice needs them: what an index is made of, what one there already covers, its size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

MAX_COLUMNS = 3
# Of Postgres's pages: 8 KB with a header, and of B-trees filled to nine tenths.
_PAGE_BYTES, _PAGE_ROOM, _FILL = 8192, 8192 - 24 - 16, 0.9
# Of one entry: its header and its pointer in the page.
_ENTRY_BYTES = 8 + 4
_DEFAULT_WIDTH = 16
# By the bits of pg_index.indoption.
_SUFFIXES = ("", " DESC NULLS LAST", " NULLS FIRST", " DESC")
_BACKWARD = dict(zip(_SUFFIXES, reversed(_SUFFIXES), strict=True))


@dataclass(frozen=True, slots=True)
class Key:
    """A column of an index; `suffix` is "", " DESC", " DESC NULLS LAST" or " NULLS FIRST"."""

    name: str
    suffix: str = ""

    @classmethod
    def of(cls, name: str, option: int) -> Key:
        """With the bits of pg_index.indoption."""
        return cls(name, _SUFFIXES[option & 3])


@dataclass(frozen=True, slots=True)
class Index:
    """An index that might be: names as the catalog has them."""

    schema: str
    table: str
    keys: tuple[Key, ...]
    using: str = "btree"

    @property
    def relation(self) -> tuple[str, str]:
        return self.schema, self.table

    def sql(self, name: str = "") -> str:
        """CREATE INDEX, every name quoted; without a name Postgres chooses one."""
        keys = ", ".join(quoted(key.name) + key.suffix for key in self.keys)
        method = "" if self.using == "btree" else f" USING {quoted(self.using)}"
        own = f" {quoted(name)}" if name else ""
        return f"CREATE INDEX{own} ON {quoted(self.schema)}.{quoted(self.table)}{method} ({keys})"


@dataclass(frozen=True, slots=True)
class Existing:
    """An index there is, valid and of all rows; a key is None where it is an expression."""

    keys: tuple[Key | None, ...]
    using: str = "btree"
    unique: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """`width` in bytes and `distinct` (of pg_stats: negative is a share of the rows) once ANALYZE has seen them."""

    name: str
    width: int | None = None
    distinct: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """What the catalog knows of a table; `rows` is its estimate, negative before the first ANALYZE."""

    schema: str
    name: str
    kind: str
    bytes: int
    rows: float
    columns: Mapping[str, Column]
    indexes: Sequence[Existing] = ()
    partition: bool = False

    @property
    def relation(self) -> tuple[str, str]:
        return self.schema, self.name

    @property
    def analyzed(self) -> bool:
        return any(column.distinct is not None for column in self.columns.values())

    @property
    def indexable(self) -> bool:
        """A table or materialized view of its own, not a part of a larger one or a view."""
        return self.kind in ("r", "m") and not self.partition

    def distinct(self, column: str) -> float:
        """How many values the column has, by ANALYZE; 0 where it has not seen it."""
        known = self.columns[column].distinct if column in self.columns else None
        if known is None:
            return 0.0
        return known if known >= 0 else -known * max(self.rows, 0.0)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def covered(index: Index, existing: Iterable[Existing]) -> bool:
    """Whether an index there is begins with these keys, in either direction, or is a whole unique key among them."""
    if index.using != "btree":
        return any(tuple(one.keys) == index.keys and one.using == index.using for one in existing)
    return any(one.using == "btree" and (_begins(one.keys, index.keys) or _settles(one, index)) for one in existing)


def is_prefix(index: Index, of: Index) -> bool:
    """Whether another index that might be makes this one superfluous."""
    same = index != of and index.relation == of.relation and index.using == of.using == "btree"
    return same and _begins(of.keys, index.keys)


def _begins(longer: Sequence[Key | None], keys: tuple[Key, ...]) -> bool:
    start = tuple(longer[: len(keys)])
    return start in (keys, tuple(Key(key.name, _BACKWARD[key.suffix]) for key in keys))


def _settles(one: Existing, index: Index) -> bool:
    """A unique key whose columns come first leaves nothing for further columns to tell apart."""
    names = [None if key is None else key.name for key in one.keys]
    return one.unique and names == [key.name for key in index.keys[: len(names)]]


def estimated_bytes(index: Index, table: Table) -> int:
    """Of a B-tree, from what ANALYZE found; equal values are not taken for stored once, so it may turn out smaller."""
    columns = [table.columns.get(key.name) for key in index.keys]
    width = sum(column.width if column and column.width else _DEFAULT_WIDTH for column in columns)
    entry = _ENTRY_BYTES + 8 * math.ceil(width / 8)
    leaves = math.ceil(max(table.rows, 0.0) / max(1, int(_PAGE_ROOM * _FILL / entry)))
    return (leaves + math.ceil(leaves / 200) + 2) * _PAGE_BYTES
