# ruff: noqa: T201
"""Mutated SQL for `gate.classify`: it must not raise, not hang, and what it calls certainly a read must not write.

Seeds are the texts of tests/unit/test_classify.py and of the attack cases, and those of `AGENTDB_SQL_CORPUS` if it
names a file. Every certain read runs in a read-write transaction of a role that owns the database, on a Postgres of
its own, and is committed: it must take no transaction id and leave the database as it was. `AGENTDB_FUZZ_SECONDS`
bounds the time (60), `AGENTDB_FUZZ_SEED` names the run. Prints `N passed, N failed` and the texts that failed, and
adds those to cases.jsonl.
"""

from __future__ import annotations

import base64
import faulthandler
import hashlib
import json
import os
import random
import re
import runpy
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import asyncpg

sys.path.insert(0, str(Path(__file__).parent))
from attack_runner import OWN_CASES, SHARED_CASES, load_cases
from fingerprint import fingerprint
from regression_runner import bisect, read_corpus

from agentdb_mcp import gate
from agentdb_mcp.embedded import EmbeddedPostgres, embedded_postgres
from agentdb_mcp.errors import AgentDBError, InvalidArgument, StatementRefused
from agentdb_mcp.execution import guard, wire
from agentdb_mcp.execution.guard import GuardedConnection
from agentdb_mcp.execution.session import RESET
from agentdb_mcp.gate import TextLimits
from agentdb_mcp.models import Kind, StatementFacts

UNIT_TABLES = Path(__file__).parents[1] / "unit" / "test_classify.py"
SLOWEST_S = 1.0
HANG_S = 30.0
BATCH = 400
LONGEST_SEED = 20_000
STATEMENT_MS = 200
MOST_ROWS = 2_000
OWNER = "fuzz_owner"

# What the seeds name, so that most of them run; every function but `twice` writes, and nothing hidden does.
OBJECTS = """
    CREATE TABLE t (id int PRIMARY KEY, v text, x numeric, y boolean, z int, a int, b int, c int, d timestamptz,
        j jsonb, r int4range, arr int[]);
    INSERT INTO t SELECT i, 'v' || i, i, true, i, i, i, i, now(), '{"a": [1]}', int4range(i, 9), ARRAY[i]
        FROM generate_series(1, 5) i;
    CREATE TABLE u (id int PRIMARY KEY, t_id int, b int);
    INSERT INTO u VALUES (1, 1, 1), (2, 2, 2);
    CREATE TABLE a (id int, b int, c int); INSERT INTO a VALUES (1, 1, 1);
    CREATE TABLE b (id int, b int, e int); INSERT INTO b VALUES (1, 1, 1);
    CREATE TABLE c (id int, b int); INSERT INTO c VALUES (1, 1);
    CREATE TABLE d (id2 int); CREATE TABLE e (id2 int);
    CREATE TABLE log (n serial, what text);
    CREATE SEQUENCE sq; SELECT nextval('sq');
    CREATE VIEW seen AS SELECT id, v FROM t;
    CREATE FUNCTION note() RETURNS boolean LANGUAGE plpgsql AS
        $$BEGIN INSERT INTO log (what) VALUES ('noted'); RETURN true; END$$;
    CREATE FUNCTION f(i int DEFAULT 1) RETURNS int LANGUAGE plpgsql AS
        $$BEGIN PERFORM note(); RETURN i; END$$;
    CREATE FUNCTION twice(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * i';
    CREATE SCHEMA app; CREATE FUNCTION app.allowed(i int) RETURNS boolean LANGUAGE sql AS 'SELECT note()';
    CREATE FUNCTION app.count(i int) RETURNS boolean LANGUAGE sql AS 'SELECT note()';
    CREATE FUNCTION app.lower(i text) RETURNS boolean LANGUAGE sql AS 'SELECT note()';
    CREATE PROCEDURE p() LANGUAGE sql AS 'SELECT note()';
"""

