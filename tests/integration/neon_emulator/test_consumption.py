"""The consumption history of the local Neon API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from emulating import advance, base, connected, consumed, controlled, create, total, uri_of

from agentdb_mcp.neon_emulator import Behaviour, Emulator


@pytest.mark.parametrize("granularity", ["hourly", "daily", "monthly"])
async def test_consumption_is_what_really_happened(
    api: httpx.AsyncClient, control: httpx.AsyncClient, emulator: Emulator, granularity: str
) -> None:
    settings = {"autoscaling_limit_min_cu": 0.5, "autoscaling_limit_max_cu": 1}
    created = await create(api, default_endpoint_settings=settings)
    async with connected(uri_of(created)) as connection:
        await connection.execute("BEGIN")
        await advance(control, 3600)
        size = await connection.fetchval("SELECT pg_database_size(current_database())")
    now = await advance(control, 4 * 3600)  # asleep after five minutes of it
    asked = {"project_ids": created["project"]["id"], "granularity": granularity}
    if granularity == "monthly":
        asked["from"] = (now - timedelta(days=31)).isoformat()
    body = (await consumed(api, emulator, now, **asked)).json()
    assert total(body, "compute_unit_seconds") == pytest.approx(0.5 * (3600 + 300), rel=0.01)
    assert total(body, "root_branch_bytes_month") == pytest.approx(size * 5, rel=0.1)
    assert 0 < total(body, "public_network_transfer_bytes") < 100_000
    project = (await api.get(base(created))).json()["project"]
    assert project["active_time_seconds"] == pytest.approx(3900, rel=0.01)


async def test_consumption_comes_in_pages_and_refuses_what_it_cannot_tell(
    api: httpx.AsyncClient, control: httpx.AsyncClient, emulator: Emulator
) -> None:
    made = [(await create(api))["project"]["id"] for _ in range(3)]
    now = await advance(control, 60)
    asked = {"project_ids": ",".join(made), "limit": 2}
    first = (await consumed(api, emulator, now, **asked)).json()
    rest = (await consumed(api, emulator, now, **asked, cursor=first["pagination"]["cursor"])).json()
    found = [project["project_id"] for project in first["projects"] + rest["projects"]]
    assert found == list(reversed(made))
    free = emulator.organizations[1].id
    for status, query in (
        (403, {"org_id": free}),
        (404, {"org_id": "org-never-was-12345678"}),
        (406, {"from": (now - timedelta(days=30)).isoformat()}),
        (406, {"from": now.isoformat(), "to": (now - timedelta(days=1)).isoformat()}),
        (400, {"project_ids": [f"p-{number}" for number in range(101)]}),
        (400, {"metrics": "nonsense"}),
        (400, {"granularity": "yearly"}),
        (400, {"from": "yesterday"}),
    ):
        assert (await consumed(api, emulator, now, **query)).status_code == status, query


async def test_consumption_lags_by_what_was_chosen() -> None:
    behaviour = Behaviour(operation_seconds=0, consumption_lag_seconds=900)
    async with controlled(behaviour) as (late, api, control):
        created = await create(api)
        asked = {"project_ids": created["project"]["id"]}
        now = datetime.now(UTC)
        assert total((await consumed(api, late, now, **asked)).json(), "compute_unit_seconds") == 0
        now = await advance(control, 100)
        assert total((await consumed(api, late, now, **asked)).json(), "compute_unit_seconds") == 0
        now = await advance(control, 850)
        assert total((await consumed(api, late, now, **asked)).json(), "compute_unit_seconds") > 20
