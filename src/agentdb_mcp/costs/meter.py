"""Our own running estimate: how long our traffic keeps each database's compute awake.

A compute stays awake for the suspend timeout after its last use, so a database's active time is the union of the
intervals [start, end + suspend timeout] of its uses. Seconds are a monotonic clock's, given by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from agentdb_mcp.costs.pricing import compute_microcents

# Waking times remembered for each database: more than calls that run at the same time can reach back over.
KEPT_SPANS = 100


@dataclass(slots=True)
class Meter:
    """Counts per database what was not taken yet; `key` is any hashable name of a database."""

    compute_cu: Decimal
    dollars_per_cu_hour: Decimal
    suspend_timeout_s: float
    _awake: dict[object, list[tuple[float, float]]] = field(default_factory=dict)
    _pending: dict[object, int] = field(default_factory=dict)

    def note(self, key: object, start: float, end: float) -> None:
        """One use from `start` to `end`; uses are noted as they end, so a long one may have begun before others."""
        spans = self._awake.setdefault(key, [])
        begin, until, known = start, end + self.suspend_timeout_s, 0.0
        while spans and spans[-1][1] >= begin:
            span = spans.pop()
            known += span[1] - span[0]
            begin, until = min(begin, span[0]), max(until, span[1])
        spans.append((begin, until))
        del spans[:-KEPT_SPANS]
        active_us = round((until - begin - known) * 1_000_000)
        cost = compute_microcents(active_us, self.compute_cu, self.dollars_per_cu_hour)
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