WRITES = (
    "note()", "f(1)", "public.note()", '"note"()', "note ( )", "app.count(1)", "app.lower('x')",
    '"app"."lower"(\'x\')', 'U&"n\\006fte"()', "nextval('sq')", "setval('sq', 7)", "pg_catalog.nextval('sq')",
    "currval('sq') + nextval('sq')", "delete from t", "insert into t values (99, 'z')",
    "insert into log (what) values ('x') returning 1", "update t set v = 'q' returning 1", "truncate t",
    "drop table u", "create table made (i int)", "into made", "for update", "for no key update of t", "for share",
    "with w as (delete from u returning 1) select 1 from w",
    "(with w as (insert into log (what) values ('x') returning 1) select n from w)", "merge into u using t on false",
    "pg_notify('c', 'x')", "txid_current()", "pg_current_xact_id()", "call p()", "do $$begin perform note(); end$$",
    "query_to_xml('select note()', true, true, '')", "ts_stat('select note()::text::tsvector')",
    "pg_logical_emit_message(true, 'a', 'b')", "commit", "prepare p as delete from t", "copy t to stdout",
)  # fmt: skip
SPACES = (*" \t\n\r\f\v\x1c\x1f\x85\xa0\u1680\u180e\u2003\u2028\u2029\u200b\u2060\u3000\ufeff", "\r\n", "")
NOISE = (
    "/**/", "/*/**/*/", "/*/**/1--*/", "/* ' */", "/* $$ */", '/* " */', "/*/*/", "*/", "/*", "/*--*/", "--\n", "--\r",
    "--/*\n", "-- x\r\n", "--'\n", "--\u2028", ";", ";;", "; select 1", "'", '"', "''", '""', "\\", "\\'", "E'\\''",
    "e'\\\\'", "E'\\", "N'x'", "b'01'", "X'1F'", "U&'\\0041'", 'U&"\\0074"', "u&'!0041' uescape '!'", "$$", "$a$",
    "$$x$$", "$a$'$a$", "$1", "$1$$", "a$$", "a$b$", "1$$", "$é$x$é$", "\xa0$$", "::text", "::int", "::regclass",
    "::public.t", "::t", "operator(pg_catalog.+)", "operator(public.+)", "||", "+", "-", "@", "@-", "#", "&&", "<->",
    "!~~*", "?|", "=-1", "@>/*", "+--\n", "(", ")", "[", "]", "{", "}", "`", ":", ":=", "=>", "..", ",", ".", "*", "%",
    "1e", "0x1F", "1_000", "1..2", ".5", "\x01", "\ud800", "\0", "\u212a", "\u017f", "ı", "é", "😀", "\u0301",
)  # fmt: skip
_WORDS = """
    select from where with recursive as insert update delete merge into values table for share key no nowait skip
    locked returning on conflict do set only lateral rows unnest cast array row case when then else end explain
    analyze verbose union all intersect except order by limit offset fetch first group having window over partition
    filter within using join left cross natural tablesample materialized not null is and or in between like similar
    exists any some distinct collate at time zone interval date timestamp operator uescape function call show create
    drop temp to begin atomic t u v id count lower now current_date format costs off true extract trim xmltable
    json_table copy prepare execute declare cursor refresh
"""
WORDS = tuple(_WORDS.split())
WRAPPERS = (
    "explain {}", "EXPLAIN ANALYZE {}", "explain (analyze, costs off) {}", "explain (analyze false) {}",
    "explain verbose {}", "explain (select 1) {}", "explain explain {}", "explain (generic_plan) {}", "({})", "(({}))",
    "with q as ({}) select * from q", "with q as materialized ({}) select 1",
    "with q(a) as not materialized ({}) table q", "with recursive q as ({}) select * from q", "select * from ({}) q",
    "select ({})", "select exists ({})", "select array({})", "values (({}))", "select 1 where 1 in ({})",
    "{} union all {}", "({}) union ({})", "{}; {}", "select case when true then ({}) end",
    "select * from t, lateral ({}) q", "select * into made from ({}) q", "create table made as {}",
    "declare k cursor for {}", "prepare k as {}", "copy ({}) to stdout", "table t; {}", "select $${}$$", "select '{}'",
    "/* {} */ select 1", "select 1 -- {}", "/*/*{}*/*/ select 1", "select 1 as \"{}\"", "select E'{}'", "do $${}$$",
    "{} for update", "{} limit 1", "select coalesce(({}), null)", "show {}", "\n\n;{};\n", "create view made as {}",
    "select 1 from t order by ({})", "insert into log (what) {}", "select {}", "explain ({})",
)  # fmt: skip
# {} is hidden from one reader and perhaps not from the other.
HIDINGS = (
    "/* {} */", "/*/**/{}*/", "/*/* */ {} */", "/*/**/1--*/ {}", "/*/**/1--*/\n{}", "/**/{}/**/", "--\r{}", "--\n{}",
    "-- {}\n", "--\u2028{}", "--\x85{}", "--\x0b{}", "$$ {} $$", "$a$ {} $a$", "$a$ $$ {} $a$", "\xa0$$ {} $$",
    "a$$ {} $$", "1$$ {} $$", "$1$ {} $1$", "é$$ {} $$", "_$$ {} --$$", "$$$${}", "'{}'", "'' || {} || ''",
    "'\\' || {} || '\\'", "E'\\' || {} || '", "E'\\'' || {} || ''", "'\\'' || {} --'", "e'\\\\' || {} || ''",
    "N'' || {}", "U&'\\' || {} || ''", "'a' -- \n 'b' || {}", "'a'\n'b' || {}", "B'0' || {}", '"{}"', '"""" || {}',
    '"\\" || {} || "', ", {}", ", ({})", "+ {}", "- {}", "(select {})", "; {}", "[{}]", "{{{}}}", "`{}`",
    "case when {} then 1 end", "{}::text", "cast({} as text)", "array[{}]", "row({})", "filter (where {})",
    "over (order by {})", "at time zone {}", "?{}", ":{}", "#{}", "# {}\n", "//{}\n", "{{# {} #}}", "{{% {} %}}",
    "{{{{ {} }}}}", "/*+ {} */", "/*! {} */", "@{}", "<<{}>>", "operator(public.+) {}", "collate {}", "tablesample {}",
    "from {}", "where {}", "as {}", "join {} on true",
)  # fmt: skip
_PART = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*|[0-9]+|'(?:[^']|'')*'|\"[^\"]*\"|\s+|--[^\n]*|/\*.*?\*/|.", re.DOTALL)


