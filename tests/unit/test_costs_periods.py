"""Which period a moment is in, counted in months from the anchor."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agentdb_mcp.costs import current_period_start


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("anchor", "now", "start"),
    [
        ("2026-01-15", "2026-01-15", "2026-01-15"),
        ("2026-01-15", "2026-02-14", "2026-01-15"),
        ("2026-01-15", "2026-02-15", "2026-02-15"),
        ("2026-01-31", "2026-02-27", "2026-01-31"),
        ("2026-01-31", "2026-02-28", "2026-02-28"),
        ("2026-01-31", "2026-03-31", "2026-03-31"),
        ("2024-02-29", "2025-02-28", "2025-02-28"),
        ("2026-01-15", "2028-07-01", "2028-06-15"),
    ],
)
def test_a_period_begins_on_the_anchors_day_of_each_month(anchor: str, now: str, start: str) -> None:
    assert current_period_start(day(anchor), day(now)) == day(start)
