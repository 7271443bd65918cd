"""The connections of this process to all databases together: how many there are, whose turn it is, when they close.

A call holds a slot, which has a connection once the call opened one; between calls the connection is idle in its slot.
Whoever waits is served database by database in turn, so that many waiting calls of one hold up no other's first. Where
all slots are taken, the connection that has been idle longest is closed to make room. A database that has neither a
slot nor a waiting call is not remembered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import anyio

from agentdb_mcp import metrics
from agentdb_mcp.errors import DatabaseUnavailable
from agentdb_mcp.execution.guard import GuardedConnection
from agentdb_mcp.execution.types import BUILTIN_TYPES, TypeInfo
from agentdb_mcp.telemetry import traced


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Connections to one database and to all, seconds until an idle one is closed and that a call waits for its turn.

    `grace_s` is what is given to whatever is to end by itself.
    """

    size: int = 4
    max_connections: int = 100
    idle_s: float = 300.0
    acquire_timeout_s: float = 30.0
    grace_s: float = 2.0


@dataclass(slots=True)
class _Turn:
    """A call that waits; it has a slot once it is its turn."""

    came: anyio.Event = field(default_factory=anyio.Event)
    slot: Slot | None = None


@dataclass(eq=False, slots=True)
class Database:
    """What is in use of one database, and the types met there; `gone` once it was forgotten."""

    key: str
    slots: int = 0
    idle: list[Slot] = field(default_factory=list)
    waiting: deque[_Turn] = field(default_factory=deque)
    types: dict[int, TypeInfo] = field(default_factory=lambda: dict(BUILTIN_TYPES))
    gone: bool = False


@dataclass(eq=False, slots=True)
class Slot:
    """Room for one connection, None before it is opened and after it broke; what is idle closes at `idle_until`."""

    database: Database
    connection: GuardedConnection | None = None
    idle_until: float = 0.0

    def close(self) -> None:
        """At once and for good: nothing is lost with a connection that no call is using."""
        if self.connection is not None:
            self.connection.terminate()
            self.connection = None