# --- mutations ------------------------------------------------------------------------------------------------


class Mutator:
    """Texts made out of seeds; the same seed number gives the same texts."""

    def __init__(self, seeds: Sequence[str], number: int) -> None:
        self.random = random.Random(number)
        self.seeds = [seed for seed in seeds if len(seed) <= LONGEST_SEED]
        self.liked: list[str] = []
        self._ways: tuple[Callable[[str], str], ...] = (
            *[self._add_noise] * 3,
            *[self._hide_write] * 4,
            *[self._put_write] * 3,
            *[self._wrap] * 3,
            self._space,
            self._case,
            self._quote,
            self._drop_part,
            self._copy_part,
            self._swap_parts,
            self._new_word,
            self._join,
            *[self._character] * 2,
        )

    def text(self) -> str:
        made = self._some()
        for _ in range(self.random.choice((1, 1, 2, 2, 3, 5))):
            made = self.random.choice(self._ways)(made)
        return self._grow(made) if self.random.random() < 0.02 else made

    def like(self, text: str) -> None:
        """A certain read is worth going on from."""
        if len(text) < 500 and self.random.random() < 0.2:
            if len(self.liked) >= 3_000:
                self.liked[self.random.randrange(3_000)] = text
            else:
                self.liked.append(text)

    def _some(self) -> str:
        return self.random.choice(self.liked if self.liked and self.random.random() < 0.4 else self.seeds)

    def _at(self, text: str) -> tuple[list[str], int]:
        parts = _PART.findall(text)
        return parts, self.random.randrange(len(parts) + 1)

    def _insert(self, text: str, what: str) -> str:
        parts, at = self._at(text)
        return "".join((*parts[:at], what, *parts[at:]))

    def _add_noise(self, text: str) -> str:
        return self._insert(text, self.random.choice(NOISE))

    def _hide_write(self, text: str) -> str:
        write = self.random.choice(WRITES)
        hiding = self.random.choice(HIDINGS).replace("{{", "\1").replace("}}", "\2").replace("{}", write)
        return self._insert(text, self._spaced(hiding.replace("\1", "{").replace("\2", "}")))

    def _put_write(self, text: str) -> str:
        """A write where a value was, so that Postgres takes the whole."""
        forms = ("{}", "{}", "({})", "(select {})", "{}::text", "- {}", "(1, {})", "'' || {}", "{} is null")
        write = self.random.choice(forms).replace("{}", self.random.choice(WRITES))
        return self._replace(text, lambda part: part.isdigit() or part[0] == "'" or part.islower(), lambda _: write)

    def _spaced(self, text: str) -> str:
        return self.random.choice(("", " ", "\n")) + text + self.random.choice(("", " ", "\n"))

    def _wrap(self, text: str) -> str:
        wrapper = self.random.choice(WRAPPERS)
        while "{}" in wrapper:
            wrapper = wrapper.replace("{}", "\1", 1)
        first = wrapper.replace("\1", text, 1)
        return first.replace("\1", self._some())

    def _space(self, text: str) -> str:
        parts, at = self._at(text)
        spaces = [n for n, part in enumerate(parts) if part.isspace()]
        if spaces:
            parts[self.random.choice(spaces)] = self.random.choice(SPACES)
            return "".join(parts)
        return "".join((*parts[:at], self.random.choice(SPACES), *parts[at:]))

    def _case(self, text: str) -> str:
        return self._replace(text, str.isidentifier, lambda w: self.random.choice((w.upper(), w.title(), w.swapcase())))

    def _quote(self, text: str) -> str:
        """A word or a string written in another way."""

        def other(part: str) -> str:
            if part[0] == "'":
                inner = part[1:-1]
                forms = ("$${}$$", "$x${}$x$", "E'{}'", "U&'{}'", "N'{}'", "'{}' ''", "'{}'\n''", "'' '{}'", "e'{}\\''")
                return self.random.choice(forms).replace("{}", inner)
            coded = f'U&"\\{ord(part[0]):04x}{part[1:]}"'
            return self.random.choice((f'"{part}"', coded, part.replace("s", "\u017f"), part.replace("k", "\u212a")))

        return self._replace(text, lambda part: part[0] == "'" or part.isidentifier(), other)

    def _drop_part(self, text: str) -> str:
        parts, at = self._at(text)
        return "".join((*parts[:at], *parts[at + self.random.choice((1, 1, 2, 5)) :]))

    def _copy_part(self, text: str) -> str:
        parts, at = self._at(text)
        some = parts[at : at + self.random.choice((1, 2, 6))]
        _, to = self._at(text)
        return "".join((*parts[:to], *some, *parts[to:]))

    def _swap_parts(self, text: str) -> str:
        parts, at = self._at(text)
        if len(parts) > 1:
            at, other = at % len(parts), self.random.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        return "".join(parts)

    def _new_word(self, text: str) -> str:
        word = self.random.choice(WORDS)
        if self.random.random() < 0.5:
            return self._insert(text, f" {word} ")
        return self._replace(text, str.isidentifier, lambda _: word)

    def _join(self, text: str) -> str:
        """The beginning of one text with the end of another."""
        mine, at = self._at(text)
        theirs, cut = self._at(self._some())
        return "".join(mine[:at]) + self.random.choice(("", " ")) + "".join(theirs[cut:])

    def _character(self, text: str) -> str:
        at = self.random.randrange(len(text) + 1)
        new = self.random.choice("'\"$\\/*-;()[]{}:,.@#&|^~`?!%<>=+_0aEeUuNnBbXx \n\r\t\0\x0b\xa0é\u212a\ud800😀")
        return self.random.choice(
            (text[:at] + new + text[at:], text[:at] + new + text[at + 1 :], text[:at] + text[at + 1 :])
        )

    def _grow(self, text: str) -> str:
        """Something many times over: for the time it takes."""
        parts, at = self._at(text)
        openings = ("(", "array[", "case when ", "not ", "- ", "/*", "(select ", "cast(", "x[", "join t ", "union ")
        some = self.random.choice(
            ("".join(parts[at : at + self.random.choice((1, 2, 4))]), self.random.choice(openings))
        )
        return "".join((*parts[:at], some * self.random.choice((5, 20, 60, 90, 400, 3_000)), *parts[at:]))

    def _replace(self, text: str, wanted: Callable[[str], bool], new: Callable[[str], str]) -> str:
        parts, _ = self._at(text)
        places = [n for n, part in enumerate(parts) if wanted(part)]
        if places:
            at = self.random.choice(places)
            parts[at] = new(parts[at])
        return "".join(parts)


