"""When a user's period begins and ends."""

from __future__ import annotations

import calendar
from datetime import datetime


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
