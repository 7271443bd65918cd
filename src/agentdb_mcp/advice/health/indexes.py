"""Indexes that are invalid, there twice, unused or bloated, and foreign keys without one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from agentdb_mcp.advice.health.findings import Cents, Finding, Severity, Thresholds, bytes_text, owners_only, space

BTREE = "btree"
# A btree page of 8 KB: what its header and special space leave, filled to 90 %.
PAGE_BYTES, USABLE_BYTES = 8192, (8192 - 24 - 16) * 0.9
ENTRY_OVERHEAD, POINTER_BYTES, ALIGNMENT = 8, 4, 8


@dataclass(frozen=True, slots=True)
class Index:
    """As `execution.health.indexes` reads it: numbers of columns, operator classes and so on with spaces between.

    A column 0 is an expression. `scans` are the index's, `table_scans` the table's; `entry_bytes` is None if unknown.
    """

    name: str
    bare_name: str
    table: str
    method: str
    columns: str
    classes: str
    collations: str
    options: str
    key_count: int
    definition: str
    mine: bool = True
    expressions: str | None = None
    predicate: str | None = None
    unique: bool = False
    immediate: bool = True
    valid: bool = True
    exclusion: bool = False
    primary: bool = False
    identity: bool = False
    nulls_equal: bool = False
    attached: bool = False
    partitioned: bool = False
    constraint: str | None = None
    referenced: bool = False
    size_bytes: int = 0
    entries: int = 0
    scans: int = 0
    table_scans: int = 0
    entry_bytes: int | None = None

    @property
    def keys(self) -> tuple[tuple[str, ...], ...]:
        """Column, operator class, collation and order of each key."""
        parts = (text.split()[: self.key_count] for text in (self.columns, self.classes, self.collations, self.options))
        return tuple(zip(*parts, strict=True))

    @property
    def removable(self) -> bool:
        """Whether nothing but speed depends on it, or a constraint that could go with it."""
        return not (self.primary or self.exclusion or self.identity or self.attached or self.referenced)

    @property
    def removal(self) -> str:
        return (
            f"ALTER TABLE {self.table} DROP CONSTRAINT {self.constraint}"
            if self.constraint
            else f"DROP INDEX {self.name}"
        )


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """`columns` are numbers with spaces between, `column_names` as SQL lists them."""

    constraint: str
    table: str
    columns: str
    column_names: str
    refers_to: str
    rows: int
    mine: bool = True


def judge_indexes(
    indexes: Sequence[Index], foreign_keys: Sequence[ForeignKey], limits: Thresholds, cents: Cents = None
) -> list[Finding]:
    """An index appears once, for the worst that is known of it."""
    doubles = duplicates(indexes)
    found: list[Finding] = []
    for index in indexes:
        finding = (
            _invalid(index)
            if not index.valid
            else _duplicate(index, doubles[index.name], cents)
            if index.name in doubles
            else _unused(index, indexes, foreign_keys, limits, cents) or _bloated(index, limits, cents)
        )
        if finding is not None:
            found.append(owners_only(finding, index.mine))
    return found


def judge_foreign_keys(keys: Iterable[ForeignKey], indexes: Sequence[Index], limits: Thresholds) -> list[Finding]:
    """Those whose columns begin no index: each delete or update of a row that is referred to reads the whole table."""
    by_table = _by_table(indexes)
    return [
        owners_only(
            Finding(
                Severity.WARNING if key.rows >= limits.foreign_key_rows else Severity.INFO,
                "foreign_key_without_index",
                f"{key.table} {key.constraint}",
                f"No index begins with ({key.column_names}): each DELETE or UPDATE of a key in {key.refers_to} reads"
                f" the {key.rows:,} rows of {key.table}.",
                (f"CREATE INDEX ON {key.table} ({key.column_names})",),
            ),
            key.mine,
        )
        for key in keys
        if not any(supports(index, key) for index in by_table[key.table])
    ]


def supports(index: Index, key: ForeignKey) -> bool:
    """Whether the index finds the rows of a referring value: its first keys are the columns, in any order."""
    wanted = set(key.columns.split())
    begins = set(index.columns.split()[: min(len(wanted), index.key_count)])
    return index.table == key.table and index.valid and index.predicate is None and begins == wanted


def duplicates(indexes: Sequence[Index]) -> dict[str, Index]:
    """Which index makes another, by its name, superfluous. What remains covers all that would go."""
    found: dict[str, Index] = {}
    for table in _by_table(indexes).values():
        for index in table:
            better = (
                other
                for other in table
                if other is not index
                and covers(other, index)
                and (not covers(index, other) or _preference(other) < _preference(index))
            )
            if index.valid and index.removable and (by := next(better, None)) is not None:
                found[index.name] = by
    return found


def covers(index: Index, other: Index) -> bool:
    """Whether `index` does all that `other` does."""
    if not index.valid or (index.table, index.method, index.predicate) != (other.table, other.method, other.predicate):
        return False
    mine, theirs = index.keys, other.keys
    same = mine == theirs
    if not same and not (index.method == BTREE and mine[: len(theirs)] == theirs):
        return False
    if any(column == "0" for column, *_ in theirs) and not (same and index.expressions == other.expressions):
        return False
    if not set(other.columns.split()) <= set(index.columns.split()):
        return False
    if not (other.unique or other.constraint):
        return True
    kind = (index.unique, index.nulls_equal, index.immediate, index.exclusion)
    return same and kind == (other.unique, other.nulls_equal, other.immediate, other.exclusion)


def ideal_bytes(entries: int, entry_bytes: int) -> int:
    """About the size of a fresh btree of so many entries; deduplication would make it smaller."""
    aligned = ceil((entry_bytes + ENTRY_OVERHEAD) / ALIGNMENT) * ALIGNMENT
    return (1 + ceil(entries * (aligned + POINTER_BYTES) / USABLE_BYTES)) * PAGE_BYTES


def _preference(index: Index) -> tuple[bool, bool, bool, str]:
    """Of two that cover each other, the lesser stays."""
    return index.removable, index.constraint is None, not index.unique, index.name


def _by_table(indexes: Iterable[Index]) -> defaultdict[str, list[Index]]:
    tables: defaultdict[str, list[Index]] = defaultdict(list)
    for index in indexes:
        tables[index.table].append(index)
    return tables


def _invalid(index: Index) -> Finding | None:
    if index.partitioned or index.attached:
        return None  # it is completed by attaching an index of each partition
    why = "A build that failed left it: no query uses it, yet every write maintains it. Unless it is being built now: "
    drop = index.unique or index.bare_name.endswith(("_ccnew", "_ccold"))
    why += (
        f"drop it, mend the rows that are not unique, and create it anew ({index.definition})." if drop else "rebuild."
    )
    sql = index.removal if drop else f"REINDEX INDEX {index.name}"
    return Finding(Severity.WARNING, "invalid_index", index.name, why, (sql,))


def _duplicate(index: Index, by: Index, cents: Cents) -> Finding:
    same = "has the same columns" if by.keys == index.keys else "begins with its columns"
    why = f"{by.name} {same}; this one takes {space(index.size_bytes, cents)} and slows every write of {index.table}."
    return Finding(Severity.WARNING, "duplicate_index", index.name, why, (index.removal,))


def _unused(
    index: Index, indexes: Sequence[Index], foreign_keys: Sequence[ForeignKey], limits: Thresholds, cents: Cents
) -> Finding | None:
    small = index.size_bytes < limits.unused_bytes or index.table_scans < limits.unused_table_scans
    if index.scans or small or index.unique or index.constraint or not index.removable:
        return None
    if any(
        supports(index, key) and not any(supports(other, key) for other in indexes if other is not index)
        for key in foreign_keys
    ):
        return None
    why = (
        f"No query used it since statistics began, while {index.table} was scanned {index.table_scans:,} times."
        f" It takes {space(index.size_bytes, cents)}. Drop it if nothing rare needs it."
    )
    return Finding(Severity.INFO, "unused_index", index.name, why, (f"DROP INDEX {index.name}",))


def _bloated(index: Index, limits: Thresholds, cents: Cents) -> Finding | None:
    if index.entry_bytes is None or index.size_bytes < limits.bloated_bytes or index.partitioned:
        return None
    wasted = index.size_bytes - ideal_bytes(index.entries, index.entry_bytes)
    if wasted < limits.bloated_share * index.size_bytes:
        return None
    why = (
        f"Of its {bytes_text(index.size_bytes)} about {space(wasted, cents)} are empty ({index.entries:,} entries)."
        " Rebuilding it blocks writes of the table meanwhile."
    )
    return Finding(Severity.WARNING, "bloated_index", index.name, why, (f"REINDEX INDEX {index.name}",))
