"""What the clients used beside what the ledger has of it, process by process."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import asyncpg

from agentdb_mcp.local_stack import CONTROL_DATABASE
from benchmarks.soak.checks import in_last_interval, names_of_databases
from benchmarks.soak.house import House, Life
from benchmarks.soak.report import Report
from benchmarks.soak.tenant import Agent, Use
from benchmarks.soak.trouble import LOSS_S

# The shipped policy's suspend timeout, which is used as well.
TAIL = timedelta(seconds=300)
UNKNOWN_S = 3600.0
Uses = Mapping[Life, dict[str, list[Use]]]
STORED = """
    SELECT split_part(source, ' ', 1) AS source, database_id, min(lower(active)) AS first, max(upper(active)) AS last,
           sum(sent_bytes)::bigint AS sent
      FROM db_usage_ledger WHERE source <> 'provider' AND NOT isempty(active) GROUP BY 1, 2
"""


@dataclass
class Stored:
    """What one process stored: by database until when it was used, and the bytes sent."""

    since: dict[str, datetime] = field(default_factory=dict)
    until: dict[str, datetime] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)


async def check_metering(house: House, agents: Sequence[Agent], report: Report) -> None:
    names = await names_of_databases(house)
    used: defaultdict[Life, defaultdict[str, list[Use]]] = defaultdict(lambda: defaultdict(list))
    for agent in agents:
        ids = {"agent": names[agent.workspace, "agent"][0], "global": names[agent.user, "global"][0]}
        for use in agent.journal.uses:
            if use.answer.life is not None:
                for database in use.databases:
                    used[use.answer.life][ids[database]].append(use)
    matched = match(used, await _stored(house))
    unmatched = [life.name for life in used if life not in matched]
    report.check("processes of which the ledger has nothing", ", ".join(unmatched) or 0, "0", not unmatched)
    losses = {life: loss_s(life, used[life], matched[life]) for life in matched}
    for life, loss in losses.items():
        if loss > LOSS_S * life.killed:
            report.details.append(f"{life.name} from {life.started:%T} to {life.ended:%T}: {loss:.1f} s not stored")
    killed = max((loss for life, loss in losses.items() if life.killed), default=0.0)
    ended = max((loss for life, loss in losses.items() if not life.killed), default=0.0)
    uses = sum(len(agent.journal.uses) for agent in agents)
    line = f"{LOSS_S:g} s"
    report.check("use that a killed process had not stored, the longest", f"{killed:.1f} s", line, killed <= LOSS_S)
    report.check("use that a process that ended in order had not stored", f"{ended:.1f} s", "0 s", ended == 0)
    short = sum(bytes_missing(life, used[life], matched[life]) for life in matched)
    report.check("bytes of answers that are not in the ledger, a kill's interval aside", short, "0", short == 0)
    report.facts["acknowledged uses; processes that served"] = f"{uses:,}; {len(used)}"


async def _stored(house: House) -> list[Stored]:
    control = await asyncpg.connect(house.uri(CONTROL_DATABASE))
    try:
        rows = await control.fetch(STORED)
    finally:
        await control.close()
    found: dict[str, Stored] = {}
    for row in rows:
        stored, database = found.setdefault(row["source"], Stored()), row["database_id"]
        stored.since[database], stored.until[database] = row["first"], row["last"] - TAIL
        stored.sent[database] = row["sent"]
    return list(found.values())


def match(used: Uses, stored: Sequence[Stored]) -> dict[Life, Stored]:
    """The ledger names processes by random identifiers: the one whose databases' first and last uses fit is the one."""
    lives = list(used)
    pairs = sorted((misfit_s(used[life], each), i, j) for i, life in enumerate(lives) for j, each in enumerate(stored))
    found: dict[int, int] = {}
    for seconds, i, j in pairs:
        if seconds < UNKNOWN_S and i not in found and j not in found.values():
            found[i] = j
    return {lives[i]: stored[j] for i, j in found.items()}


def misfit_s(used: dict[str, list[Use]], stored: Stored) -> float:
    """Seconds between the uses of one and of the other, for the database in the middle."""
    gaps = []
    for database, uses in used.items():
        if database not in stored.until:
            gaps.append(UNKNOWN_S)
            continue
        first = min(use.answer.received for use in uses) - stored.since[database]
        last = max(use.answer.received for use in uses) - stored.until[database]
        gaps.append(abs(first.total_seconds()) + abs(last.total_seconds()))
    return statistics.median(gaps)


def loss_s(life: Life, used: dict[str, list[Use]], stored: Stored) -> float:
    """How long before its end the first call was acknowledged that is surely not stored."""
    assert life.ended is not None
    never = datetime.min.replace(tzinfo=life.ended.tzinfo)
    lost = [
        use.answer.received
        for database, uses in used.items()
        for use in uses
        if use.answer.sent > stored.until.get(database, never)
    ]
    return max(0.0, (life.ended - min(lost)).total_seconds()) if lost else 0.0


def bytes_missing(life: Life, used: dict[str, list[Use]], stored: Stored) -> int:
    """At least: the client counts the text of values alone."""
    missing = 0
    for database, uses in used.items():
        known = sum(use.received_bytes for use in uses if not in_last_interval(life, use))
        missing += max(0, known - stored.sent.get(database, 0))
    return missing
