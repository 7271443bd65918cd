"""What a user's total means, and when a period ends."""

from __future__ import annotations

import calendar
from datetime import datetime

from agentdb_mcp.models import BudgetState


def state_of(
    used_microcents: int, limit_microcents: int, *, warning_percent: int, exceeded_percent: int, paused_percent: int
) -> BudgetState:
    """The state by the share of the limit that is used; a limit of 0 is exceeded from the start."""
    used = used_microcents * 100
    if used >= limit_microcents * paused_percent and limit_microcents:
        return BudgetState.PAUSED
    if used >= limit_microcents * exceeded_percent:
        return BudgetState.EXCEEDED
    if used >= limit_microcents * warning_percent:
        return BudgetState.WARNING
    return BudgetState.OK


def period_end(start: datetime) -> datetime:
    """One month later on the same day, or on the month's last day where it is shorter."""
    return _months_after(start, 1)


def current_period_start(start: datetime, now: datetime) -> datetime:
    """When the period that `now` is in began, counting months on from `start`, the anchor's day kept."""
    months = 0
    while now >= _months_after(start, months + 1):
        months += 1
    return _months_after(start, months) if months else start


def _months_after(start: datetime, months: int) -> datetime:
    index = start.month - 1 + months
    year, month = start.year + index // 12, index % 12 + 1
    return start.replace(year=year, month=month, day=min(start.day, calendar.monthrange(year, month)[1]))
