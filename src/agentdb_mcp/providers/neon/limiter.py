"""Neon's rate limits, kept before they are met: a token bucket for all calls of one key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

# What is left of a wait when it has ended, by the arithmetic of floats.
ROUNDING_S = 1e-6


class TooLong(Exception):
    """The wait would be longer than a caller should be kept; `seconds` says how long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds:.0f} s")
        self.seconds = seconds


class RateLimiter:
    """At most `burst` calls at once and `per_second` after that; callers are served in their order."""

    def __init__(
        self,
        *,
        per_second: float,
        burst: int,
        patience: float = 60.0,
        clock: Callable[[], float] = anyio.current_time,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._patience = patience
        self._clock = clock
        self._sleep = sleep
        self._tokens = float(burst)
        self._counted: float | None = None
        self._turn = anyio.Lock()

    async def wait(self) -> None:
        """Take a token, or wait for one. Raises TooLong, without waiting, after a far `slow_down`."""
        async with self._turn:
            while (delay := self._delay()) > ROUNDING_S:
                if delay > self._patience:
                    raise TooLong(delay)
                await self._sleep(delay)
            self._tokens -= 1

    def slow_down(self, seconds: float) -> None:
        """No call for so long, by anybody, and no burst after it: the service said that we are too many."""
        self._count()
        self._tokens = min(self._tokens, 1.0 - seconds * self._per_second)

    def _delay(self) -> float:
        self._count()
        return (1.0 - self._tokens) / self._per_second

    def _count(self) -> None:
        now = self._clock()
        passed = 0.0 if self._counted is None else now - self._counted
        self._tokens = min(float(self._burst), self._tokens + passed * self._per_second)
        self._counted = now