class Connections:
    """Hands out slots. Nothing here waits for a server."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._databases: dict[str, Database] = {}
        self._slots: set[Slot] = set()
        self._idle: dict[Slot, None] = {}  # idle longest first
        self._waiting: dict[Database, None] = {}  # whose turn is next first
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: anyio.Event | None = None  # there when closing
        self._pairing = anyio.Semaphore(max(1, settings.max_connections // 4))

    @asynccontextmanager
    async def slot(self, key: str) -> AsyncIterator[Slot]:
        """A slot of the database's for the time of the block. Raises DatabaseUnavailable."""
        asked = anyio.current_time()
        slot = await self._acquire(key)
        metrics.CONNECTION_WAIT_SECONDS.observe(anyio.current_time() - asked)
        try:
            yield slot
        finally:
            self._give_back(slot)

    @asynccontextmanager
    async def two_slots(self, first: str, second: str) -> AsyncIterator[tuple[Slot, Slot]]:
        """A slot of each of two databases. Raises DatabaseUnavailable.

        Whoever has one and waits for the other waits for calls that end: all take them in the order of the keys, and so
        few do at a time that others have connections too.
        """
        if self._settings.max_connections < 2:
            raise DatabaseUnavailable(
                "It takes two connections, and this server keeps one.",
                hint="Whoever runs the server: set [limits] max_connections to 2 or more.",
            )
        async with AsyncExitStack() as taken:
            async with self._pairing:
                slots = [await taken.enter_async_context(self.slot(key)) for key in sorted((first, second))]
            yield (slots[0], slots[1]) if first <= second else (slots[1], slots[0])

    def forget(self, key: str) -> None:
        """Close what is idle of a database that is gone; what is in use closes when it is given back."""
        if (database := self._databases.pop(key, None)) is None:
            return
        database.gone = True
        for slot in list(database.idle):
            self._drop(slot)
        self._hand_out()

    async def close(self) -> None:
        """Close every connection; running calls get a moment to end."""
        self._emptied = anyio.Event()
        if self._timer is not None:
            self._timer.cancel()
        for slot in list(self._idle):
            self._drop(slot)
        for database in self._waiting:
            for turn in database.waiting:
                turn.came.set()
        if self._slots:
            with anyio.move_on_after(self._settings.grace_s):
                await self._emptied.wait()
        for slot in self._slots:
            slot.close()

    @traced("connection.wait")
    async def _acquire(self, key: str) -> Slot:
        if self._emptied is not None:
            raise _shutting_down()
        database = self._databases.get(key) or self._databases.setdefault(key, Database(key))
        if database.idle and not database.waiting:
            return self._take(database)
        turn = _Turn()
        database.waiting.append(turn)
        metrics.WAITING.add()
        self._waiting.setdefault(database)
        self._hand_out()
        if turn.slot is None:
            try:
                with anyio.move_on_after(self._settings.acquire_timeout_s):
                    await turn.came.wait()
            except BaseException:
                self._withdraw(database, turn)
                raise
        if turn.slot is None:
            error = self._busy(database)
            self._withdraw(database, turn)
            raise error
        return turn.slot

    def _hand_out(self) -> None:
        """Give what is free to those who wait, one call of each database in turn."""
        while (database := self._next()) is not None:
            turn = database.waiting.popleft()
            metrics.WAITING.add(by=-1)
            del self._waiting[database]
            if database.waiting:
                self._waiting[database] = None
            turn.slot = self._take(database)
            turn.came.set()

    def _next(self) -> Database | None:
        if self._emptied is not None or not (self._idle or len(self._slots) < self._settings.max_connections):
            return None
        return next((each for each in self._waiting if each.idle or each.slots < self._settings.size), None)

    def _take(self, database: Database) -> Slot:
        """The slot that was used last, or a new one, for which there is room or the slot that was used first goes."""
        if database.idle:
            slot = database.idle.pop()
            del self._idle[slot]
            if slot.connection is not None and slot.connection.is_closed():
                slot.close()
            return slot
        if len(self._slots) >= self._settings.max_connections:
            self._drop(next(iter(self._idle)))
        slot = Slot(database)
        self._slots.add(slot)
        metrics.CONNECTIONS.add()
        database.slots += 1
        return slot

    def _give_back(self, slot: Slot) -> None:
        connection, database = slot.connection, slot.database
        if connection is None or connection.is_closed() or database.gone or self._emptied is not None:
            self._drop(slot)
        else:
            slot.idle_until = asyncio.get_running_loop().time() + self._settings.idle_s
            self._idle[slot] = None
            database.idle.append(slot)
        self._hand_out()
        self._set_timer()

    def _withdraw(self, database: Database, turn: _Turn) -> None:
        """Nobody waits for this turn any more."""
        if turn.slot is not None:
            self._give_back(turn.slot)
            return
        database.waiting.remove(turn)
        metrics.WAITING.add(by=-1)
        if not database.waiting:
            del self._waiting[database]
        self._leave(database)

    def _drop(self, slot: Slot) -> None:
        slot.close()
        if slot in self._slots:
            self._slots.remove(slot)
            metrics.CONNECTIONS.add(by=-1)
        slot.database.slots -= 1
        if self._idle.pop(slot, slot) is None:
            slot.database.idle.remove(slot)
        self._leave(slot.database)
        if self._emptied is not None and not self._slots:
            self._emptied.set()

    def _leave(self, database: Database) -> None:
        if not database.slots and not database.waiting and self._databases.get(database.key) is database:
            del self._databases[database.key]

    def _set_timer(self) -> None:
        """One for all: whoever became idle first is closed first."""
        if self._timer is None and self._idle and self._emptied is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(next(iter(self._idle)).idle_until, self._close_idle, loop)

    def _close_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        while self._idle and (slot := next(iter(self._idle))).idle_until <= now:
            self._drop(slot)
        self._set_timer()

    def _busy(self, database: Database) -> DatabaseUnavailable:
        if self._emptied is not None:
            return _shutting_down()
        whose = "of the database" if database.slots >= self._settings.size else "of the server"
        return DatabaseUnavailable(f"All sessions {whose} are busy.", hint="Run it again.", retryable=True)


def _shutting_down() -> DatabaseUnavailable:
    return DatabaseUnavailable("The server is shutting down.", retryable=True)