def seeds() -> list[str]:
    """The texts of the unit tests and of the attack cases, each once."""
    texts = [text for value in runpy.run_path(str(UNIT_TABLES)).values() for text in _texts(value)]
    for path in (SHARED_CASES, OWN_CASES):
        for case in load_cases(path) if path.exists() else []:
            if "sql_z" in case:
                texts.append(zlib.decompress(base64.b64decode(case["sql_z"])).decode("utf-8"))
            texts += [*case.get("setup", []), *([case["sql"]] if "sql" in case else [])]
            texts += [step["sql"] for step in case.get("steps", [])]
    named = os.environ.get("AGENTDB_SQL_CORPUS")
    return list(dict.fromkeys(texts + (read_corpus(Path(named)) if named else [])))


def _texts(value: object) -> Iterator[str]:
    """The tables of the unit tests: lists of texts, or of tuples that begin with one."""
    for entry in value if isinstance(value, list) else []:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, tuple) and entry and isinstance(entry[0], str):
            yield entry[0]


# --- classify -------------------------------------------------------------------------------------------------


class Watchdog:
    """Names the text and ends the program if one text takes for ever."""

    def __init__(self) -> None:
        self.text: str | None = None
        self.since = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(1)
            text, since = self.text, self.since
            if text is not None and time.monotonic() - since > HANG_S:
                print(f"classify hangs: {json.dumps(text)[:20_000]}\n0 passed, 1 failed", flush=True)
                os._exit(1)

    def begin(self, text: str) -> None:
        faulthandler.dump_traceback_later(2 * HANG_S, exit=True)
        self.since, self.text = time.monotonic(), text

    def end(self) -> None:
        self.text = None
        faulthandler.cancel_dump_traceback_later()


