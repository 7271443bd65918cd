"""Plans of statements, as things are and with indexes that there are not: by hypopg, or built and rolled back."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
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

# How statements begin that Postgres plans, after comments.
PLANNED = re.compile(
    r"(?:\s|--[^\n]*+\n|/\*.*?\*/|\()*+(?:SELECT|WITH|VALUES|TABLE|INSERT|UPDATE|DELETE|MERGE)\b",
    re.IGNORECASE | re.DOTALL,
)
SYNTAX_ERROR = "42601"
# As of `params`.
MOST_PARAMETERS = 1000
_PREPARE = "PREPARE {} AS "
_PLACE = re.compile(r"\$([0-9]{1,9})")


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
    hypopg: str | None
    build_max_bytes: int

    @classmethod
    async def of(cls, look: Look, build_max_bytes: int) -> Trials:
        (hypopg,) = (await look.read(planning.hypopg_schema()))[0].rows[0]
        return cls(look, None if hypopg is None else str(hypopg), build_max_bytes)

    async def plans(
        self, indexes: Sequence[Index], method: Method, planned: Sequence[Planned]
    ) -> tuple[list[Plan], list[Tried]]:
        """The statements' plans in a world with the indexes; afterwards it is as before. Raises AgentDBError."""
        groups = [one.statements(number) for number, one in enumerate(planned, 1)]
        statements = [statement for group in groups for statement in group]
        if method == "hypopg":
            results, tried = await self._imagined(indexes, self.hypopg or "", statements)
        else:
            results, tried = await self._built(indexes, statements)
        ends = list(accumulate(len(group) for group in groups))
        return [plan_of(results[end - 1]) for end in ends], tried

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
    ) -> tuple[list[Result], list[Tried]]:
        forget = planning.forget_hypotheses(hypopg)
        made = [planning.hypothesize(hypopg, index.sql()) for index in indexes]
        results = await self.look.run([Statement(forget), *made, *statements], undo=f"{forget}; ")
        found = results[1 : len(made) + 1]
        tried = [
            Tried(index, str(result.rows[0][0]), int(str(result.rows[0][1])))
            for index, result in zip(indexes, found, strict=True)
        ]
        return results[len(made) + 1 :], tried

    async def _built(
        self, indexes: Sequence[Index], statements: Sequence[Statement]
    ) -> tuple[list[Result], list[Tried]]:
        # The same names each time: each text takes a place of its own in pg_stat_statements.
        names = [f"agentdb_hypothetical_{number}" for number in range(1, len(indexes) + 1)]
        steps = [planning.wait_shortly()]
        for index, name in zip(indexes, names, strict=True):
            steps += [planning.build(index.sql(name)), planning.size_of(index.schema, name)]
        results = await self.look.run([*steps, *statements], read_only=False)
        sizes = [int(str(result.rows[0][0])) for result in results[2 : len(steps) : 2]]
        tried = [Tried(index, name, size) for index, name, size in zip(indexes, names, sizes, strict=True)]
        return results[len(steps) :], tried


@dataclass(frozen=True, slots=True)
class Planned:
    """A caller's text that is to be planned: it stands in what is sent byte for byte, after words of ours.

    With $1, … and no values it is prepared, and the plan is that for any values. (EXPLAIN (GENERIC_PLAN) is no way:
    the extended protocol has it take values too, and plans with them.)
    """

    sql: str
    params: Sequence[object] = ()
    analyze: bool = False
    places: int = 0

    @classmethod
    def of(cls, sql: str, params: Sequence[object] = (), *, analyze: bool = False) -> Planned:
        """Raises InvalidArgument for a text with more places for values than a call takes."""
        places = 0 if params else _places(sql)
        if places > MOST_PARAMETERS:
            raise InvalidArgument(f"The SQL names ${places}; at most ${MOST_PARAMETERS} is possible.")
        return cls(sql, params, analyze, places)

    @property
    def generic(self) -> bool:
        return self.places > 0

    @property
    def judged(self) -> str:
        """What the gate is asked about."""
        return self._explain + self.sql

    def statements(self, number: int = 1) -> list[Statement]:
        """The last one answers the plan. `number` tells apart those of one call."""
        if not self.generic:
            return [Statement(self.judged, self.params)]
        name = f"agentdb_plan_{number}"
        return [
            planning.any_values(),
            Statement(f"{_PREPARE.format(name)}{self.sql}"),
            Statement(f"{self._explain}EXECUTE {name}({', '.join(['NULL'] * self.places)})"),
        ]

    def counted(self, error: AgentDBError) -> AgentDBError:
        """An error whose position is that in the caller's text, and which says where EXPLAIN is not its to write."""
        if error.sqlstate == SYNTAX_ERROR and not PLANNED.match(self.sql):
            error.hint = "Give a query, INSERT, UPDATE, DELETE or MERGE alone: EXPLAIN is put before it here."
        if error.position is not None:
            ours = _PREPARE.format("agentdb_plan_1") if self.generic else self._explain
            error.position = error.position - len(ours) if error.position > len(ours) else None
        return error

    @property
    def _explain(self) -> str:
        return f"EXPLAIN (FORMAT JSON, VERBOSE{', ANALYZE, BUFFERS' if self.analyze else ''}) "


def _places(sql: str) -> int:
    """The greatest number of $1, $2, …; 0 where there are none."""
    tokens = [token.text for token in scan(sql).tokens if token.kind == "other"]
    return max((int(found[1]) for text in tokens if (found := _PLACE.match(text))), default=0)


async def plan_as_is(look: Look, planned: Planned) -> Plan:
    """The plan in the world as it is. Raises AgentDBError, its position in the caller's text."""
    try:
        return plan_of((await look.run(planned.statements()))[-1])
    except AgentDBError as error:
        raise planned.counted(error) from None


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
