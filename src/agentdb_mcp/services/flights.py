"""One flight at a time for each key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True)
class _Flight:
    turn: anyio.Lock = field(default_factory=anyio.Lock)
    wanted: int = 0


class Flights(Generic[Key]):
    """Locks by key, each there for as long as somebody has it or waits for it."""

    def __init__(self) -> None:
        self._flights: dict[Key, _Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    @asynccontextmanager
    async def of(self, key: Key) -> AsyncIterator[None]:
        """One caller at a time for the time of the block."""
        flight = self._flights.setdefault(key, _Flight())
        flight.wanted += 1
        try:
            async with flight.turn:
                yield
        finally:
            flight.wanted -= 1
            if not flight.wanted:
                del self._flights[key]
