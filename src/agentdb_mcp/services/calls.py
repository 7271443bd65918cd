"""What every call on a tenant's database goes through, whatever it does: judged, allowed, run, metered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext

import anyio.to_thread

from agentdb_mcp import gate
from agentdb_mcp.errors import AgentDBError, BudgetExceeded, DatabaseUnavailable, InvalidArgument, StatementRefused
from agentdb_mcp.execution import Call, Pools, Slot, Statement
from agentdb_mcp.models import AccessMode, BudgetState, Decision, Kind, Limits, Result, Scope, StatementFacts, Tenant
from agentdb_mcp.policy import Policy
from agentdb_mcp.services import recording
from agentdb_mcp.services.databases import Databases, OpenDatabase
from agentdb_mcp.services.recording import Recorder
from agentdb_mcp.services.spending import Allowance, Spending, metered
from agentdb_mcp.services.throttle import Throttle
from agentdb_mcp.telemetry import told, traced

# Longer texts are parsed in a worker thread: a hundred KB of SQL takes sqlglot a second or more.
PARSE_INLINE_MAX = 4096
# Command tags after which a database is smaller.
FREEING = ("DROP ", "TRUNCATE ")
# A connection that took this long to open had a compute to wake.
WAKING_S = 1.0
# So many pages are held beyond the first, and a full page is read on past for so long, a smaller one for its share:
# who asks for ten rows does not want thousands computed.
PAGES_AHEAD, READ_ON_S, READ_ON_LEAST_S = 10, 0.25, 0.05
_SIZE = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())"


class Calls:
    """Shared by the services that run something on tenants' databases."""

    def __init__(
        self,
        policy: Policy,
        databases: Databases,
        pools: Pools,
        spending: Spending | None,
        recorder: Recorder | None = None,
    ) -> None:
        self.policy = policy
        self.databases = databases
        self.pools = pools
        self.recorder = recorder
        self._spending = spending
        self.text_limits = gate.TextLimits.of(policy.limits)
        self._throttle = Throttle(
            calls_per_window=policy.limits.calls_per_window,
            window_s=policy.limits.window_s,
            concurrent_calls=policy.limits.concurrent_calls,
        )
        # Readers set the pace of streams: other calls keep most connections, and half of any one database's.
        most, of_user = max(1, policy.limits.max_connections // 4), max(1, policy.limits.pool_size // 2)
        self._streams = Throttle(calls_per_window=0, window_s=1, concurrent_calls=most)
        self._streams_of_user = Throttle(calls_per_window=0, window_s=1, concurrent_calls=of_user)

    @contextmanager
    def one(self, tenant: Tenant) -> Iterator[None]:
        """For the time of one call of the tenant's. Raises RateLimited."""
        with self._throttle.call(tenant):
            yield

    @contextmanager
    def stream(self, tenant: Tenant) -> Iterator[None]:
        """As `one`, of a call that may take minutes."""
        with (
            self._streams_of_user.call(Tenant(tenant.user_id)),
            self._streams.call(Tenant()),
            self._throttle.call(tenant),
        ):
            yield

    @traced("gate", told=told.of_facts)
    async def classify(self, sql: str, index: int = 0, statements: Sequence[Statement] = ()) -> StatementFacts:
        """What the gate finds in one text, noted for the audit log. Raises InvalidArgument, StatementRefused."""
        try:
            if len(sql) <= PARSE_INLINE_MAX:
                return recording.found(gate.classify(sql, self.text_limits))
            return recording.found(await anyio.to_thread.run_sync(gate.classify, sql, self.text_limits))
        except AgentDBError as error:
            if len(statements) > 1:
                error.message = f"Statement {index + 1} of {len(statements)}: {error.message}"
            raise

    def decide(
        self, facts: list[StatementFacts], database: OpenDatabase, allowance: Allowance, *, transaction: bool
    ) -> Decision:
        """By the stricter of the policy's access mode and the database's own. Raises what refuses it."""
        mode, state = database.access_mode, allowance.state
        if transaction:
            decision = gate.decide_transaction(facts, policy=self.policy, mode=mode, budget=state)
        else:
            decision = gate.decide(facts[0], policy=self.policy, mode=mode, budget=state)
        if not decision.allowed:
            raise _refusal(decision, allowance)
        allowance.check(facts)
        return decision

    def may_write(self, database: OpenDatabase, state: BudgetState) -> bool:
        restricted = AccessMode.RESTRICTED in (database.access_mode, self.policy.access.mode)
        return not restricted and Kind.WRITE in self.policy.statements.of(state).allow

    async def terms(self, tenant: Tenant, scope: Scope) -> tuple[AccessMode, str | None]:
        """The database's own access mode, and who pays for it: nobody where it is not metered. Raises AgentDBError."""
        database = await self.databases.open(tenant, scope)
        counted = metered(database) if self._spending is not None else None
        return database.access_mode, counted[0] if counted else None

    def limits(self, max_rows: int | None = None, *, hold: bool = False) -> Limits:
        """Of a call; with `hold` rows beyond its page are read too, so many and for so long as the page is large."""
        limits = self.policy.limits
        if max_rows is not None and not 1 <= max_rows <= limits.max_rows:
            raise InvalidArgument(
                f"max_rows must be between 1 and {limits.max_rows} (got {max_rows}).",
                hint="Use LIMIT and OFFSET, or a WHERE on the last key seen, for more.",
            )
        page = max_rows or limits.max_rows
        if not hold:
            return Limits(limits.timeout_s, page, limits.max_bytes)
        held = min(limits.held_rows, PAGES_AHEAD * page)
        held_s = max(READ_ON_LEAST_S, READ_ON_S * page / limits.max_rows)
        return Limits(limits.timeout_s, page, limits.max_bytes, held, limits.held_row_bytes, held_s)

    def allowance(
        self, database: OpenDatabase, wanted_s: float, *, patient: bool = True
    ) -> AbstractAsyncContextManager[Allowance]:
        """What whoever pays for the database has left for a call; unless `patient`, of what nobody else holds."""
        recording.reached(database.row_id)
        counted = metered(database)
        if self._spending is None or counted is None:
            return nullcontext(Allowance(BudgetState.OK, wanted_s))
        return self._spending.admit(*counted, wanted_s, patient=patient)

    async def run(self, tenant: Tenant, database: OpenDatabase, call: Call, slot: Slot | None = None) -> list[Result]:
        """Run it, in a slot of the database's that is held already or its own, and count what it used."""
        counted = metered(database)
        if self._spending is None or counted is None:
            return await self._reach(tenant, database, call, slot, lambda: None)
        try:
            results = await self._metered(tenant, database, call, slot, self._spending, counted)
        except DatabaseUnavailable:
            raise
        except AgentDBError:  # what was rolled back takes space all the same
            await self._spending.look_at_size(*counted, lambda: self._size(database, slot))
            raise
        freed = any(result.command_tag.startswith(FREEING) for result in results)
        await self._spending.look_at_size(*counted, lambda: self._size(database, slot), freed=freed)
        return results

    async def _metered(
        self,
        tenant: Tenant,
        database: OpenDatabase,
        call: Call,
        slot: Slot | None,
        spending: Spending,
        counted: tuple[str, str],
    ) -> list[Result]:
        started, reached, results = spending.now(), True, list[Result]()
        try:
            with spending.running(*counted) as begun:
                results = await self._reach(tenant, database, call, slot, begun)
        except DatabaseUnavailable as error:
            reached = error.ran
            raise
        finally:
            if reached:
                spending.note(*counted, started, results, wrote=not call.read_only)
        return results

    async def _reach(
        self, tenant: Tenant, database: OpenDatabase, call: Call, slot: Slot | None, begun: Callable[[], None]
    ) -> list[Result]:
        try:
            results = await self.pools.run(database.target, call, slot, begun)
        except DatabaseUnavailable:
            self.databases.forget(tenant, database.scope)
            raise
        recording.gave([result for place, result in enumerate(results) if place not in call.unasked])
        return results

    async def size(self, database: OpenDatabase, slot: Slot | None = None) -> int:
        """The database's bytes now, without its checkpoints'. Raises DatabaseUnavailable."""
        call = Call([Statement(_SIZE)], self.limits(), catalog=True)
        return int(str((await self.pools.run(database.target, call, slot))[0].rows[0][0]))

    async def look_at_size(self, database: OpenDatabase) -> None:
        """Let the budget know anew how much is stored."""
        if self._spending is not None and (counted := metered(database)) is not None:
            await self._spending.look_at_size(*counted, lambda: self._size(database, None), freed=True)

    async def _size(self, database: OpenDatabase, slot: Slot | None) -> int:
        """With its checkpoints, which are stored as well."""
        return await self.size(database, slot) + database.checkpoint_bytes


def _refusal(decision: Decision, allowance: Allowance) -> AgentDBError:
    message = decision.message or "Policy refuses the statement."
    if decision.code == BudgetExceeded.code:
        hint = " ".join(part for part in (decision.hint, allowance.until) if part)
        return BudgetExceeded(message, hint=hint or None)
    return StatementRefused(message, hint=decision.hint)


def waking_notes(results: Sequence[Result]) -> tuple[str, ...]:
    """What a caller is told when it waited for a sleeping compute."""
    return waking_note(sum(result.opening_s for result in results))


def waking_note(opening_s: float) -> tuple[str, ...]:
    """The same by the seconds that connections took to open."""
    return (f"The database was asleep; waking it took {opening_s:.1f} s.",) if opening_s >= WAKING_S else ()
