"""Tables that need vacuum or analyze, transaction age, sequences near their end, constraints that were not checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agentdb_mcp.advice.health.findings import Finding, Severity, Thresholds, owners_only

# What the integers of a type end at.
TYPE_RANGES = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
# Transactions until the counter of Postgres would come round.
WRAPAROUND = 2**31


@dataclass(frozen=True, slots=True)
class Table:
    """`rows` as estimated; `live`, `dead` and `modified` rows as counted; `vacuum_from` dead rows autovacuum comes.

    `analyzed` is how often; ages are in transactions.
    """

    name: str
    rows: int = 0
    live: int = 0
    dead: int = 0
    modified: int = 0
    analyzed: int = 0
    autovacuum: bool = True
    vacuum_from: float = 50
    age: int = 0
    multixact_age: int = 0
    size_bytes: int = 0
    mine: bool = True


@dataclass(frozen=True, slots=True)
class Sequence:
    """Bounds and last value as text; `table`, `column` and `column_type` of the column that owns it."""

    name: str
    lowest: str
    highest: str
    increment: str
    last: str
    type: str
    table: str | None = None
    column: str | None = None
    column_type: str | None = None
    mine: bool = True
    table_mine: bool = True


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A constraint of a table, or of a domain, that older rows may break."""

    constraint: str
    of: str
    of_domain: bool
    definition: str
    mine: bool = True


def judge_tables(tables: Iterable[Table], limits: Thresholds) -> list[Finding]:
    found: list[Finding] = []
    for table in tables:
        findings = (_vacuum(table, limits), _analyze(table, limits), _age(table, limits))
        found += [owners_only(finding, table.mine) for finding in findings if finding is not None]
    return found


def _vacuum(table: Table, limits: Thresholds) -> Finding | None:
    counted = f"{table.dead:,} dead rows beside {table.live:,} living ones"
    if not table.autovacuum and table.dead >= max(limits.dead_rows, table.vacuum_from):
        why = f"Autovacuum is off for it, and it holds {counted}. Switched on, autovacuum cleans up by itself."
        sql = f"ALTER TABLE {table.name} RESET (autovacuum_enabled)"
        return Finding(Severity.WARNING, "autovacuum_off", table.name, why, (sql,))
    if table.autovacuum and table.dead >= max(limits.dead_rows_behind, 2 * table.vacuum_from):
        why = (
            f"It holds {counted}, and autovacuum comes from {table.vacuum_from:,.0f} on: it is behind, or a long"
            " transaction is in its way. VACUUM cannot be run here; autovacuum does it."
        )
        return Finding(Severity.WARNING, "dead_rows", table.name, why)
    return None


def _analyze(table: Table, limits: Thresholds) -> Finding | None:
    """A fifth of the rows: twice what autovacuum analyzes at."""
    if table.modified < max(limits.changed_rows, table.rows / 5):
        return None
    since = "since it was analyzed" if table.analyzed else "and it was never analyzed"
    why = f"{table.modified:,} rows changed {since}: the planner's estimates are off."
    return Finding(Severity.INFO, "stale_statistics", table.name, why, (f"ANALYZE {table.name}",))


def _age(table: Table, limits: Thresholds) -> Finding | None:
    age = max(table.age, table.multixact_age)
    if age < limits.age_warning:
        return None
    severity = Severity.CRITICAL if age >= limits.age_critical else Severity.WARNING
    why = (
        f"Its oldest transaction is {age:,} back, and at {WRAPAROUND:,} Postgres takes no more writes. Autovacuum"
        " freezes it: see that it is on, and that no transaction or replication slot stays open."
    )
    return Finding(severity, "transaction_age", table.name, why)


def judge_sequences(sequences: Iterable[Sequence], limits: Thresholds) -> list[Finding]:
    found: list[Finding] = []
    for sequence in sequences:
        used, left = usage(sequence)
        if used < limits.sequence_warning:
            continue
        severity = Severity.CRITICAL if used >= limits.sequence_critical else Severity.WARNING
        sql, why = _widening(sequence), f"{100 * used:.1f} % of its values are used, {left:,} are left."
        why += (
            " A larger type rewrites the table; columns that refer to this one need it too."
            if any(text.startswith("ALTER TABLE") for text in sql)
            else ""
            if sql
            else " Its type has no larger values: begin again where values are free, or use another key."
        )
        finding = Finding(severity, "sequence_near_its_end", sequence.name, why, sql)
        found.append(owners_only(finding, sequence.mine and sequence.table_mine))
    return found


def usage(sequence: Sequence) -> tuple[float, int]:
    """The part of the values that are used, from 0 to 1, and how many more there are; its column bounds them too."""
    lowest, highest, last = int(sequence.lowest), int(sequence.highest), int(sequence.last)
    if (size := TYPE_RANGES.get(sequence.column_type or "")) is not None:
        lowest, highest = max(lowest, -size), min(highest, size - 1)
    step = int(sequence.increment)
    whole = max(1, highest - lowest)
    left = highest - last if step > 0 else last - lowest
    return min(1.0, max(0.0, 1 - left / whole)), max(0, left) // abs(step)


def _widening(sequence: Sequence) -> tuple[str, ...]:
    """What gives it all values of bigint, column included; nothing where it has them."""
    statements = []
    if sequence.table and sequence.column_type in ("smallint", "integer"):
        statements.append(f"ALTER TABLE {sequence.table} ALTER COLUMN {sequence.column} TYPE bigint")
    up = int(sequence.increment) > 0
    end = int(sequence.highest) if up else int(sequence.lowest)
    if sequence.type != "bigint" or end != (2**63 - 1 if up else -(2**63)):
        statements.append(f"ALTER SEQUENCE {sequence.name} AS bigint NO {'MAXVALUE' if up else 'MINVALUE'}")
    return tuple(statements)


def judge_constraints(constraints: Iterable[Unchecked]) -> list[Finding]:
    return [
        owners_only(
            Finding(
                Severity.WARNING,
                "unchecked_constraint",
                f"{each.of} {each.constraint}",
                f"Rows from before it may break it ({each.definition}). Checking fails at the first that does.",
                (f"ALTER {'DOMAIN' if each.of_domain else 'TABLE'} {each.of} VALIDATE CONSTRAINT {each.constraint}",),
            ),
            each.mine,
        )
        for each in constraints
    ]
