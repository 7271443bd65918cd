"""One local Neon API a cluster: each undoes what it finds half made and is not making itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import asyncpg

from agentdb_mcp.neon_emulator.errors import CLUSTER_ERRORS, ClusterUnavailableError
from agentdb_mcp.neon_emulator.location import Location

KEY = 7_236_837_119  # of an advisory lock in the emulator's own database
WAIT_S = 10.0
POLL_S = 0.05
ANSWER_S = 10.0


class Claim:
    """A lock that lasts as long as its connection."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._connection: asyncpg.Connection | None = None
        self._turn = anyio.Lock()

    async def held(self) -> bool:
        """Take it, again where its connection has ended; False while another has it."""
        async with self._turn:
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._location.connect(self._location.own_database)
                # Where it is ours already Postgres only counts, and forgets the count with the session.
                taken = await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", KEY, timeout=ANSWER_S)
            except CLUSTER_ERRORS:
                self.release()
                raise
            return bool(taken)

    def release(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


@asynccontextmanager
async def claimed(location: Location) -> AsyncIterator[Claim]:
    """Hold the cluster; a former one that is ending is waited for. Raises ClusterUnavailableError."""
    claim, deadline = Claim(location), anyio.current_time() + WAIT_S
    try:
        while not await claim.held():
            if anyio.current_time() >= deadline:
                raise ClusterUnavailableError("another local Neon API serves this cluster: end that one first")
            await anyio.sleep(POLL_S)
        yield claim
    finally:
        claim.release()
