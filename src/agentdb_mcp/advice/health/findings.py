"""What is wrong with an object, how bad it is, why, and the SQL that mends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

# Cents a month for so many bytes; None where nobody pays by the byte.
Cents = Callable[[int], float] | None


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


_WORST_FIRST = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)


@dataclass(frozen=True, slots=True)
class Finding:
    """`object` is as SQL writes it; `sql` are statements to run in order, none where there is nothing to run."""

    severity: Severity
    check: str
    object: str
    why: str
    sql: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on something is worth telling: bytes, rows, seconds, and parts of a whole from 0 to 1."""

    unused_bytes: int = 1_000_000
    unused_table_scans: int = 100
    bloated_bytes: int = 10_000_000
    bloated_share: float = 0.5
    foreign_key_rows: int = 10_000
    dead_rows: int = 1_000
    dead_rows_behind: int = 10_000
    changed_rows: int = 1_000
    age_warning: int = 1_000_000_000
    age_critical: int = 1_600_000_000
    sequence_warning: float = 0.75
    sequence_critical: float = 0.9
    hit_rate: float = 0.95
    low_hit_rate: float = 0.8
    hit_rate_blocks: int = 10_000
    connections_warning: float = 0.8
    connections_critical: float = 0.95
    transaction_s: float = 60
    transaction_warning_s: float = 300
    transaction_critical_s: float = 3600
    kept_wal_bytes: int = 1_000_000_000
    lag_s: float = 60
    storage_warning: float = 0.25
    storage_critical: float = 0.75


def sorted_findings(findings: Sequence[Finding]) -> list[Finding]:
    """The worst first, by object."""
    return sorted(findings, key=lambda each: (_WORST_FIRST.index(each.severity), each.check, each.object))


def owners_only(finding: Finding, mine: bool) -> Finding:
    """Without its SQL where the object is somebody else's, who alone may run it."""
    return (
        finding
        if mine or not finding.sql
        else replace(finding, why=f"{finding.why} Only its owner may mend it.", sql=())
    )


def space(size: int, cents: Cents) -> str:
    """`12.3 MB`, with its price where there is one."""
    return bytes_text(size) + (f" ({cents(size):.2f} cents a month)" if cents else "")


def bytes_text(size: int) -> str:
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
