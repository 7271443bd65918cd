"""Jumps of the clock: what falls due inside them happens at its own moment, by numbers worked out by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from emulating import (
    DAY_S,
    Json,
    advance,
    base,
    connected,
    consumed,
    controlled,
    create,
    done,
    endpoint_path,
    state_of,
    total,
    uri_of,
)

from agentdb_mcp.neon_emulator import Behaviour, Emulator

START = datetime(2027, 1, 30, 12, tzinfo=UTC)
Stack = tuple[Emulator, httpx.AsyncClient, httpx.AsyncClient]
# What passes in the machine's own time while a test runs.
SLACK_S = 30.0


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    async with controlled(Behaviour(operation_seconds=0, cold_start_seconds=0, start_at=START)) as opened:
        yield opened


async def timed(api: httpx.AsyncClient, timeout_s: int = 300, quota: Json | None = None, units: float = 0.25) -> Json:
    settings = {"suspend_timeout_seconds": timeout_s, "autoscaling_limit_min_cu": units, "autoscaling_limit_max_cu": 4}
    return await create(api, default_endpoint_settings=settings, settings={"quota": quota or {}})


async def seconds(api: httpx.AsyncClient, created: Json) -> tuple[int, int]:
    """Active and compute-unit seconds of this month."""
    project = (await api.get(base(created))).json()["project"]
    return project["active_time_seconds"], project["compute_time_seconds"]


def near(value: float) -> object:
    """What passes is added; a little less is for rounding."""
    return pytest.approx(value + (SLACK_S - 5) / 2, abs=(SLACK_S + 5) / 2)


async def suspended_at(api: httpx.AsyncClient, created: Json) -> datetime:
    return datetime.fromisoformat((await api.get(endpoint_path(created))).json()["endpoint"]["suspended_at"])


async def test_however_large_the_jump_a_compute_costs_until_its_timeout_only(stack: Stack) -> None:
    _, api, control = stack
    created = [await timed(api, 60), await timed(api, 300, units=1), await timed(api, 7200, units=2)]
    awake = await timed(api, -1, units=0.5)
    await advance(control, DAY_S)
    assert await seconds(api, created[0]) == (near(60), near(15))
    assert await seconds(api, created[1]) == (near(300), near(300))
    assert await seconds(api, created[2]) == (near(7200), near(14_400))
    assert await seconds(api, awake) == (near(DAY_S), near(DAY_S / 2))
    for project, timeout in zip(created, (60, 300, 7200), strict=True):
        assert await state_of(api, project) == "idle"
        assert await suspended_at(api, project) - START <= timedelta(seconds=timeout + SLACK_S)


async def test_each_waking_costs_its_own_timeout(stack: Stack) -> None:
    _, api, control = stack
    created = await timed(api, 300)
    for _ in range(4):
        async with connected(uri_of(created)) as connection:
            await connection.execute("SELECT 1")
        await advance(control, 120)  # still awake: 120 s
        async with connected(uri_of(created)) as connection:
            await connection.execute("SELECT 1")
        await advance(control, 3480)  # asleep 300 s into it
    assert (await seconds(api, created))[0] == near(4 * 420)


async def test_a_quota_on_time_ends_computes_inside_a_jump(stack: Stack) -> None:
    _, api, control = stack
    by_units = await timed(api, -1, {"compute_time_seconds": 1800}, units=0.5)
    by_activity = await timed(api, -1, {"active_time_seconds": 7200, "compute_time_seconds": 10**9})
    before = await timed(api, 600, {"active_time_seconds": 7200})
    await advance(control, 6 * 3600)
    assert await seconds(api, by_units) == (3600, 1800)
    assert await seconds(api, by_activity) == (7200, 1800)
    assert await seconds(api, before) == (near(600), near(150))
    assert abs(await suspended_at(api, by_units) - (START + timedelta(hours=1))) < timedelta(seconds=SLACK_S)
    assert (await api.post(f"{endpoint_path(by_units)}/start")).status_code == 403
    assert (await api.post(f"{endpoint_path(before)}/start")).status_code == 200


async def test_a_quota_starts_anew_with_the_month_even_inside_a_jump(stack: Stack) -> None:
    _, api, control = stack
    # 36 hours of January are left: 30 of them are free, so it sleeps on the 31st at 18:00 and February is untouched.
    created = await timed(api, -1, {"active_time_seconds": 30 * 3600})
    fits = await timed(api, -1, {"active_time_seconds": 37 * 3600})
    await advance(control, 3 * DAY_S)  # to the 2nd of February, 12:00
    assert await seconds(api, created) == (0, 0)
    assert abs(await suspended_at(api, created) - datetime(2027, 1, 31, 18, tzinfo=UTC)) < timedelta(seconds=SLACK_S)
    assert (await seconds(api, fits))[0] == near(36 * 3600)  # of February; January's were not 37
    assert await state_of(api, fits) == "active"
    async with connected(uri_of(created)) as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_a_quota_that_is_set_later_does_not_reach_into_the_past(stack: Stack) -> None:
    _, api, control = stack
    created = await timed(api, -1)
    await advance(control, 3600)
    await done(api, "PATCH", base(created), json={"project": {"settings": {"quota": {"active_time_seconds": 60}}}})
    assert await state_of(api, created) == "idle"
    assert (await seconds(api, created))[0] == near(3600)


async def test_storage_of_a_jump_is_booked_by_the_size_at_its_end(stack: Stack) -> None:
    emulator, api, control = stack
    created = await timed(api)
    await advance(control, 3600)
    async with connected(uri_of(created)) as connection:
        empty = await connection.fetchval("SELECT pg_database_size(current_database())")
        await connection.execute("CREATE TABLE big AS SELECT repeat(md5(n::text), 30) FROM generate_series(1, 20000) n")
        full = await connection.fetchval("SELECT pg_database_size(current_database())")
    assert full > 2 * empty
    now = await advance(control, 10 * 3600)
    asked = {"project_ids": created["project"]["id"], "from": START.isoformat()}
    body = (await consumed(api, emulator, now, **asked)).json()
    assert total(body, "root_branch_bytes_month") == pytest.approx(empty + 10 * full, rel=0.01)
    frames = body["projects"][0]["periods"][0]["consumption"]
    assert len(frames) == 12
    assert frames[0]["timeframe_start"] == "2027-01-30T12:00:00Z"
    assert frames[-1]["timeframe_start"] == "2027-01-30T23:00:00Z"


async def test_what_was_sent_before_a_jump_belongs_to_the_hour_it_was_sent_in(stack: Stack) -> None:
    emulator, api, control = stack
    created = await timed(api, quota={"data_transfer_bytes": 1_500_000})
    for _ in range(2):
        async with connected(uri_of(created)) as connection:
            await connection.fetchval("SELECT repeat('x', 1000000)")
        now = await advance(control, 2 * 3600)
    body = (await consumed(api, emulator, now, project_ids=created["project"]["id"])).json()
    sent = {
        frame["timeframe_start"]: measured["value"]
        for frame in body["projects"][0]["periods"][0]["consumption"]
        for measured in frame["metrics"]
        if measured["metric_name"] == "public_network_transfer_bytes" and measured["value"]
    }
    assert list(sent) == ["2027-01-30T12:00:00Z", "2027-01-30T14:00:00Z"]
    assert all(1_000_000 <= value < 1_100_000 for value in sent.values())
    # The second reading broke the quota: nothing of the jump after it was used.
    assert (await seconds(api, created))[0] == near(300)


async def test_the_clock_starts_and_jumps_where_it_is_told_to(stack: Stack) -> None:
    _, api, control = stack
    now = datetime.fromisoformat((await control.get("/clock")).json()["now"])
    assert timedelta(0) <= now - START < timedelta(minutes=1)
    created = await create(api)
    assert created["project"]["created_at"].startswith("2027-01-30T12:")
    assert created["project"]["consumption_period_start"] == "2027-01-01T00:00:00Z"
    target = datetime(2027, 3, 1, tzinfo=UTC)
    moved = datetime.fromisoformat((await control.post("/clock", json={"set_to": target.isoformat()})).json()["now"])
    assert timedelta(0) <= moved - target < timedelta(minutes=1)
    for wrong in ({"set_to": START.isoformat()}, {"set_to": "2027-04-01T00:00:00"}, {"set_to": 5}, {}):
        assert (await control.post("/clock", json=wrong)).status_code == 400, wrong
    with pytest.raises(ValueError, match="offset"):
        Behaviour(start_at=datetime(2027, 1, 1))  # noqa: DTZ001
