"""For how long computes ran in a stretch of time, and where a quota ended it. Pure: no I/O, no clock.

A jump of the clock is such a stretch, too: what falls due inside it happens at its own moment.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from agentdb_mcp.neon_emulator.clock import after_month, month_of

# Sums of seconds over hours are not exact.
TOLERANCE_S = 1e-3
# Quotas may be larger than the calendar.
LONGEST_S = 86_400.0 * 366 * 100


@dataclass(frozen=True, slots=True)
class Stretch:
    """A compute of `units` that ran from `start` to `end`."""

    project_id: str
    endpoint_id: str
    units: float
    start: datetime
    end: datetime

    def until(self, moment: datetime) -> Stretch:
        return replace(self, end=max(self.start, min(self.end, moment)))


class Used(Protocol):
    """What a month had of each before."""

    @property
    def compute_seconds(self) -> float: ...
    @property
    def active_seconds(self) -> float: ...


def exhausted_at(
    stretches: Sequence[Stretch], quota: Mapping[str, float], used: Mapping[datetime, Used]
) -> datetime | None:
    """When the first quota on time was used up, if it was; with each month, by its first moment, it starts anew."""
    units, ones = [stretch.units for stretch in stretches], [1.0] * len(stretches)
    compute = {month: totals.compute_seconds for month, totals in used.items()}
    active = {month: totals.active_seconds for month, totals in used.items()}
    of_compute = _reached(stretches, units, quota.get("compute_time_seconds"), compute)
    of_activity = _reached(stretches, ones, quota.get("active_time_seconds"), active)
    return min((moment for moment in (of_compute, of_activity) if moment is not None), default=None)


def _reached(
    stretches: Sequence[Stretch], rates: Sequence[float], limit: float | None, spent: dict[datetime, float]
) -> datetime | None:
    """`rates` say what a second of each stretch costs."""
    moments = _moments(stretches) if limit else []
    for start, end in itertools.pairwise(moments):
        rate = sum(
            rate for stretch, rate in zip(stretches, rates, strict=True) if stretch.start <= start < end <= stretch.end
        )
        left = (limit or 0) - spent.setdefault(month_of(start), 0)
        if rate and left <= TOLERANCE_S:
            return start
        if rate and (reached := start + _time_for(left / rate)) <= end:
            return reached
        spent[month_of(start)] += rate * (end - start).total_seconds()
    return None


def _time_for(seconds: float) -> timedelta:
    """Never early: what is booked until then must reach the limit."""
    return timedelta(microseconds=math.ceil(min(seconds, LONGEST_S) * 1e6))


def _moments(stretches: Sequence[Stretch]) -> list[datetime]:
    """Where something begins or ends, months included."""
    moments = {moment for stretch in stretches for moment in (stretch.start, stretch.end)}
    if not moments:
        return []
    month, last = after_month(month_of(min(moments))), max(moments)
    while month < last:
        moments.add(month)
        month = after_month(month)
    return sorted(moments)
