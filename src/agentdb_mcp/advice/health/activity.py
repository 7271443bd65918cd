"""Connections, long transactions, cache hit rates, replication, and what the stored bytes cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agentdb_mcp.advice.health.findings import Finding, Severity, Thresholds, bytes_text

DATABASE = "database"


@dataclass(frozen=True, slots=True)
class Transaction:
    """An open one: the backend's state, and for how long it has been open; `query` is its last."""

    pid: int
    state: str
    seconds: float
    query: str


@dataclass(frozen=True, slots=True)
class Slot:
    name: str
    active: bool
    kept_bytes: int


@dataclass(frozen=True, slots=True)
class Standby:
    name: str
    state: str
    lag_s: float | None = None


def judge_connections(whose: str, used: int, most: int | None, limits: Thresholds) -> list[Finding]:
    """`whose` is the subject, such as `The agent`."""
    if not most or used / most < limits.connections_warning:
        return []
    severity = Severity.CRITICAL if used / most >= limits.connections_critical else Severity.WARNING
    why = f"{whose} has {used} of {most} connections. Make fewer calls at the same time, and shorter ones."
    return [Finding(severity, "connections", DATABASE, why)]


def judge_transactions(transactions: Iterable[Transaction], limits: Thresholds) -> list[Finding]:
    """Long ones keep dead rows from being cleaned up, and locks."""
    found = []
    for each in transactions:
        if each.seconds < limits.transaction_s:
            continue
        severity = (
            Severity.CRITICAL
            if each.seconds >= limits.transaction_critical_s
            else Severity.WARNING
            if each.seconds >= limits.transaction_warning_s
            else Severity.INFO
        )
        why = (
            f"A transaction of this role is open for {each.seconds:,.0f} s ({each.state}): {each.query}\n"
            "Until it ends, dead rows stay and its locks hold. An agent's call ends at its time limit; others are"
            f" ended by their client, or by the database's owner with pg_terminate_backend({each.pid})."
        )
        found.append(Finding(severity, "long_transaction", f"backend {each.pid}", why))
    return found


def hit_rate(hit: int, read: int) -> float | None:
    """The part of blocks that were in memory, from 0 to 1; None before any was asked for."""
    return hit / (hit + read) if hit + read else None


def judge_buffers(what: str, hit: int, read: int, limits: Thresholds) -> list[Finding]:
    rate = hit_rate(hit, read)
    if rate is None or rate >= limits.hit_rate or hit + read < limits.hit_rate_blocks:
        return []
    severity = Severity.WARNING if rate < limits.low_hit_rate else Severity.INFO
    why = (
        f"Of {hit + read:,} blocks of {what} {100 * rate:.1f} % were in memory; {100 * limits.hit_rate:.0f} % or more"
        " is good. Look for queries that read whole tables with get_top_queries."
    )
    return [Finding(severity, "cache_hit_rate", what, why)]


def judge_replication(slots: Iterable[Slot], standbys: Iterable[Standby], limits: Thresholds) -> list[Finding]:
    """What needs rights that an agent has not: there is no SQL to run."""
    found = [
        Finding(
            Severity.WARNING,
            "replication_slot",
            slot.name,
            f"Nobody reads it, and it keeps {bytes_text(slot.kept_bytes)} of WAL. Its owner should drop it.",
        )
        for slot in slots
        if not slot.active and slot.kept_bytes >= limits.kept_wal_bytes
    ]
    found += [
        Finding(Severity.WARNING, "replication_lag", each.name, f"It is {each.lag_s:,.0f} s behind ({each.state}).")
        for each in standbys
        if each.lag_s is not None and each.lag_s >= limits.lag_s
    ]
    return found


def judge_growth(size: int, month_cents: float | None, budget_cents: float | None, limits: Thresholds) -> list[Finding]:
    """Whether keeping the database a month takes much of the month's budget."""
    if month_cents is None or not budget_cents or month_cents / budget_cents < limits.storage_warning:
        return []
    part = month_cents / budget_cents
    why = (
        f"Keeping {bytes_text(size)} for a month costs {month_cents:.2f} cents, {100 * part:.0f} % of the user's budget"
        " of all databases. Drop or delete what is not needed; DROP and TRUNCATE free space at once."
    )
    return [
        Finding(Severity.CRITICAL if part >= limits.storage_critical else Severity.WARNING, "storage", DATABASE, why)
    ]