@dataclass
class Report:
    """What was done, and each text that failed with the reason."""

    classified: int = 0
    refused: int = 0
    reads: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    slowest_text: str = ""
    failed: dict[str, str] = field(default_factory=dict)


def classify(text: str, report: Report, watchdog: Watchdog | None = None) -> bool:
    """Whether it is certainly a read; whatever classify must not do is in the report."""
    report.classified += 1
    if watchdog:
        watchdog.begin(text)
    started = time.perf_counter()
    facts: StatementFacts | None = None
    try:
        facts = gate.classify(text, TextLimits())
    except (InvalidArgument, StatementRefused):
        report.refused += 1
    except Exception as error:  # noqa: BLE001  (that is what is looked for)
        report.failed[text] = f"classify raises {type(error).__name__}: {str(error)[:200]}"
    seconds = time.perf_counter() - started
    if watchdog:
        watchdog.end()
    if seconds > max(report.slowest, SLOWEST_S / 4):  # a busy machine is no finding
        seconds = min(seconds, *(_again(text, TextLimits(max_sql_bytes=131_072 - extra)) for extra in (1, 2)))
    if seconds > report.slowest:
        report.slowest, report.slowest_text = seconds, text
    if seconds > SLOWEST_S:
        report.failed[text] = f"classify takes {seconds:.1f} s"
    return facts is not None and facts.certain and facts.kinds == {Kind.READ}


def _again(text: str, limits: TextLimits) -> float:
    """Other limits are not in the cache."""
    started = time.perf_counter()
    with suppress(AgentDBError):
        gate.classify(text, limits)
    return time.perf_counter() - started


# --- a live server --------------------------------------------------------------------------------------------


