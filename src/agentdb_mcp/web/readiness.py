"""Whether the control database answers, asked for as often as anybody likes: anybody may."""

from __future__ import annotations

import time

import anyio

from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.store import ControlDatabase

FRESH_S = 1.0
TIMEOUT_S = 5.0


class Readiness:
    """One question at a time, whose answer holds for a second."""

    def __init__(self, control: ControlDatabase) -> None:
        self._control = control
        self._asking = anyio.Lock()
        self._found = False
        self._until = 0.0

    async def ok(self) -> bool:
        async with self._asking:
            if time.monotonic() >= self._until:
                self._found = await self._ask()
                self._until = time.monotonic() + FRESH_S
            return self._found

    async def _ask(self) -> bool:
        try:
            with anyio.fail_after(TIMEOUT_S):
                async with self._control.connection() as connection:
                    await connection.execute("SELECT")
        except (AgentDBError, TimeoutError):
            return False
        return True
