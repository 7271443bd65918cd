"""What must hold at the end: writes, orphans, the audit log, secrets."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path

import anyio.to_thread
import asyncpg

from agentdb_mcp.local_stack import CONTROL_DATABASE
from benchmarks.soak.client import ACCESS, Ears, Figures
from benchmarks.soak.house import House, Life
from benchmarks.soak.report import Report
from benchmarks.soak.tenant import COPIED, Agent, Journal, Use
from benchmarks.soak.trouble import LOSS_S

EMULATOR_DATABASE = "neon_emulator"
# For the local Neon API to drop what was deleted last.
PURGE_S = 30
NOT_OURS = f"^(postgres|template[01]|{CONTROL_DATABASE}|{EMULATOR_DATABASE}|{EMULATOR_DATABASE}_template_.*)$"


def check_answers(house: House, figures: Figures, expected: Iterable[str], report: Report) -> None:
    for what, answer in figures.unknown:
        if not any(answer.sent <= end and answer.received >= begin for _, begin, end in house.cluster.outages):
            figures.wrong(f"{what}: {answer.code}: {answer.said}")
    wrong = figures.mistakes.total()
    report.check("answers that are wrong, or errors that nobody should get", wrong, "0", wrong == 0)
    report.details += [f"{count} × {what}" for what, count in figures.mistakes.most_common(20)]
    missing = sorted(what for what in expected if not figures.outcomes[what, "ok"])
    report.check("kinds of load that never succeeded", ", ".join(missing) or 0, "0", not missing)


# --- writes -----------------------------------------------------------------------------------------------------------


async def names_of_databases(house: House) -> dict[tuple[str, str], tuple[str, str]]:
    """By owner and scope, its id in the control database and its name on the cluster."""
    control, emulator = await _both(house)
    try:
        rows = await control.fetch(
            "SELECT 'agent' AS scope, id, workspace_id AS owner, neon_project_id AS project FROM workspace_database"
            " UNION ALL SELECT 'global', id, user_id, neon_project_id FROM user_global_database"
        )
        names = dict(await emulator.fetch("SELECT project_id, name FROM database"))
    finally:
        await control.close()
        await emulator.close()
    return {(row["owner"], row["scope"]): (row["id"], names[row["project"]]) for row in rows if row["project"] in names}


async def check_writes(house: House, agents: Sequence[Agent], report: Report) -> None:
    names = await names_of_databases(house)
    acknowledged = unknown = 0
    problems: list[str] = []
    for agent in agents:
        journal = agent.journal
        rows = await _rows(house, names[agent.workspace, "agent"][1], "SELECT n FROM journal")
        copies = await _rows(house, names[agent.user, "global"][1], "SELECT batch FROM copies")
        acknowledged += len(journal.acknowledged) + COPIED * len(journal.batches_acknowledged)
        unknown += journal.last - len(journal.acknowledged)
        problems += [f"{agent.user}: {problem}" for problem in differences(journal, rows, copies)]
    report.check("acknowledged rows that are missing, or there by halves", len(problems), "0", not problems)
    report.facts["rows acknowledged; sent without an answer"] = f"{acknowledged:,}; {unknown:,}"
    report.details += problems[:20]


def differences(journal: Journal, rows: Sequence[int], copies: Sequence[int]) -> list[str]:
    """Between what the client knows and what is there."""
    found, problems = set(rows), []
    if lost := sorted(journal.acknowledged - found):
        problems.append(f"{len(lost)} acknowledged rows are lost, the first is {lost[0]}")
    if halves := [group for group in journal.groups if 0 < len(found.intersection(group)) < len(group)]:
        problems.append(f"{len(halves)} transactions are there by halves, the first is {halves[0]}")
    if found - set(range(1, journal.last + 1)):
        problems.append("there are rows that nobody sent")
    counts = Counter(copies)
    if any(counts[batch] != COPIED for batch in journal.batches_acknowledged):
        problems.append("an acknowledged copy is not whole")
    if any(batch not in journal.batches or count != COPIED for batch, count in counts.items()):
        problems.append("a copy is there by halves, or twice")
    return problems


async def _rows(house: House, database: str, sql: str) -> list[int]:
    connection = await asyncpg.connect(house.uri(database))
    try:
        return [row[0] for row in await connection.fetch(sql)]
    finally:
        await connection.close()


async def _both(house: House) -> tuple[asyncpg.Connection, asyncpg.Connection]:
    return await asyncpg.connect(house.uri(CONTROL_DATABASE)), await asyncpg.connect(house.uri(EMULATOR_DATABASE))


# --- orphans ----------------------------------------------------------------------------------------------------------


async def check_orphans(house: House, report: Report) -> None:
    """What kills left half done is completed by `reconcile`; after it nothing differs."""
    _, found = await house.command("reconcile", "--settled", "0", "--json")
    await house.command("reconcile", "--settled", "0", "--fix", "--json")
    code, left = await house.command("reconcile", "--settled", "0", "--json")
    report.facts["left half done, for reconcile to mend"] = len(found.splitlines())
    report.check("differences after reconcile --fix", len(left.splitlines()), "0", code == 0)
    report.details += left.splitlines()[:20]
    await _purged(house)
    orphans = await _orphans(house)
    report.check("projects, databases, roles without a row, or the other way round", len(orphans), "0", not orphans)
    report.details += orphans[:20]


async def _purged(house: House) -> None:
    """What was deleted goes for good a little later; what does not is found as it is."""
    emulator = await asyncpg.connect(house.uri(EMULATOR_DATABASE))
    try:
        with anyio.move_on_after(PURGE_S):
            while await emulator.fetchval("SELECT true FROM project WHERE state = 'deleted' LIMIT 1"):
                await anyio.sleep(0.2)
    finally:
        await emulator.close()


async def _orphans(house: House) -> list[str]:
    control, emulator = await _both(house)
    try:
        rows = await control.fetch(
            "SELECT neon_project_id AS project, role_name AS role FROM workspace_database WHERE status <> 'deleted'"
            " UNION ALL SELECT neon_project_id, role_name FROM user_global_database WHERE status <> 'deleted'"
        )
        living = "SELECT id FROM project WHERE state IN ('creating', 'ready')"
        projects = {row[0] for row in await emulator.fetch(living)}
        databases = {row[0] for row in await emulator.fetch("SELECT name FROM database")}
        roles = {row[0] for row in await emulator.fetch("SELECT name FROM role")} | {row["role"] for row in rows}
        stand = {row[0] for row in await control.fetch("SELECT datname FROM pg_database WHERE datname !~ $1", NOT_OURS)}
        known = "^(pg_.*|postgres|neon_superuser)$"
        logins = {row[0] for row in await control.fetch("SELECT rolname FROM pg_roles WHERE rolname !~ $1", known)}
    finally:
        await control.close()
        await emulator.close()
    wanted = {row["project"] for row in rows}
    return [
        f"{what} {name}"
        for what, names in (
            ("project", projects ^ (wanted - {None})),
            ("database", stand ^ databases),
            ("role", logins ^ (roles - {None})),
        )
        for name in sorted(names)
    ]


# --- the audit log ----------------------------------------------------------------------------------------------------


async def check_audit(house: House, agents: Sequence[Agent], report: Report) -> None:
    code, told = await house.command("audit", "verify", "--json")
    verified = json.loads(told)
    figure = f"{verified['users']} chains, {verified['entries']:,} entries, {len(verified['broken'])} broken"
    report.check("audit chains as they were written (`audit verify`)", figure, "0 broken", code == 0)
    control = await asyncpg.connect(house.uri(CONTROL_DATABASE))
    try:
        rows = await control.fetch(
            "SELECT user_id, tool, count(*) FROM db_audit_log WHERE decision = 'allowed' GROUP BY user_id, tool"
        )
    finally:
        await control.close()
    entries = {(row[0], row[1]): row[2] for row in rows}
    missing = 0
    for agent in agents:
        wanted = Counter(use.tool for use in agent.journal.uses if not may_be_lost(use))
        missing += sum(max(0, count - entries.get((agent.user, tool), 0)) for tool, count in wanted.items())
    report.check("acknowledged calls without an audit entry, a kill's interval aside", missing, "0", missing == 0)


def may_be_lost(use: Use) -> bool:
    """What was metered and logged of it may have been in a killed process's memory only."""
    life = use.answer.life
    return life is not None and in_last_interval(life, use)


