"""The way of one call: resolve, judge, run, meter."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from agentdb_mcp.errors import (
    BudgetExceeded,
    InvalidArgument,
    SqlError,
    StatementTimeout,
)
from agentdb_mcp.execution import Call, Pools, Sink, Statement
from agentdb_mcp.models import (
    BudgetState,
    Kind,
    Limits,
    Result,
    Scope,
    StatementFacts,
    Tenant,
)
from agentdb_mcp.policy import Policy
from agentdb_mcp.services import recording
from agentdb_mcp.services.calls import Calls, waking_notes
from agentdb_mcp.services.databases import Databases, OpenDatabase
from agentdb_mcp.services.held_rows import nothing_held
from agentdb_mcp.services.look import Look
from agentdb_mcp.services.origin import current_origin
from agentdb_mcp.services.recording import Recorder, recorded
from agentdb_mcp.services.spending import Allowance, Spending
from agentdb_mcp.services.teaching import READ_S, teach

__all__ = ["Answer", "Queries", "waking_notes"]

READ_ONLY_VIOLATION = "25006"
NOT_PERMITTED = "42501"
# Whose mistakes are explained by the catalog: people in the explorer see it beside their statement.
TAUGHT = frozenset({"mcp", "rest"})

Found = TypeVar("Found")

Around = Callable[[Call], Call]


@dataclass(frozen=True, slots=True)
class Answer:
    """What each statement gave, a sentence on the budget from `warning` on, and others worth knowing.

    `database` is the key of the target that it came from.
    """

    results: list[Result]
    budget_note: str | None = None
    notes: tuple[str, ...] = ()
    database: str = ""


class Queries:
    """Runs agents' statements and our catalog reads on tenants' databases."""

    def __init__(
        self,
        policy: Policy,
        databases: Databases,
        pools: Pools,
        spending: Spending | None,
        recorder: Recorder | None = None,
    ) -> None:
        self.calls = Calls(policy, databases, pools, spending, recorder)
        self._policy = policy
        self._databases = databases
        self._pools = pools
        self._recorder = recorder

    async def execute(
        self,
        tenant: Tenant,
        scope: Scope,
        statements: Sequence[Statement],
        *,
        max_rows: int | None = None,
        transaction: bool = False,
        keep: bool = True,
        hold: bool = False,
        around: Around = lambda call: call,
    ) -> Answer:
        """Run the statements in one transaction, all or nothing; without `keep` it is rolled back at its end.

        With `hold` an answer has also rows beyond the first `max_rows`, as many as policy lets a server hold; `around`
        may put reads of our own between those that were judged. Raises AgentDBError.
        """
        with recorded(self._recorder, tenant, scope, statements), self.calls.one(tenant):
            limits = self.calls.limits(max_rows, hold=hold)
            return await self._execute(tenant, scope, statements, limits, transaction, keep, around)

    async def recall(self, tenant: Tenant, scope: Scope, find: Callable[[], tuple[str, Found]]) -> Found:
        """What an earlier call left, as `find` gives it with the key of the database that it is of; it runs nothing.

        A call like any other: recorded, counted, and for who may reach that database now. Raises AgentDBError.
        """
        with recorded(self._recorder, tenant, scope, (), Kind.READ), self.calls.one(tenant):
            key, found = find()
            database = await self._databases.open(tenant, scope)
            recording.reached(database.row_id)
            if database.target.key != key:
                raise nothing_held(self._policy.limits.held_s)
            return found

    async def _execute(
        self,
        tenant: Tenant,
        scope: Scope,
        statements: Sequence[Statement],
        limits: Limits,
        transaction: bool,
        keep: bool,
        around: Around,
    ) -> Answer:
        if len(statements) > (most := self._policy.limits.max_statements):
            raise InvalidArgument(
                f"statements holds {len(statements)}; at most {most} fit into one transaction.",
                hint="Write many rows with one INSERT, or send several transactions.",
            )
        facts = [
            await self.calls.classify(statement.sql, index, statements) for index, statement in enumerate(statements)
        ]
        database = await self._databases.open(tenant, scope)
        async with self.calls.allowance(database, limits.timeout_s * len(statements)) as allowance:
            decision = self.calls.decide(facts, database, allowance, transaction=transaction)
            call = around(Call(statements, allowance.shortened(limits, len(statements)), decision.read_only, keep))
            try:
                results = await self._attempt(tenant, database, call, facts, allowance)
            except SqlError as error:
                if current_origin().source in TAUGHT:
                    await teach(error, statements, facts, partial(self._look_up, tenant, database, allowance))
                raise
            except StatementTimeout as error:
                if allowance.lowered:
                    error.hint = f"It may run no longer than the budget pays for. {allowance.until}"
                raise
        return Answer(results, allowance.note, waking_notes(results), database.target.key)

    async def stream(self, tenant: Tenant, scope: Scope, statement: Statement, sink: Sink) -> None:
        """Run one statement read-only, and pass its rows on as they come, of any number. Raises AgentDBError.

        What the sink has taken by then was read in one snapshot, but is not all of it.
        """
        with recorded(self._recorder, tenant, scope, [statement]), self.calls.stream(tenant):
            facts = await self.calls.classify(statement.sql, 0, [statement])
            database = await self._databases.open(tenant, scope)
            limits = replace(self.calls.limits(None), timeout_s=self._policy.limits.export_timeout_s)
            async with self.calls.allowance(database, limits.timeout_s) as allowance:
                self.calls.decide([facts], database, allowance, transaction=False)
                limits = replace(limits, timeout_s=min(limits.timeout_s, allowance.seconds))
                await self.calls.run(tenant, database, Call([statement], limits, read_only=True, sink=sink))

    @asynccontextmanager
    async def look(
        self, tenant: Tenant, scope: Scope, statements: Sequence[Statement], seconds: float
    ) -> AsyncIterator[Look]:
        """One call, of so many seconds in all, that may run many transactions; none is kept. Raises AgentDBError.

        `statements` are what the caller asked about, for the audit log: each text that runs is judged by itself.
        """
        with recorded(self._recorder, tenant, scope, statements), self.calls.one(tenant):
            database = await self._databases.open(tenant, scope)
            async with self.calls.allowance(database, seconds) as allowance:
                _refuse_paused(allowance)

                async def judge(sql: str) -> StatementFacts:
                    facts = await self.calls.classify(sql)
                    self.calls.decide([facts], database, allowance, transaction=False)
                    return facts

                async def run(call: Call) -> list[Result]:
                    return await self.calls.run(tenant, database, call)

                limits, ends = self.calls.limits(), time.monotonic() + min(seconds, allowance.seconds)
                yield Look(judge, limits, ends, allowance.note, run)

    async def catalog(self, tenant: Tenant, scope: Scope, statements: Sequence[Statement]) -> list[Result]:
        """Run our own catalog reads as the agent; no gate, no budget state refuses them but `paused`."""
        with recorded(self._recorder, tenant, scope, statements, Kind.READ), self.calls.one(tenant):
            return await self._catalog(tenant, scope, statements)

    async def _catalog(self, tenant: Tenant, scope: Scope, statements: Sequence[Statement]) -> list[Result]:
        database = await self._databases.open(tenant, scope)
        limits = replace(self.calls.limits(None), max_rows=5000)
        async with self.calls.allowance(database, limits.timeout_s * len(statements)) as allowance:
            _refuse_paused(allowance)
            call = Call(statements, allowance.shortened(limits, len(statements)), catalog=True)
            return await self.calls.run(tenant, database, call)

    async def _attempt(
        self, tenant: Tenant, database: OpenDatabase, call: Call, facts: list[StatementFacts], allowance: Allowance
    ) -> list[Result]:
        try:
            return await self.calls.run(tenant, database, call)
        except SqlError as error:
            may_write = self.calls.may_write(database, allowance.state)
            return await self._once_more(tenant, database, call, facts, error, may_write)

    async def _look_up(
        self, tenant: Tenant, database: OpenDatabase, allowance: Allowance, statement: Statement
    ) -> Result:
        """A catalog read for the sake of an error."""
        limits = allowance.shortened(replace(self.calls.limits(None), timeout_s=READ_S), 1)
        return (await self.calls.run(tenant, database, Call([statement], limits, catalog=True)))[0]

    async def _once_more(
        self,
        tenant: Tenant,
        database: OpenDatabase,
        call: Call,
        facts: list[StatementFacts],
        error: SqlError,
        may_write: bool,
    ) -> list[Result]:
        """Run what failed for a reason that is ours to mend; else raise the error."""
        reads = all(fact.certain and fact.kinds == {Kind.READ} for fact in facts)
        if error.sqlstate == READ_ONLY_VIOLATION and may_write and reads:
            # A read of a view, or under a row policy, whose function writes: nothing forbids it here.
            return await self.calls.run(tenant, database, replace(call, read_only=False))
        alone = len(facts) == 1 and facts[0].why == "CREATE EXTENSION" and len(facts[0].objects) == 1
        if error.sqlstate == NOT_PERMITTED and alone and call.keep and may_write and database.target.role is not None:
            await self._pools.install_extension(database.target, facts[0].objects[0])
            return [Result((), [], truncated=False, command_tag="CREATE EXTENSION", duration_ms=0.0)]
        raise error


def _refuse_paused(allowance: Allowance) -> None:
    if allowance.state is BudgetState.PAUSED:
        raise BudgetExceeded("The databases are paused: the budget is used up.", hint=allowance.until)
