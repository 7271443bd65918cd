"""The way of one call: resolve, judge, run, meter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import anyio.to_thread

from agentdb_mcp import gate
from agentdb_mcp.errors import (
    AgentDBError,
    BudgetExceeded,
    DatabaseUnavailable,
    InvalidArgument,
    SqlError,
    StatementRefused,
    StatementTimeout,
)
from agentdb_mcp.execution import Call, Pools, Sink, Statement
from agentdb_mcp.models import (
    AccessMode,
    BudgetState,
    Decision,
    Kind,
    Limits,
    Result,
    Scope,
    StatementFacts,
    Tenant,
)
from agentdb_mcp.policy import Policy
from agentdb_mcp.services import recording
from agentdb_mcp.services.databases import Databases, OpenDatabase
from agentdb_mcp.services.other_calls import OtherCalls
from agentdb_mcp.services.recording import Recorder, recorded
from agentdb_mcp.services.spending import Allowance, Spending, metered
from agentdb_mcp.services.throttle import Throttle

# Longer texts are parsed in a worker thread: a hundred KB of SQL takes sqlglot a second or more.
PARSE_INLINE_MAX = 4096
READ_ONLY_VIOLATION = "25006"
NOT_PERMITTED = "42501"
# Command tags after which a database is smaller.
FREEING = ("DROP ", "TRUNCATE ")
# A connection that took this long to open had a compute to wake.
WAKING_S = 1.0


Around = Callable[[Call], Call]


@dataclass(frozen=True, slots=True)
class Answer:
    """What each statement gave, a sentence on the budget from `warning` on, and others worth knowing."""

    results: list[Result]
    budget_note: str | None = None
    notes: tuple[str, ...] = ()


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
        self._policy = policy
        self._databases = databases
        self._pools = pools
        self._spending = spending
        self._recorder = recorder
        self._text_limits = gate.TextLimits.of(policy.limits)
        self._throttle = Throttle(
            calls_per_window=policy.limits.calls_per_window,
            window_s=policy.limits.window_s,
            concurrent_calls=policy.limits.concurrent_calls,
        )
        self.others = OtherCalls(policy, pools, spending, recorder, self._throttle)
        # Readers set the pace of streams: other calls keep most connections, and half of any one database's.
        most, of_user = max(1, policy.limits.max_connections // 4), max(1, policy.limits.pool_size // 2)
        self._streams = Throttle(calls_per_window=0, window_s=1, concurrent_calls=most)
        self._streams_of_user = Throttle(calls_per_window=0, window_s=1, concurrent_calls=of_user)

    async def execute(
        self,
        tenant: Tenant,
        scope: Scope,
        statements: Sequence[Statement],
        *,
        max_rows: int | None = None,
        transaction: bool = False,
        keep: bool = True,
        around: Around = lambda call: call,
    ) -> Answer:
        """Run the statements in one transaction, all or nothing; without `keep` it is rolled back at its end.

        `around` may put reads of our own between those that were judged. Raises AgentDBError.
        """
        with recorded(self._recorder, tenant, scope, statements), self._throttle.call(tenant):
            return await self._execute(tenant, scope, statements, max_rows, transaction, keep, around)

    async def _execute(
        self,
        tenant: Tenant,
        scope: Scope,
        statements: Sequence[Statement],
        max_rows: int | None,
        transaction: bool,
        keep: bool,
        around: Around,
    ) -> Answer:
        if len(statements) > (most := self._policy.limits.max_statements):
            raise InvalidArgument(
                f"statements holds {len(statements)}; at most {most} fit into one transaction.",
                hint="Write many rows with one INSERT, or send several transactions.",
            )
        facts = [await self._classify(statement.sql, index, statements) for index, statement in enumerate(statements)]
        database = await self._databases.open(tenant, scope)
        limits = self._limits(max_rows)
        async with self.others.allowance(database, limits.timeout_s * len(statements)) as allowance:
            decision = self._decide(facts, database, allowance.state, transaction=transaction)
            if not decision.allowed:
                raise _refusal(decision, allowance)
            allowance.check(facts)
            call = around(Call(statements, allowance.shortened(limits, len(statements)), decision.read_only, keep))
            try:
                results = await self._run(tenant, database, call)
            except SqlError as error:
                may_write = self._may_write(database, allowance.state)
                results = await self._once_more(tenant, database, call, facts, error, may_write)
            except StatementTimeout as error:
                if allowance.lowered:
                    error.hint = f"It may run no longer than the budget pays for. {allowance.until}"
                raise
        return Answer(results, allowance.note, waking_notes(results))

    async def stream(self, tenant: Tenant, scope: Scope, statement: Statement, sink: Sink) -> None:
        """Run one statement read-only, and pass its rows on as they come, of any number. Raises AgentDBError.

        What the sink has taken by then was read in one snapshot, but is not all of it.
        """
        with (
            recorded(self._recorder, tenant, scope, [statement]),
            self._streams_of_user.call(Tenant(tenant.user_id)),
            self._streams.call(Tenant()),
            self._throttle.call(tenant),
        ):
            facts = await self._classify(statement.sql, 0, [statement])
            database = await self._databases.open(tenant, scope)
            limits = replace(self._limits(None), timeout_s=self._policy.limits.export_timeout_s)
            async with self.others.allowance(database, limits.timeout_s) as allowance:
                decision = self._decide([facts], database, allowance.state, transaction=False)
                if not decision.allowed:
                    raise _refusal(decision, allowance)
                allowance.check([facts])
                limits = replace(limits, timeout_s=min(limits.timeout_s, allowance.seconds))
                await self._run(tenant, database, Call([statement], limits, read_only=True, sink=sink))

    async def catalog(self, tenant: Tenant, scope: Scope, statements: Sequence[Statement]) -> list[Result]:
        """Run our own catalog reads as the agent; no gate, no budget state refuses them but `paused`."""
        with recorded(self._recorder, tenant, scope, statements, Kind.READ), self._throttle.call(tenant):
            return await self._catalog(tenant, scope, statements)

    async def terms(self, tenant: Tenant, scope: Scope) -> tuple[AccessMode, str | None]:
        """The database's own access mode, and who pays for it: nobody where it is not metered. Raises AgentDBError."""
        database = await self._databases.open(tenant, scope)
        counted = metered(database) if self._spending is not None else None
        return database.access_mode, counted[0] if counted else None

    async def _catalog(self, tenant: Tenant, scope: Scope, statements: Sequence[Statement]) -> list[Result]:
        database = await self._databases.open(tenant, scope)
        limits = replace(self._limits(None), max_rows=5000)
        async with self.others.allowance(database, limits.timeout_s * len(statements)) as allowance:
            if allowance.state is BudgetState.PAUSED:
                raise BudgetExceeded("The databases are paused: the budget is used up.", hint=allowance.until)
            call = Call(statements, allowance.shortened(limits, len(statements)), catalog=True)
            return await self._run(tenant, database, call)

    def _decide(
        self, facts: list[StatementFacts], database: OpenDatabase, state: BudgetState, *, transaction: bool
    ) -> Decision:
        """By the stricter of the policy's access mode and the database's own."""
        mode = database.access_mode
        if transaction:
            return gate.decide_transaction(facts, policy=self._policy, mode=mode, budget=state)
        return gate.decide(facts[0], policy=self._policy, mode=mode, budget=state)

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
            return await self._run(tenant, database, replace(call, read_only=False))
        alone = len(facts) == 1 and facts[0].why == "CREATE EXTENSION" and len(facts[0].objects) == 1
        if error.sqlstate == NOT_PERMITTED and alone and call.keep and may_write and database.target.role is not None:
            await self._pools.install_extension(database.target, facts[0].objects[0])
            return [Result((), [], truncated=False, command_tag="CREATE EXTENSION", duration_ms=0.0)]
        raise error

    def _may_write(self, database: OpenDatabase, state: BudgetState) -> bool:
        restricted = AccessMode.RESTRICTED in (database.access_mode, self._policy.access.mode)
        return not restricted and Kind.WRITE in self._policy.statements.of(state).allow

    async def _run(self, tenant: Tenant, database: OpenDatabase, call: Call) -> list[Result]:
        counted = metered(database)
        if self._spending is None or counted is None:
            return await self._reach(tenant, database, call)
        try:
            results = await self._metered(tenant, database, call, self._spending, counted)
        except DatabaseUnavailable:
            raise
        except AgentDBError:  # what was rolled back takes space all the same
            await self._spending.look_at_size(*counted, lambda: self.others.stored(database))
            raise
        freed = any(result.command_tag.startswith(FREEING) for result in results)
        await self._spending.look_at_size(*counted, lambda: self.others.stored(database), freed=freed)
        return results

    async def _metered(
        self, tenant: Tenant, database: OpenDatabase, call: Call, spending: Spending, counted: tuple[str, str]
    ) -> list[Result]:
        started, reached, results = spending.now(), True, list[Result]()
        try:
            with spending.running(*counted) as begun:
                results = await self._reach(tenant, database, replace(call, begun=begun))
        except DatabaseUnavailable as error:
            reached = error.ran
            raise
        finally:
            if reached:
                spending.note(*counted, started, results, wrote=not call.read_only)
        return results

    async def _reach(self, tenant: Tenant, database: OpenDatabase, call: Call) -> list[Result]:
        try:
            results = await self._pools.run(database.target, call)
        except DatabaseUnavailable:
            self._databases.forget(tenant, database.scope)
            raise
        recording.gave([result for place, result in enumerate(results) if place not in call.ours])
        return results

    async def _classify(self, sql: str, index: int, statements: Sequence[Statement]) -> StatementFacts:
        try:
            if len(sql) <= PARSE_INLINE_MAX:
                return recording.found(gate.classify(sql, self._text_limits))
            return recording.found(await anyio.to_thread.run_sync(gate.classify, sql, self._text_limits))
        except AgentDBError as error:
            if len(statements) > 1:
                error.message = f"Statement {index + 1} of {len(statements)}: {error.message}"
            raise

    def _limits(self, max_rows: int | None) -> Limits:
        limits = self._policy.limits
        if max_rows is not None and not 1 <= max_rows <= limits.max_rows:
            raise InvalidArgument(
                f"max_rows must be between 1 and {limits.max_rows} (got {max_rows}).",
                hint="Use LIMIT and OFFSET, or a WHERE on the last key seen, for more.",
            )
        return Limits(limits.timeout_s, max_rows or limits.max_rows, limits.max_bytes)


def _refusal(decision: Decision, allowance: Allowance) -> AgentDBError:
    message = decision.message or "Policy refuses the statement."
    if decision.code == BudgetExceeded.code:
        hint = " ".join(part for part in (decision.hint, allowance.until) if part)
        return BudgetExceeded(message, hint=hint or None)
    return StatementRefused(message, hint=decision.hint)


def waking_notes(results: list[Result]) -> tuple[str, ...]:
    """What a caller is told when it waited for a sleeping compute."""
    opening = sum(result.opening_s for result in results)
    return (f"The database was asleep; waking it took {opening:.1f} s.",) if opening >= WAKING_S else ()
