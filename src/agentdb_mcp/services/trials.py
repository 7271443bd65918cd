"""Plans of statements, as things are and with indexes that there are not: by hypopg, or built and rolled back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentdb_mcp.advice.indexes import Column, Existing, Index, Key, Table
from agentdb_mcp.advice.plans import Plan
from agentdb_mcp.errors import AgentDBError, BudgetExceeded, InvalidArgument, NotAllowed, SqlError, StatementRefused
from agentdb_mcp.execution import Statement, planning
from agentdb_mcp.gate.tokens import scan
from agentdb_mcp.models import Result
from agentdb_mcp.services.look import Look

Method = Literal["hypopg", "build"]
Relation = tuple[str, str]

# EXPLAIN plans statements with $1 and no values from this version on.
GENERIC_PLAN_VERSION = 160_000


@dataclass(frozen=True, slots=True)
class Tried:
    """An index in a plan: `name` is what the plan calls it."""

    index: Index
    name: str
    size_bytes: int


@dataclass(slots=True)
class Trials:
    """Makes plans within one look. `Trials.of` asks Postgres what it can."""

    look: Look
    version: int
    hypopg: str | None
    build_max_bytes: int

    @classmethod
    async def of(cls, look: Look, build_max_bytes: int) -> Trials:
        version, hypopg = (await look.read(planning.planner()))[0].rows[0]
        return cls(look, int(str(version)), None if hypopg is None else str(hypopg), build_max_bytes)

    async def explainable(self, sql: str) -> Statement:
        """EXPLAIN of the text, judged. Raises AgentDBError where it is refused or cannot be planned."""
        generic = has_placeholders(sql)
        if generic and self.version < GENERIC_PLAN_VERSION:
            raise no_generic_plan(self.version)
        statement = explain(sql, generic=generic)
        await self.look.judge(statement.sql)
        return statement

    async def plans(
        self, indexes: Sequence[Index], method: Method, statements: Sequence[Statement]
    ) -> tuple[list[Plan], list[Tried]]:
        """The statements' plans in a world with the indexes; afterwards it is as before. Raises AgentDBError."""
        if method == "hypopg":
            return await self._imagined(indexes, self.hypopg or "", statements)
        return await self._built(indexes, statements)

    def method(self, indexes: Iterable[Index], tables: Mapping[Relation, Table]) -> Method:
        """How all of these can be tried. Raises NotAllowed saying why they cannot."""
        wanted = list(indexes)
        if self.hypopg is not None and {index.using for index in wanted} <= planning.HYPOPG_METHODS:
            return "hypopg"
        why = (
            "the extension hypopg is not installed"
            if self.hypopg is None
            else f"hypopg knows {', '.join(sorted(planning.HYPOPG_METHODS))} only"
        )
        for index in wanted:
            table = tables[index.relation]
            if table.bytes > self.build_max_bytes:
                raise NotAllowed(
                    f"Trying an index on {table.schema}.{table.name} is not available: {why}, and the table has"
                    f" {table.bytes:,} bytes, where an index is built to be tried on at most"
                    f" {self.build_max_bytes:,}.",
                    hint="With the extension hypopg tables of any size can be tried; policy sets build_max_bytes.",
                )
        return "build"

    async def check_building(self, index: Index) -> None:
        """Really building is a change of the schema, though it is rolled back. Raises the gate's refusal."""
        try:
            await self.look.judge(index.sql())
        except (StatementRefused, BudgetExceeded) as error:
            error.message = f"Without hypopg an index is built to be tried, and rolled back. {error.message}"
            raise

    async def _imagined(
        self, indexes: Sequence[Index], hypopg: str, statements: Sequence[Statement]
    ) -> tuple[list[Plan], list[Tried]]:
        forget = planning.forget_hypotheses(hypopg)
        made = [planning.hypothesize(hypopg, index.sql()) for index in indexes]
        results = await self.look.run([Statement(forget), *made, *statements], undo=f"{forget}; ")
        found = results[1 : len(made) + 1]
        tried = [
            Tried(index, str(result.rows[0][0]), int(str(result.rows[0][1])))
            for index, result in zip(indexes, found, strict=True)
        ]
        return [plan_of(result) for result in results[len(made) + 1 :]], tried

    async def _built(self, indexes: Sequence[Index], statements: Sequence[Statement]) -> tuple[list[Plan], list[Tried]]:
        # The same names each time: each text takes a place of its own in pg_stat_statements.
        names = [f"agentdb_hypothetical_{number}" for number in range(1, len(indexes) + 1)]
        steps = [planning.wait_shortly()]
        for index, name in zip(indexes, names, strict=True):
            steps += [planning.build(index.sql(name)), planning.size_of(index.schema, name)]
        results = await self.look.run([*steps, *statements], read_only=False)
        sizes = [int(str(result.rows[0][0])) for result in results[2 : len(steps) : 2]]
        tried = [Tried(index, name, size) for index, name, size in zip(indexes, names, sizes, strict=True)]
        return [plan_of(result) for result in results[len(steps) :]], tried


def explain(sql: str, params: Sequence[object] = (), *, analyze: bool = False, generic: bool = False) -> Statement:
    """EXPLAIN of the caller's text, which stands after it byte for byte."""
    return Statement(_prefix(analyze=analyze, generic=generic) + sql, params)


def _prefix(*, analyze: bool, generic: bool) -> str:
    options = ["FORMAT JSON", "VERBOSE"]
    if analyze:
        options += ["ANALYZE", "BUFFERS"]
    if generic:
        options.append("GENERIC_PLAN")
    return f"EXPLAIN ({', '.join(options)}) "


def in_callers_text(error: AgentDBError, statement: Statement, sql: str) -> AgentDBError:
    """An error's position counted in what the caller wrote."""
    if error.position is not None:
        at = error.position - (len(statement.sql) - len(sql))
        error.position = at if at > 0 else None
    return error


def has_placeholders(sql: str) -> bool:
    return any(token.kind == "other" and token.text.startswith("$") for token in scan(sql).tokens)


def no_generic_plan(version: int) -> InvalidArgument:
    return InvalidArgument(
        f"The text has $1, … and no values for them, which Postgres plans from 16 on; this is {version // 10_000}.",
        hint="Write example values into the SQL; explain_query also takes them in params.",
    )


def plan_of(result: Result) -> Plan:
    """Of EXPLAIN's answer. Raises SqlError where there is none."""
    try:
        return Plan.of(result.rows[0][0] if result.rows else None)
    except ValueError:
        raise SqlError(
            "Postgres makes no plan of this statement.", hint="Explain a query, INSERT, UPDATE, DELETE or MERGE."
        ) from None


async def read_tables(look: Look, wanted: Collection[Relation]) -> dict[Relation, Table]:
    """Those of the tables that there are, by schema and name."""
    if not wanted:
        return {}
    result = (await look.read(planning.tables(wanted)))[0]
    names = [column.name for column in result.columns]
    found = [_table(dict(zip(names, row, strict=True))) for row in result.rows]
    return {table.relation: table for table in found}


def _table(row: dict[str, Any]) -> Table:
    columns = {item["name"]: Column(item["name"], item["width"], item["distinct"]) for item in row["columns"]}
    indexes = [
        Existing(
            tuple(None if key is None else Key.of(key["name"], key["option"]) for key in item["keys"]),
            item["using"],
            item["unique"],
        )
        for item in row["indexes"]
    ]
    return Table(
        row["schema"], row["name"], row["kind"], int(row["bytes"]), float(row["rows"]), columns, indexes,
        row["partition"],
    )  # fmt: skip
