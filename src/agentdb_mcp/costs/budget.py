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


def period_of(anchor: datetime, now: datetime) -> tuple[datetime, datetime]:
    """Start and end of the period that `now` is in, both in the anchor's zone; the end belongs to the next one.

    Periods begin on the anchor's day and time of every month, or on the last day of a month that is shorter. None is
    before the anchor, so that a clock that is a little behind the anchor's does not open one.
    """
    now = max(now.astimezone(anchor.tzinfo), anchor)
    months = (now.year - anchor.year) * 12 + now.month - anchor.month
    if _months_after(anchor, months) > now:
        months -= 1
    return _months_after(anchor, months), _months_after(anchor, months + 1)


def _months_after(start: datetime, months: int) -> datetime:
    index = start.month - 1 + months
    year, month = start.year + index // 12, index % 12 + 1
    return start.replace(year=year, month=month, day=min(start.day, calendar.monthrange(year, month)[1]))
