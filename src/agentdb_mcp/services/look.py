"""One admitted call that looks at plans: as many small transactions as it takes, none of which is kept."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio

from agentdb_mcp.errors import BudgetExceeded, StatementTimeout
from agentdb_mcp.execution import Call, Statement
from agentdb_mcp.models import BudgetState, Limits, Result, Scope, StatementFacts, Tenant
from agentdb_mcp.services.calls import Calls, waking_notes
from agentdb_mcp.services.databases import OpenDatabase
from agentdb_mcp.services.recording import recorded
from agentdb_mcp.services.spending import Allowance


@asynccontextmanager
async def looking(
    calls: Calls, tenant: Tenant, scope: Scope, statements: Sequence[Statement], seconds: float
) -> AsyncIterator[Look]:
    """One call, of so many seconds in all. Raises AgentDBError.

    `statements` are what the caller asked about, for the audit log: each text that runs is judged by itself.
    """
    with recorded(calls.recorder, tenant, scope, statements), calls.one(tenant):
        database = await calls.databases.open(tenant, scope)
        async with calls.allowance(database, seconds) as allowance:
            if allowance.state is BudgetState.PAUSED:
                raise BudgetExceeded("The databases are paused: the budget is used up.", hint=allowance.until)
            ends = time.monotonic() + min(seconds, allowance.seconds)
            yield Look(calls, tenant, database, allowance, ends)


@dataclass(slots=True)
class Look:
    """What runs in it reads only unless it is told otherwise, and has been judged before or is ours."""

    calls: Calls
    tenant: Tenant
    database: OpenDatabase
    allowance: Allowance
    ends: float
    notes: tuple[str, ...] = ()

    @property
    def budget_note(self) -> str | None:
        return self.allowance.note

    @property
    def left_s(self) -> float:
        return self.ends - time.monotonic()

    async def judge(self, sql: str) -> StatementFacts:
        """What the gate finds in the text. Raises its refusal, or the budget's."""
        facts = await self.calls.classify(sql)
        self.calls.decide([facts], self.database, self.allowance, transaction=False)
        return facts

    async def run(self, statements: Sequence[Statement], *, read_only: bool = True, undo: str = "") -> list[Result]:
        """Each statement's answer, of one transaction that is rolled back. Raises AgentDBError."""
        return await self._send(Call(statements, self._limits(), read_only, keep=False, undo=undo, ours=True))

    async def read(self, *statements: Statement) -> list[Result]:
        """Our own catalog reads."""
        return await self._send(Call(statements, self._limits(), catalog=True, ours=True))

    async def _send(self, call: Call) -> list[Result]:
        results = list[Result]()
        with anyio.move_on_after(max(0.0, self.left_s)) as running:
            results = await self.calls.run(self.tenant, self.database, call)
        if running.cancelled_caught:
            raise _over()
        self.notes = self.notes or waking_notes(results)
        return results

    def _limits(self) -> Limits:
        """Of each statement; all of them together end with the look."""
        if self.left_s <= 0:
            raise _over()
        limits = self.calls.limits()
        return replace(limits, timeout_s=min(limits.timeout_s, self.left_s))


def _over() -> StatementTimeout:
    return StatementTimeout(
        "The time of the call was over before all of it had run.", hint="Ask about fewer or smaller statements."
    )
