"""The search for indexes: candidates from the plans, each tried, the best taken, until none is worth its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio.to_thread

from agentdb_mcp.advice import greedy
from agentdb_mcp.advice.candidates import Need, candidates, needs
from agentdb_mcp.advice.greedy import Trial
from agentdb_mcp.advice.indexes import Index, Table, estimated_bytes
from agentdb_mcp.advice.plans import Plan
from agentdb_mcp.errors import (
    AgentDBError,
    InvalidArgument,
    NotAllowed,
    ResultTooLarge,
    SqlError,
    StatementRefused,
    StatementTimeout,
)
from agentdb_mcp.services.look import Look
from agentdb_mcp.services.trials import Method, Planned, Relation, Trials, plan_as_is, read_tables

# Errors that say something about one statement and nothing about the others.
_OF_THE_STATEMENT = (SqlError, StatementRefused, InvalidArgument, ResultTooLarge)
LOCK_NOT_AVAILABLE = "55P03"
# What the last look at all chosen indexes together is left, of the time of the whole.
RESERVED_S = 3.0


@dataclass(slots=True)
class Asked:
    """A statement of the workload. `skipped` says why it has no plan, where it has none."""

    number: int
    sql: str
    calls: int | None = None
    planned: Planned = field(default_factory=lambda: Planned(""))
    plan: Plan | None = None
    relations: set[Relation] = field(default_factory=set)
    cost_after: float | None = None
    skipped: str | None = None

    @property
    def cost_before(self) -> float | None:
        return None if self.plan is None else self.plan.total_cost


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An index to create, and what the statements whose plans use it cost without and with all that are recommended."""

    index: Index
    size_bytes: int
    cost_before: float
    cost_after: float
    queries: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """`tried` counts the trials that it took, and `method` is how they were made, where there were any.

    `remarks` name tables, `notes` nothing that anybody wrote.
    """

    recommendations: tuple[Recommendation, ...]
    asked: tuple[Asked, ...]
    method: Method | None
    tried: int
    remarks: tuple[str, ...] = ()
    budget_note: str | None = None
    notes: tuple[str, ...] = ()


async def find_indexes(
    trials: Trials, asked: Sequence[Asked], max_bytes: int, max_trials: int, *, lenient: bool = False
) -> Advice:
    """The indexes of at most so many bytes together that lower the statements' costs most.

    `lenient` leaves out what cannot be planned; else it raises, with the number of the statement.
    """
    for one in asked:
        await _plan(trials.look, one, lenient=lenient)
    planned = [one for one in asked if one.plan is not None]
    relations = set[Relation]().union(*(one.relations for one in planned))
    search = _Search(trials, planned, await read_tables(trials.look, relations), max_bytes, max_trials)
    await search.prepare()
    await search.choose()
    await search.leave_out()
    made = await search.look_at_all()
    return Advice(
        tuple(made),
        tuple(asked),
        search.method,
        search.tried,
        tuple(search.remarks),
        trials.look.budget_note,
        trials.look.notes,
    )


async def _plan(look: Look, one: Asked, *, lenient: bool) -> None:
    try:
        one.planned = Planned.of(one.sql)
        await look.judge(one.planned.judged)
        one.plan = await plan_as_is(look, one.planned)
        one.relations = set(one.plan.relations().values())
        one.cost_after = one.plan.total_cost
    except AgentDBError as error:
        if lenient and isinstance(error, _OF_THE_STATEMENT):
            one.skipped = error.message
            return
        error.message = f"Query {one.number}: {error.message}"
        raise


