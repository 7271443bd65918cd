"""The emulator's time: the machine's, or one that starts elsewhere, moved forward on request."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

HOUR = timedelta(hours=1)


class Clock:
    """Runs like any clock; `advance` makes it jump, so that hours and days can be had in a test."""

    def __init__(self, start_at: datetime | None = None) -> None:
        """`start_at` is what it shows now, past or future; it has an offset."""
        self._ahead = start_at - datetime.now(UTC) if start_at is not None else timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def advance(self, by: timedelta) -> None:
        """Raises OverflowError past the end of the calendar."""
        if by < timedelta(0):
            raise ValueError("the clock only goes forward")
        datetime.now(UTC) + self._ahead + by
        self._ahead += by


def hour_of(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def month_of(moment: datetime) -> datetime:
    return hour_of(moment).replace(day=1, hour=0)


def after_month(start: datetime) -> datetime:
    return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)


def by_hour(start: datetime, end: datetime) -> Iterator[tuple[datetime, float]]:
    """The hours that a stretch of time touches, each with its seconds of it."""
    while start < end:
        hour = hour_of(start)
        stop = min(hour + HOUR, end)
        yield hour, (stop - start).total_seconds()
        start = stop
