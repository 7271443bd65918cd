"""Our own running estimate: how long our traffic keeps each database's compute awake.

A compute stays awake for the suspend timeout after its last use, so a database's active time is the union of the
intervals [start, end + suspend timeout] of its uses. Seconds are a monotonic clock's, given by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from agentdb_mcp.costs.pricing import compute_microcents


@dataclass(slots=True)
class Meter:
    """Counts per database what was not taken yet; `key` is any hashable name of a database."""

    compute_cu: Decimal
    dollars_per_cu_hour: Decimal
    suspend_timeout_s: float
    _awake_until: dict[object, float] = field(default_factory=dict)
    _pending: dict[object, int] = field(default_factory=dict)

    def note(self, key: object, start: float, end: float) -> None:
        """One use from `start` to `end`."""
        awake_until = max(end + self.suspend_timeout_s, self._awake_until.get(key, start))
        seconds = awake_until - max(start, self._awake_until.get(key, start))
        self._awake_until[key] = awake_until
        cost = compute_microcents(round(seconds * 1_000_000), self.compute_cu, self.dollars_per_cu_hour)
        self._pending[key] = self._pending.get(key, 0) + cost

    def pending(self, key: object) -> int:
        """Micro-cents noted and not taken."""
        return self._pending.get(key, 0)

    def unsettled(self) -> dict[object, int]:
        """All that is pending; it stays so until it is settled."""
        return {key: cost for key, cost in self._pending.items() if cost}

    def settle(self, costs: dict[object, int]) -> None:
        """Forget what was stored."""
        for key, cost in costs.items():
            self._pending[key] = self._pending.get(key, 0) - cost
