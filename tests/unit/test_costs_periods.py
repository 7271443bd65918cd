"""Which period a moment is in: months counted from the anchor, whose day and time every period begins at."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdb_mcp.costs import period_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
moments = st.timedeltas(timedelta(0), timedelta(days=84_000)).map(lambda since: EPOCH + since)
MICROSECOND = timedelta(microseconds=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("anchor", "now", "start", "end"),
    [
        ("2026-01-15", "2026-01-15", "2026-01-15", "2026-02-15"),
        ("2026-01-15", "2026-02-14", "2026-01-15", "2026-02-15"),
        ("2026-01-15", "2026-02-15", "2026-02-15", "2026-03-15"),
        ("2026-01-31", "2026-02-27", "2026-01-31", "2026-02-28"),
        ("2026-01-31", "2026-02-28", "2026-02-28", "2026-03-31"),
        ("2026-01-31", "2026-03-30", "2026-02-28", "2026-03-31"),
        ("2026-01-31", "2026-03-31", "2026-03-31", "2026-04-30"),
        ("2026-12-31", "2027-01-01", "2026-12-31", "2027-01-31"),
        ("2024-01-31", "2024-02-01", "2024-01-31", "2024-02-29"),
        ("2024-02-29", "2025-02-28", "2025-02-28", "2025-03-29"),
        ("2024-02-29", "2028-02-28", "2028-01-29", "2028-02-29"),
        ("2000-01-30", "2100-02-27", "2100-01-30", "2100-02-28"),
        ("2026-01-15", "2028-07-01", "2028-06-15", "2028-07-15"),
        ("2026-01-31T14:23", "2026-02-28T14:22:59", "2026-01-31T14:23", "2026-02-28T14:23"),
        ("2026-01-31T14:23", "2026-02-28T14:23", "2026-02-28T14:23", "2026-03-31T14:23"),
        ("2026-01-31T14:23", "2026-03-31T14:23", "2026-03-31T14:23", "2026-04-30T14:23"),
    ],
)
def test_a_period_begins_at_the_anchors_day_and_time_of_each_month(anchor: str, now: str, start: str, end: str) -> None:
    assert period_of(utc(anchor), utc(now)) == (utc(start), utc(end))


@given(moments, moments)
def test_every_moment_is_in_exactly_one_period(one: datetime, other: datetime) -> None:
    anchor, now = sorted((one, other))
    start, end = period_of(anchor, now)
    assert anchor <= start <= now < end
    assert period_of(anchor, start) == period_of(anchor, end - MICROSECOND) == (start, end)
    assert period_of(anchor, end)[0] == end
    if start > anchor:
        assert period_of(anchor, start - MICROSECOND)[1] == start


@given(moments, moments)
def test_a_period_is_a_month_on_the_anchors_day_where_the_month_has_it(one: datetime, other: datetime) -> None:
    anchor, now = sorted((one, other))
    start, end = period_of(anchor, now)
    assert (end.year * 12 + end.month) - (start.year * 12 + start.month) == 1
    assert timedelta(days=28) <= end - start <= timedelta(days=31)
    for edge in (start, end):
        assert edge.day == min(anchor.day, calendar.monthrange(edge.year, edge.month)[1])
        assert edge.timetz() == anchor.timetz()


@given(moments)
def test_counting_months_one_by_one_reaches_the_same_periods(anchor: datetime) -> None:
    start, end = period_of(anchor, anchor)
    assert start == anchor
    for _ in range(30):
        start, end = period_of(anchor, end)
    assert (start.year - anchor.year) * 12 + start.month - anchor.month == 30


@given(moments, moments, st.integers(-14 * 60, 14 * 60))
def test_the_zone_that_now_is_told_in_changes_nothing(one: datetime, other: datetime, minutes: int) -> None:
    anchor, now = sorted((one, other))
    elsewhere = now.astimezone(timezone(timedelta(minutes=minutes)))
    assert period_of(anchor, elsewhere) == period_of(anchor, now)


@given(moments, moments)
def test_a_clock_behind_the_anchors_is_in_the_first_period(one: datetime, other: datetime) -> None:
    now, anchor = sorted((one, other))
    assert period_of(anchor, now) == period_of(anchor, anchor)
