"""One tenant's agent: what it does all day, and its journal of what it was told is done."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import anyio

from benchmarks.soak.client import Answer, Client, Figures

ATTEMPTS = 60
TABLES = {
    "agent": "CREATE TABLE IF NOT EXISTS journal (n bigint PRIMARY KEY, batch bigint NOT NULL, body text)",
    "global": "CREATE TABLE IF NOT EXISTS copies (batch bigint NOT NULL, n bigint NOT NULL)",
}
COPIED = 20
LARGE = "SELECT i, repeat(chr(97 + i % 26), 4000) AS body FROM generate_series(1, 100) AS i"
PAGED = 45
DDL = (
    "CREATE TABLE IF NOT EXISTS scratch (id int)",
    "ALTER TABLE IF EXISTS scratch ADD COLUMN IF NOT EXISTS note text",
    "CREATE TABLE IF NOT EXISTS scratch_two AS SELECT g AS id FROM generate_series(1, 50) AS g",
    "DROP TABLE IF EXISTS scratch",
    "DROP TABLE IF EXISTS scratch_two",
)
REFUSED = (
    "SELEC 1",
    "SELECT 1; SELECT 2",
    "COPY journal TO '/tmp/soak'",
    "CREATE ROLE soak_intruder SUPERUSER LOGIN",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT passwd FROM pg_shadow",
    "ALTER SYSTEM SET work_mem = '1MB'",
)
REFUSALS = ("sql_error", "statement_refused", "not_allowed", "invalid_argument")
TRIAL = ("ALTER TABLE journal ADD COLUMN tried int", "UPDATE journal SET tried = 1 WHERE n < 10")


@dataclass(frozen=True, slots=True)
class Use:
    """A call that was acknowledged, on one of the tenant's databases."""

    answer: Answer
    tool: str
    databases: tuple[str, ...]
    received_bytes: int = 0


@dataclass
class Journal:
    """Numbers of rows: those that were sent, and of these those that were acknowledged; `batches` are copies."""

    last: int = 0
    groups: list[tuple[int, ...]] = field(default_factory=list)
    acknowledged: set[int] = field(default_factory=set)
    batches: set[int] = field(default_factory=set)
    batches_acknowledged: set[int] = field(default_factory=set)
    uses: list[Use] = field(default_factory=list)

    def numbers(self, count: int) -> tuple[int, ...]:
        """New ones, that are written all or none."""
        group = tuple(range(self.last + 1, self.last + count + 1))
        self.last += count
        self.groups.append(group)
        return group


