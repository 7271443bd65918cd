"""Reading bills costs what they have in them: not what others used, nor what their users used before."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from agentdb_mcp.models import Secret
from agentdb_mcp.store import migrations
from agentdb_mcp.store.ledger_sql import USAGE

NOW = datetime(2026, 3, 25, 12, tzinfo=UTC)
OF_THE_MONTH = 480

# Users with one database each, whose size was seen in every hour.
FILL = """
    INSERT INTO "user" (id) SELECT 'u' || i FROM generate_series(1, 60) AS i;
    INSERT INTO user_global_database (id, user_id, project_name, status)
    SELECT 'g' || i, 'u' || i, 'p' || i, 'ready' FROM generate_series(1, 60) AS i;
    INSERT INTO db_usage_ledger (database_id, hour, source, user_id, active, size_bytes, size_at)
    SELECT 'g' || i, hour, 's1', 'u' || i, tstzmultirange(tstzrange(hour, hour + interval '5 minutes')), 1000, hour
      FROM generate_series(1, 60) AS i,
           generate_series(timestamptz '2026-03-25 11:00Z' - interval '999 hours', '2026-03-25 11:00Z', '1 h') AS hour
"""


@pytest.fixture
async def filled(empty_database: Secret) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(empty_database.reveal())
    await migrations.apply(connection)
    await connection.execute(FILL)
    await connection.execute("ANALYZE")
    yield connection
    await connection.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)


async def rows_touched(connection: asyncpg.Connection, *windows: tuple[str, datetime, datetime | None]) -> int:
    """Of the ledger, those included that a scan looked at in vain."""
    told = await connection.fetchval(
        f"EXPLAIN (ANALYZE, FORMAT JSON) {USAGE}",
        [user for user, _, _ in windows],
        [start for _, start, _ in windows],
        [until for _, _, until in windows],
        NOW,
        250,
    )
    looked_at = 0.0
    for node in nodes(json.loads(told)[0]["Plan"]):
        if node.get("Relation Name") == "db_usage_ledger":
            looked_at += node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
    return round(looked_at)


@pytest.mark.parametrize("users", [1, 20])
async def test_a_bill_reads_its_users_month_twice_at_most(filled: asyncpg.Connection, users: int) -> None:
    windows = [(f"u{i}", NOW - timedelta(hours=OF_THE_MONTH), None) for i in range(1, users + 1)]
    assert await rows_touched(filled, *windows) <= users * (2 * OF_THE_MONTH + 10)


async def test_a_history_reads_each_day_once(filled: asyncpg.Connection) -> None:
    days = [NOW.replace(hour=0) - timedelta(days=day) for day in range(30)]
    windows = [("u1", day, day + timedelta(days=1)) for day in days]
    assert await rows_touched(filled, *windows) <= 30 * (2 * 25 + 10)
