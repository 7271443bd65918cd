"""One admitted call that looks at plans: as many small transactions as it takes, none of which is kept."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import anyio

from agentdb_mcp.errors import StatementTimeout
from agentdb_mcp.execution import Call, Statement
from agentdb_mcp.models import Limits, Result, StatementFacts
from agentdb_mcp.services.calls import waking_note


@dataclass(slots=True)
class Look:
    """What `Queries.look` yields. `judge` is the gate's and the budget's word on a text: facts, or the refusal raised.

    `run` takes statements that were judged before, or are ours, and reads only unless it is told otherwise.
    """

    judge: Callable[[str], Awaitable[StatementFacts]]
    limits: Limits
    ends: float
    budget_note: str | None
    _run: Callable[[Call], Awaitable[list[Result]]]
    opening_s: float = 0.0

    @property
    def left_s(self) -> float:
        return self.ends - time.monotonic()

    @property
    def notes(self) -> tuple[str, ...]:
        return waking_note(self.opening_s)

    async def run(self, statements: Sequence[Statement], *, read_only: bool = True, undo: str = "") -> list[Result]:
        """Each statement's answer, of one transaction that is rolled back. Raises AgentDBError."""
        return await self._send(Call(statements, self._limits(), read_only, keep=False, undo=undo, ours=True))

    async def read(self, *statements: Statement) -> list[Result]:
        """Our own catalog reads."""
        return await self._send(Call(statements, self._limits(), catalog=True, ours=True))

    async def _send(self, call: Call) -> list[Result]:
        results = list[Result]()
        with anyio.move_on_after(max(0.0, self.left_s)) as running:
            results = await self._run(call)
        if running.cancelled_caught:
            raise _over()
        self.opening_s += sum(result.opening_s for result in results)
        return results

    def _limits(self) -> Limits:
        """Of each statement; all of them together end with the look."""
        if self.left_s <= 0:
            raise _over()
        return replace(self.limits, timeout_s=min(self.limits.timeout_s, self.left_s))


def _over() -> StatementTimeout:
    return StatementTimeout(
        "The time of the call was over before all of it had run.", hint="Ask about fewer or smaller statements."
    )
