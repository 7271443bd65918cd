"""The log of what callers did: noted in memory, stored every few seconds, read, checked and pruned.

Noting waits for nothing and nobody. While the control database is away, entries are kept up to a bound; what is beyond
it is counted, and an entry says how many.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import anyio

from agentdb_mcp import metrics
from agentdb_mcp.errors import AgentDBError, InvalidArgument, NotFound
from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import Scope
from agentdb_mcp.services.metering import Clock
from agentdb_mcp.store import AuditDecision, AuditEntry, AuditStore, Verified

log = get_logger(__name__)

# Entries that wait to be stored: of everybody, and of one user, who thus cannot crowd out the others.
MAX_WAITING = 20_000
MAX_WAITING_OF_USER = 4_000
# Stored at once (their hashing holds up other calls), and so many that they are stored before their time.
BATCH = 500
MAX_PAGE = 1000
DROPPED = "entries_dropped"


@dataclass(slots=True)
class Audit:
    """`flush_s` is how long an entry stays in memory only, `keep_days` how long the log is kept."""

    store: AuditStore
    clock: Clock
    flush_s: float
    keep_days: int
    _waiting: deque[AuditEntry] = field(default_factory=deque)
    _waiting_of: Counter[str] = field(default_factory=Counter)
    _dropped: dict[str, AuditEntry] = field(default_factory=dict)
    _batch: tuple[UUID, list[AuditEntry]] | None = None
    _many: anyio.Event = field(default_factory=anyio.Event)
    _storing: anyio.Lock = field(default_factory=anyio.Lock)

    @property
    def waiting(self) -> int:
        """How many entries are in memory only."""
        return len(self._waiting) + (len(self._batch[1]) if self._batch is not None else 0)

    def note(self, entry: AuditEntry) -> None:
        """Keep the entry until it is stored. Never fails, never waits."""
        user = entry.user_id
        if len(self._waiting) >= MAX_WAITING or self._waiting_of[user] >= MAX_WAITING_OF_USER:
            self._drop(entry)
            return
        self._waiting.append(entry)
        self._waiting_of[user] += 1
        if len(self._waiting) >= BATCH:
            self._many.set()

    async def entries(
        self,
        user_id: str,
        *,
        workspace_id: str | None = None,
        scope: Scope | None = None,
        decision: AuditDecision | None = None,
        before: int | None = None,
        limit: int = 100,
        without: tuple[str, str] | None = None,
    ) -> list[AuditEntry]:
        """A page of what is stored, the newest first; the next page is `before` the last one's `sequence`.

        `without` is a source and a tool of it whose entries are left out.
        Calls show `flush_s` after they end. Raises InvalidArgument, DatabaseUnavailable.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidArgument(f"limit must be between 1 and {MAX_PAGE} (got {limit}).")
        return await self.store.entries(
            user_id,
            workspace_id=workspace_id,
            scope=scope,
            decision=decision,
            before=before,
            limit=limit,
            without=without,
        )

    def between(
        self, user_id: str, since: datetime | None = None, until: datetime | None = None
    ) -> AsyncIterator[AuditEntry]:
        """What is stored of calls that began at `since` or later and before `until`, the oldest first."""
        return self.store.between(user_id, since, until)

    async def verify(self, user_id: str | None = None) -> AsyncIterator[Verified]:
        """Walk the user's chain, or everybody's, one after the other. Raises NotFound, DatabaseUnavailable."""
        for each in [user_id] if user_id is not None else await self.store.users():
            verified = await self.store.verify(each)
            if user_id is not None and not (verified.chain.sequence or verified.broken):
                raise NotFound(f"The log has nothing of a user {user_id}.")
            yield verified

    async def prune(self) -> int:
        """Delete what is older than `keep_days`; how many entries."""
        return await self.store.prune(self.clock() - timedelta(days=self.keep_days))

    # --- in the background ------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Store what is noted every `flush_s` seconds, or sooner where it is much, until cancelled."""
        while True:
            with anyio.move_on_after(self.flush_s):
                await self._many.wait()
            await self.flush()

    async def flush(self) -> bool:
        """Store what is noted by now, if that can be done; else it stays noted. Whether it could."""
        async with self._storing:
            self._many = anyio.Event()
            left = self.waiting  # not what comes meanwhile: a batch of few costs nearly as much as one of many
            try:
                while left > 0 and (batch := self._next_batch()) is not None:
                    await self.store.append(*batch)
                    left -= len(batch[1])
                    self._batch = None
            except AgentDBError as error:
                log.warning("audit entries not stored yet", code=error.code, entries=len(self._waiting))
                return False
            return True

    async def drain(self) -> None:
        """Store what is noted, and what comes meanwhile, as long as it can be stored."""
        while self.waiting and await self.flush():
            pass

    def _next_batch(self) -> tuple[UUID, list[AuditEntry]] | None:
        """The one whose storing failed, unchanged, so that it is not stored twice; else the oldest entries."""
        if self._batch is None:
            entries = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            self._waiting_of -= Counter(entry.user_id for entry in entries)
            if not self._waiting:
                entries += self._dropped.values()
                self._dropped = {}
            self._batch = (uuid4(), entries) if entries else None
        return self._batch

    def _drop(self, entry: AuditEntry) -> None:
        """Count it, in an entry of the time at which the first was dropped."""
        metrics.AUDIT_DROPPED.add()
        known = self._dropped.get(entry.user_id)
        if known is None:
            known = AuditEntry(entry.user_id, entry.at, "audit", AuditDecision.FAILED, code=DROPPED, rows=0)
        self._dropped[entry.user_id] = replace(known, rows=(known.rows or 0) + 1)