@dataclass(slots=True)
class _Search:
    trials: Trials
    asked: Sequence[Asked]
    tables: Mapping[Relation, Table]
    max_bytes: int
    max_trials: int
    method: Method | None = None
    tried: int = 0
    remarks: list[str] = field(default_factory=list)
    candidates: list[Index] = field(default_factory=list)
    sizes: dict[Index, int] = field(default_factory=dict)
    chosen: list[Index] = field(default_factory=list)
    now: dict[int, float] = field(default_factory=dict)
    _busy: set[Relation] = field(default_factory=set)
    _known: dict[frozenset[Index], dict[int, float]] = field(default_factory=dict)

    async def prepare(self) -> None:
        """Find candidates, and how they can be tried. Raises the gate's refusal of building them."""
        self.now = {one.number: one.cost_before or 0.0 for one in self.asked}
        wanted = await anyio.to_thread.run_sync(_needs, [one.plan for one in self.asked if one.plan])
        left_out: dict[Relation, str] = {}
        for index in candidates(wanted, self.tables):
            try:
                self.method = self.trials.method([index], self.tables)
            except NotAllowed as error:
                left_out[index.relation] = error.message
                continue
            if estimated_bytes(index, self.tables[index.relation]) <= self.max_bytes:
                self.candidates.append(index)
        if self.method == "build" and self.candidates:
            await self.trials.check_building(self.candidates[0])
        self.remarks += [*left_out.values(), *_remarks(self.tables.values())]

    async def choose(self) -> None:
        """Take the best candidate again and again."""
        weights = {one.number: float(one.calls or 1) for one in self.asked}
        remaining, cut = self.candidates, False
        while remaining:
            found = list[Trial]()
            for index in remaining:
                if cut := not self._may_go_on():
                    break
                costs = await self._costs(index, [*self.chosen, index])
                if costs is not None:
                    found.append(Trial(index, costs, self.sizes[index]))
            if self.method == "build" and not self.chosen:
                await self._plan_again()
            taken = greedy.best(found, self.now, weights, self._left_bytes())
            useful = [trial.index for trial in greedy.useful(found, self.now)]
            if taken is not None:
                self.chosen.append(taken.index)
                self.now |= taken.costs
            remaining = [] if taken is None or cut else [index for index in useful if index != taken.index]
        for schema, name in sorted(self._busy):
            self.remarks.append(f"{schema}.{name} is being written to by another call: ask again when it has ended.")
        if cut:
            self.remarks.append("Not every candidate was tried: the time, or the number of trials, of a call was over.")

    async def _plan_again(self) -> None:
        """Building an index counts the rows, and a rollback leaves the count: what was planned before knew less."""
        plans, _ = await self.trials.plans([], "build", [one.planned for one in self.asked])
        for one, plan in zip(self.asked, plans, strict=True):
            one.plan, one.cost_after = plan, plan.total_cost
            self.now[one.number] = plan.total_cost

    async def leave_out(self) -> None:
        """Drop what later choices made superfluous."""
        while len(self.chosen) > 1 and self._may_go_on():
            without = dict[Index, dict[int, float]]()
            for index in self.chosen:
                costs = await self._costs(index, [other for other in self.chosen if other != index])
                if costs is not None:
                    without[index] = costs
            superfluous = greedy.superfluous(without, self.now)
            if superfluous is None:
                return
            self.chosen.remove(superfluous)
            self.now |= without[superfluous]

    async def look_at_all(self) -> list[Recommendation]:
        """What the chosen ones come to together, those that gain most first."""
        if not self.chosen or self.method is None:
            return []
        try:
            plans, tried = await self.trials.plans(self.chosen, self.method, [one.planned for one in self.asked])
        except (SqlError, StatementTimeout):
            self.remarks.append("The costs are those of the last trials: the time was over, or another call wrote.")
            return self._as_tried()
        for one, plan in zip(self.asked, plans, strict=True):
            one.cost_after = plan.total_cost
        users = [(one, plan.used_indexes()) for one, plan in zip(self.asked, plans, strict=True)]
        made = [
            _recommendation(each.index, each.size_bytes, [one for one, names in users if each.name in names])
            for each in tried
        ]
        return sorted((one for one in made if one.queries), key=lambda one: one.cost_after - one.cost_before)

    def _as_tried(self) -> list[Recommendation]:
        for one in self.asked:
            one.cost_after = self.now[one.number]
        return [_recommendation(index, self.sizes[index], self._affected(index)) for index in self.chosen]

    def _affected(self, about: Index) -> list[Asked]:
        return [one for one in self.asked if about.relation in one.relations]

    async def _costs(self, about: Index, indexes: Iterable[Index]) -> dict[int, float] | None:
        """Of the statements that name the index's table, in a world with these indexes; None where that fails."""
        affected = self._affected(about)
        near = set[Relation]().union(*(one.relations for one in affected))
        world = [index for index in indexes if index.relation in near]
        known = self._known.get(frozenset([*world]))
        if known is not None and all(one.number in known for one in affected):
            return {one.number: known[one.number] for one in affected}
        if self._busy & {index.relation for index in world}:
            return None
        if not world:
            return {one.number: one.cost_before or 0.0 for one in affected}
        self.tried += 1
        try:
            plans, tried = await self.trials.plans(world, self.method or "build", [one.planned for one in affected])
        except (SqlError, StatementTimeout) as error:
            if error.sqlstate == LOCK_NOT_AVAILABLE:
                self._busy |= {index.relation for index in world}
            return None  # there is no index of this kind on such a column, or it takes too long
        self.sizes |= {each.index: each.size_bytes for each in tried}
        costs = {one.number: plan.total_cost for one, plan in zip(affected, plans, strict=True)}
        self._known.setdefault(frozenset(world), {}).update(costs)
        return costs

    def _left_bytes(self) -> int:
        return self.max_bytes - sum(self.sizes[index] for index in self.chosen)

    def _may_go_on(self) -> bool:
        return self.tried < self.max_trials and self.trials.look.left_s > RESERVED_S


def _recommendation(index: Index, size_bytes: int, used: Sequence[Asked]) -> Recommendation:
    before = sum(one.cost_before or 0.0 for one in used)
    after = sum(one.cost_after or 0.0 for one in used)
    return Recommendation(index, size_bytes, before, after, tuple(one.number for one in used))


def _needs(plans: Sequence[Plan]) -> list[Need]:
    return [need for plan in plans for need in needs(plan)]


def _remarks(tables: Iterable[Table]) -> list[str]:
    said = []
    for table in tables:
        name = f"{table.schema}.{table.name}"
        if table.partition:
            said.append(f"{name} is a part of a partitioned table: indexes on such are not looked at.")
        elif table.indexable and not table.analyzed:
            said.append(f"{name} was never analyzed, so its costs are guesses: run ANALYZE {name} and ask again.")
    return said