@dataclass
class Agent:
    """`pace_s` is the mean pause between two calls."""

    number: int
    client: Client
    figures: Figures
    pace_s: float
    journal: Journal = field(default_factory=Journal)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.number)

    @property
    def user(self) -> str:
        return f"soak-user-{self.number}"

    @property
    def workspace(self) -> str:
        return f"soak-workspace-{self.number}"

    async def prepare(self) -> None:
        """Tables in both databases, which are made on the way; again where that did not work."""
        for database, sql in TABLES.items():
            for _ in range(ATTEMPTS):
                if (await self.tool("prepare", "execute_sql", database, sql=sql)).ok:
                    break
                await anyio.sleep(self.dice.uniform(0.1, 1))
            else:
                raise RuntimeError(f"{self.user} got no {database} database in {ATTEMPTS} attempts")

    async def live(self, over: anyio.Event) -> None:
        does = {
            self.read: 20,
            self.see_own_writes: 15,
            self.write: 20,
            self.transaction: 10,
            self.change_schema: 6,
            self.page: 5,
            self.copy: 4,
            self.ask_for_much: 3,
            self.be_refused: 5,
            self.try_migration: 3,
            self.use_rest: 9,
        }
        while not over.is_set():
            with anyio.move_on_after(self.dice.expovariate(1 / self.pace_s)):
                await over.wait()
                return
            (act,) = self.dice.choices(list(does), weights=list(does.values()))
            await act()

    async def tool(self, what: str, name: str, database: str = "agent", *expected: str, **arguments: Any) -> Answer:
        given = {"database": database} | arguments if name != "copy_rows" else arguments
        answer = await self.client.tool(name, given)
        self.figures.note(what, answer, *expected)
        if answer.ok:
            # What get_rows gives, its server had in memory.
            used = {"copy_rows": ("agent", "global"), "get_rows": ()}.get(name, (database,))
            rows = answer.body.get("rows", []) if name == "execute_sql" else []
            size = sum(len(value) for row in rows for value in row if isinstance(value, str))
            self.journal.uses.append(Use(answer, name, used, size))
        return answer

    def expect(self, what: str, found: object, wanted: object) -> None:
        if found != wanted:
            self.figures.wrong(f"{what} of {self.user}: {str(found)[:100]} instead of {str(wanted)[:100]}")

    # --- what it does ---------------------------------------------------------------------------------------------

    async def read(self) -> None:
        number = self.dice.randrange(10**6)
        answer = await self.tool("read", "execute_sql", sql="SELECT $1::int + 1 AS next", params=[number])
        if answer.ok:
            self.expect("a read", answer.body["rows"], [[number + 1]])

    async def see_own_writes(self) -> None:
        known = sorted(self.journal.acknowledged)[-20:]
        sql = "SELECT count(*)::int FROM journal WHERE n = ANY($1::bigint[])"
        answer = await self.tool("own writes", "execute_sql", sql=sql, params=[known])
        if answer.ok:
            self.expect("acknowledged rows", answer.body["rows"], [[len(known)]])

    async def write(self) -> None:
        (number,) = group = self.journal.numbers(1)
        sql = "INSERT INTO journal VALUES ($1, $1, $2)"
        answer = await self.tool("write", "execute_sql", sql=sql, params=[number, "x" * self.dice.randrange(200)])
        self._acknowledge(answer, group)

    async def transaction(self) -> None:
        group = self.journal.numbers(3)
        sql = "INSERT INTO journal VALUES ($1, $2)"
        statements = [{"sql": sql, "params": [number, group[0]]} for number in group]
        self._acknowledge(await self.tool("transaction", "execute_transaction", statements=statements), group)

    def _acknowledge(self, answer: Answer, group: tuple[int, ...]) -> None:
        if answer.ok:
            self.journal.acknowledged.update(group)

    async def change_schema(self) -> None:
        await self.tool("DDL", "execute_sql", self.dice.choice(("agent", "global")), sql=self.dice.choice(DDL))

    async def page(self) -> None:
        """The next pages are in one server's memory: another one does not know them, and says so.

        A busy server reads on for a moment only, and then says that there are more than it holds.
        """
        sql = f"SELECT g::int FROM generate_series(1, {PAGED}) AS g"
        answer = await self.tool("page", "execute_sql", sql=sql, max_rows=20)
        rows: list[Any] = answer.body["rows"] if answer.ok else []
        while answer.ok and (handle := answer.body.get("next_handle")):
            answer = await self.tool("next page", "get_rows", "agent", "invalid_argument", handle=handle, max_rows=20)
            rows += answer.body["rows"] if answer.ok else []
        if answer.ok and not answer.body["truncated"]:
            self.expect("pages", rows, [[number] for number in range(1, PAGED + 1)])

    async def copy(self) -> None:
        batch = len(self.journal.batches) + 1
        self.journal.batches.add(batch)
        query = f"SELECT {batch}::bigint AS batch, g::bigint AS n FROM generate_series(1, {COPIED}) AS g"
        answer = await self.tool("copy", "copy_rows", from_database="agent", query=query, to_table="copies")
        if answer.ok:
            self.journal.batches_acknowledged.add(batch)

    async def ask_for_much(self) -> None:
        answer = await self.tool("large answer", "execute_sql", sql=LARGE, max_rows=100)
        if answer.ok:
            self.expect("rows of a large answer", len(answer.body["rows"]), 100)

    async def be_refused(self) -> None:
        sql = self.dice.choice(REFUSED)
        answer = await self.tool("refused", "execute_sql", "agent", *REFUSALS, sql=sql)
        if answer.ok:
            self.figures.wrong(f"it was let run: {sql}")

    async def try_migration(self) -> None:
        statements = [{"sql": sql} for sql in TRIAL]
        answer = await self.tool("try_migration", "try_migration", statements=statements)
        if answer.ok:
            self.expect("a trial", answer.body["succeeded"], True)

    async def use_rest(self) -> None:
        path = f"/api/workspaces/{self.workspace}/database"
        page = {"table": "journal", "limit": 20, "order_by": [{"column": "n", "descending": True}]}
        routes: tuple[tuple[str, str, Any], ...] = (
            ("GET", path, None),
            ("GET", f"{path}/tables", None),
            ("POST", f"{path}/query", page),
            ("POST", f"{path}/execute", {"sql": "SELECT count(*) FROM journal"}),
            ("GET", f"{path}/export?table=journal&format=csv", None),
            ("GET", f"{path}/connection", None),
            ("GET", f"/api/users/{self.user}/usage", None),
            ("GET", f"/api/users/{self.user}/activity?limit=20", None),
            ("GET", f"/api/users/{self.user}/global-database/tables", None),
        )
        method, route, body = self.dice.choice(routes)
        answer = await self.client.rest(method, route, body)
        name = route.replace(self.workspace, "W").replace(self.user, "U").partition("?")[0]
        self.figures.note(f"{method} {name}", answer)