class Live:
    """A database that a plain role owns, and a superuser's view of it."""

    def __init__(self, postgres: EmbeddedPostgres, superuser: asyncpg.Connection) -> None:
        self.postgres = postgres
        self.superuser = superuser
        self.connection: GuardedConnection | None = None

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[asyncpg.Connection]:
        yield self.superuser

    async def renew(self) -> None:
        await self.close()
        await self.superuser.execute("RESET ALL; DROP SCHEMA IF EXISTS public, app CASCADE")
        await self.superuser.execute(f"DROP OWNED BY {OWNER}; CREATE SCHEMA public AUTHORIZATION {OWNER}")
        await self.superuser.execute(f"GRANT ALL ON DATABASE fuzz TO {OWNER}")
        connection = await self._connect()
        await connection.execute(OBJECTS)
        await self.superuser.execute("SELECT lo_from_bytea(0, 'large'); ANALYZE; SET search_path = pg_catalog, public")

    async def _connect(self) -> GuardedConnection:
        if self.connection is None or self.connection.is_closed():
            uri = f"postgresql://{OWNER}:fuzz@127.0.0.1:{self.postgres.port}/fuzz"
            self.connection = await asyncpg.connect(
                uri,
                connection_class=GuardedConnection,
                statement_cache_size=0,
                server_settings={"client_min_messages": "error"},
            )
            wire.speak_text(self.connection)
            guard.install(self.connection)
        return self.connection

    async def close(self) -> None:
        if self.connection is not None:
            self.connection.terminate()
            self.connection = None

    async def state(self) -> tuple[object, ...]:
        """The fingerprint, and the next transaction id of the whole cluster, which nothing else moves."""
        if self.connection is not None and not self.connection.is_closed():
            await self.connection.execute("SELECT 1")
        next_id = await self.superuser.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
        return next_id, *await fingerprint(self)

    async def run(self, text: str) -> tuple[str | None, str]:
        """Run and commit it by the extended protocol: what is wrong with it, and how it ended."""
        connection = await self._connect()
        connection.guard.begin(4_000_000)
        outcome = "ran"
        try:
            await connection.execute(
                f"BEGIN READ WRITE; SET LOCAL statement_timeout = {STATEMENT_MS}; SELECT 1; SAVEPOINT s"
            )
            try:
                outcome = await _execute(connection, text)
                if not connection.is_in_transaction():
                    return "it ends the transaction", outcome
            except asyncpg.PostgresError as error:
                outcome = type(error).__name__
                if not connection.is_in_transaction():
                    return f"it ends the transaction: {error}", outcome
                await connection.execute("ROLLBACK TO s")
            return await self._commit(connection), outcome
        except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError) as error:
            await self.close()
            return None, "cut off" if connection.guard.exceeded else f"connection lost: {type(error).__name__}"

    async def _commit(self, connection: GuardedConnection) -> str | None:
        """A transaction id divides by zero: one round trip for the question, the end and the reset."""
        asked = "SELECT 1 / (pg_catalog.pg_current_xact_id_if_assigned() IS NULL)::int"
        try:
            await connection.execute(f"{asked}; COMMIT; {RESET}")
        except asyncpg.DivisionByZeroError:
            await connection.execute(f"ROLLBACK; {RESET}")
            return "it writes (it takes a transaction id)"
        except asyncpg.PostgresError as error:
            await connection.execute(f"ROLLBACK; {RESET}")
            return f"its commit fails: {error}"
        return None


async def _execute(connection: GuardedConnection, text: str) -> str:
    """By the extended protocol, as the product sends it, without the driver's own look-ups of types."""
    statement = await connection._protocol.prepare("", text, None, record_class=asyncpg.Record)
    for oid in statement._init_types():
        connection._protocol.get_settings().set_builtin_type_codec(oid, str(oid), "", "scalar", "text", "text")
    statement._init_codecs()
    arguments = [None] * len(statement._get_parameters())
    _, _, complete = await connection._protocol.bind_execute(statement, arguments, "", MOST_ROWS, True, None)
    return "ran" if complete else "ran (cut)"


@asynccontextmanager
async def live() -> AsyncIterator[Live]:
    async with embedded_postgres() as postgres:
        first = await asyncpg.connect(postgres.uri().reveal())
        for sql in (
            "ALTER SYSTEM SET autovacuum = off",
            "SELECT pg_reload_conf()",
            f"CREATE ROLE {OWNER} LOGIN PASSWORD 'fuzz'",
            f"CREATE DATABASE fuzz OWNER {OWNER}",
        ):
            await first.execute(sql)
        await first.close()
        superuser = await asyncpg.connect(postgres.uri("fuzz").reveal(), statement_cache_size=0)
        built = Live(postgres, superuser)
        try:
            await built.renew()
            yield built
        finally:
            await built.close()
            await superuser.close()


