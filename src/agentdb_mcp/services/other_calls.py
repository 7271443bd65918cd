"""Calls on a database that are no statements: written down, counted and paid for like those that are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from agentdb_mcp.errors import BudgetExceeded, NotAllowed
from agentdb_mcp.execution import Call, Pools, Statement
from agentdb_mcp.models import AccessMode, BudgetState, Kind, Scope, Tenant
from agentdb_mcp.policy import Policy
from agentdb_mcp.services import recording
from agentdb_mcp.services.databases import OpenDatabase
from agentdb_mcp.services.recording import Recorder, recorded
from agentdb_mcp.services.spending import Allowance, Spending, metered
from agentdb_mcp.services.throttle import Throttle

_SIZE = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())"


@dataclass(frozen=True, slots=True)
class OtherCalls:
    """What `Queries` shares with services that call the provider."""

    policy: Policy
    pools: Pools
    spending: Spending | None
    recorder: Recorder | None
    throttle: Throttle

    @contextmanager
    def counted(self, tenant: Tenant, scope: Scope, what: str, kind: Kind) -> Iterator[None]:
        """For the time of one call. Raises RateLimited."""
        with recorded(self.recorder, tenant, scope, [Statement(what)], kind), self.throttle.call(tenant):
            yield

    @asynccontextmanager
    async def allowance(self, database: OpenDatabase, wanted_s: float) -> AsyncIterator[Allowance]:
        """What whoever pays for the database has left for a call."""
        recording.reached(database.row_id)
        counted = metered(database)
        if self.spending is None or counted is None:
            yield Allowance(BudgetState.OK, wanted_s)
            return
        async with self.spending.admit(*counted, wanted_s) as allowance:
            yield allowance

    @asynccontextmanager
    async def allowed_to_write(self, database: OpenDatabase) -> AsyncIterator[None]:
        """For the time of the block, where access and budget let write. Raises BudgetExceeded, NotAllowed."""
        if AccessMode.RESTRICTED in (database.access_mode, self.policy.access.mode):
            raise NotAllowed("This is not possible: access is read-only.")
        async with self.allowance(database, self.policy.limits.timeout_s) as allowance:
            if allowance.reclaim_only or Kind.WRITE not in self.policy.statements.of(allowance.state).allow:
                raise BudgetExceeded("This is not possible: the budget is used up.", hint=allowance.until or None)
            yield

    async def size(self, database: OpenDatabase) -> int:
        """The database's bytes now, without its checkpoints'. Raises DatabaseUnavailable."""
        call = Call([Statement(_SIZE)], self.policy.limits.for_call(), catalog=True)
        return int(str((await self.pools.run(database.target, call))[0].rows[0][0]))

    async def stored(self, database: OpenDatabase) -> int:
        """With its checkpoints, which are stored as well."""
        return await self.size(database) + database.checkpoint_bytes

    async def look_at_size(self, database: OpenDatabase) -> None:
        """Let the budget know anew how much is stored."""
        if self.spending is not None and (counted := metered(database)) is not None:
            await self.spending.look_at_size(*counted, lambda: self.stored(database), freed=True)