def in_last_interval(life: Life, use: Use) -> bool:
    return life.killed and life.ended is not None and use.answer.received > life.ended - timedelta(seconds=LOSS_S)


# --- secrets ----------------------------------------------------------------------------------------------------------


async def check_secrets(house: House, ears: Ears, report: Report) -> None:
    secrets = ears.secrets | await _passwords(house)
    logs = [*house.folder.glob("*.log"), house.cluster.log, ears.path]
    found = await anyio.to_thread.run_sync(lambda: [name for log in logs for name in _leaks(log, secrets)])
    size = sum(log.stat().st_size for log in logs) / 1_000_000
    found += ears.leaks
    figure = f"{len(found)} in {ears.heard:,} answers and {size:.0f} MB of logs"
    report.check(f"{len(secrets)} passwords, keys and tokens found in answers or logs", figure, "0", not found)
    report.details += found[:20]


async def _passwords(house: House) -> set[str]:
    """Of the run's roles; those of databases that are gone went with them."""
    emulator = await asyncpg.connect(house.uri(EMULATOR_DATABASE))
    try:
        passwords = {row[0] for row in await emulator.fetch("SELECT password FROM role")}
        keys = {row[0] for row in await emulator.fetch("SELECT api_key FROM organization")}
    finally:
        await emulator.close()
    stack = house.stack
    own = {stack.postgres.password.reveal(), stack.encryption_key.reveal(), stack.service_key.reveal()}
    return passwords | keys | own | {stack.emulator.api_key}


def _leaks(log: Path, secrets: set[str]) -> list[str]:
    """Which lines have one, without it."""
    text = log.read_text(errors="replace").lower()
    places = {match.start() for match in re.finditer(ACCESS.pattern, text, re.IGNORECASE)}
    places |= {place for secret in secrets if (place := text.find(secret.lower())) >= 0}
    return [f"{log.name}, line {text.count(chr(10), 0, place) + 1}" for place in sorted(places)]