async def check_reads(built: Live, texts: Sequence[str], report: Report) -> None:
    """Run certain reads; who writes is in the report, and the database is as before."""
    before = await built.state()
    wrong = False
    for text in texts:
        problem, outcome = await built.run(text)
        report.reads += 1
        report.outcomes[outcome] += 1
        if problem:
            wrong = True
            report.failed[text] = problem
    if await built.state() == before:
        return
    if not wrong:
        await _find(built, texts, report)
    await built.renew()


async def _find(built: Live, texts: Sequence[str], report: Report) -> None:
    async def changes(some: Sequence[str]) -> bool:
        await built.renew()
        start = await built.state()
        for text in some:
            await built.run(text)
        return await built.state() != start

    guilty = await bisect(texts, changes)
    for group in guilty:
        report.failed[group[0]] = f"it changes the database ({len(group)} texts together)"
    if not guilty:
        report.failed[texts[0]] = f"this or one of {len(texts) - 1} texts after it changed the database once"


# --- the run --------------------------------------------------------------------------------------------------


async def fuzz(built: Live, texts: Iterator[str], report: Report, *, like: Callable[[str], None] | None = None) -> None:
    """Classify every text, run the certain reads in batches."""
    watchdog = Watchdog()
    reads: dict[str, None] = {}
    for text in texts:
        if classify(text, report, watchdog):
            reads[text] = None
            if like:
                like(text)
        if len(reads) >= BATCH:
            await check_reads(built, list(reads), report)
            reads.clear()
    await check_reads(built, list(reads), report)


def mutated(mutator: Mutator, *, count: int | None = None, seconds: float | None = None) -> Iterator[str]:
    """The seeds as they are, then what is made of them, until the number or the time is reached."""
    until = time.monotonic() + seconds if seconds is not None else None
    made = 0
    yield from mutator.seeds
    while (count is None or made < count) and (until is None or time.monotonic() < until):
        made += 1
        yield mutator.text()


def as_case(text: str, why: str) -> dict[str, Any]:
    name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    packed: dict[str, str] = {"sql": text}
    if len(text) > 2_000:
        packed = {"sql_z": base64.b64encode(zlib.compress(text.encode("utf-8"))).decode()}
    case = {"id": f"fuzz-{name}", "group": "parse", "mode": "over_budget", "must": "harmless"} | packed
    checks: list[dict[str, Any]] = [{"unchanged": True}]
    if why.startswith("classify takes"):
        checks.append({"max_seconds": 20})
    return {**case, "check": checks, "note": f"called certainly a read: {why}" if "classify" not in why else why}


def keep(failed: dict[str, str]) -> int:
    """Add what was found to our cases, which are seeds of the next run."""
    known = {case["id"] for case in load_cases(OWN_CASES)}
    new = [case for text, why in failed.items() if (case := as_case(text, why))["id"] not in known]
    with OWN_CASES.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(case, ensure_ascii=True) + "\n" for case in new)
    return len(new)


async def run_all(seconds: float, number: int) -> Report:
    report = Report()
    mutator = Mutator(seeds(), number)
    async with live() as built:
        await fuzz(built, mutated(mutator, seconds=seconds), report, like=mutator.like)
    return report


def main() -> None:
    number = int(os.environ.get("AGENTDB_FUZZ_SEED") or random.SystemRandom().randrange(1_000_000))
    report = anyio.run(run_all, float(os.environ.get("AGENTDB_FUZZ_SECONDS", "60")), number)
    print(f"seed {number}: {report.classified} texts, {report.refused} refused, {report.reads} certain reads executed")
    print("of those: " + ", ".join(f"{count} {what}" for what, count in report.outcomes.most_common(12)))
    print(f"slowest classify {report.slowest:.3f} s: {json.dumps(report.slowest_text[:100])}")
    for text, why in list(report.failed.items())[:50]:
        print(f"{why}: {json.dumps(text[:2_000])}")
    if report.failed:
        print(f"{keep(report.failed)} added to {OWN_CASES.name}")
    print(f"{report.classified - len(report.failed)} passed, {len(report.failed)} failed")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
