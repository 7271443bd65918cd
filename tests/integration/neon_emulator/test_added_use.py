"""Use that a test adds to projects' histories by the control port."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from emulating import advance, base, consumed, controlled, create, total

from agentdb_mcp.neon_emulator import Behaviour, Emulator

START = datetime(2027, 1, 10, tzinfo=UTC)
METRICS = {
    "compute_unit_seconds": "compute_unit_seconds",
    "root_branch_byte_hours": "root_branch_bytes_month",
    "child_branch_byte_hours": "child_branch_bytes_month",
    "instant_restore_byte_hours": "instant_restore_bytes_month",
    "snapshot_byte_hours": "snapshot_storage_bytes_month",
    "sent_bytes": "public_network_transfer_bytes",
    "private_sent_bytes": "private_network_transfer_bytes",
    "extra_branch_hours": "extra_branches_month",
}
ALL = {"metrics": ",".join(METRICS.values())}


async def test_every_kind_of_use_can_be_added_and_adds_up() -> None:
    behaviour = Behaviour(operation_seconds=0, start_at=START)
    async with controlled(behaviour) as (emulator, api, control):
        project_id = (await create(api))["project"]["id"]
        now = await advance(control, 86_400)
        asked = {**ALL, "project_ids": project_id, "from": START.isoformat()}
        before = (await consumed(api, emulator, now, **asked)).json()
        frames = before["projects"][0]["periods"][0]["consumption"]
        names = {measured["metric_name"] for frame in frames for measured in frame["metrics"]}
        assert names == set(METRICS.values()) - {
            "instant_restore_bytes_month",
            "snapshot_storage_bytes_month",
            "private_network_transfer_bytes",
        }
        amounts = {name: 10**9 * number for number, name in enumerate(METRICS, 1)}
        one = {"project_id": project_id, "hour": "2027-01-10T03:00:00Z", **amounts}
        assert (await control.post("/consumption", json=one)).status_code == 204
        other = {**one, "hour": "2027-01-10T07:00:00+02:00"}
        assert (await control.post("/consumption", json=[one, other])).status_code == 204
        after = (await consumed(api, emulator, now, **asked)).json()
        for name, metric in METRICS.items():
            grown = total(after, metric) - total(before, metric)
            assert grown == pytest.approx(3 * amounts[name], rel=1e-3), metric
        project = (await api.get(f"/projects/{project_id}")).json()["project"]
        assert project["data_transfer_bytes"] == 3 * amounts["sent_bytes"]


async def test_what_was_added_is_published_with_the_same_lag_as_what_was_measured() -> None:
    behaviour = Behaviour(operation_seconds=0, consumption_lag_seconds=900, start_at=START)
    async with controlled(behaviour) as (emulator, api, control):
        created = await create(api)
        now = await advance(control, 3 * 3600)

        async def sent(now: datetime) -> int:
            answer = await consumed(api, emulator, now, project_ids=created["project"]["id"])
            return total(answer.json(), "public_network_transfer_bytes")

        before = await sent(now)
        added = {"project_id": created["project"]["id"], "hour": START.isoformat(), "sent_bytes": 5}
        assert (await control.post("/consumption", json=added)).status_code == 204
        assert await sent(now) == before
        now = await advance(control, 901)
        assert await sent(now) == before + 5
        quota = {"project": {"settings": {"quota": {"data_transfer_bytes": 5}}}}
        await api.patch(base(created), json=quota)
        start = await api.post(f"{base(created)}/endpoints/{created['endpoints'][0]['id']}/start")
        assert start.status_code == 403


async def test_a_thousand_histories_go_into_one_request() -> None:
    behaviour = Behaviour(operation_seconds=0, start_at=START)
    async with controlled(behaviour) as (emulator, api, control):
        created = [(await create(api))["project"]["id"] for _ in range(3)]
        now = await advance(control, 10 * 86_400)
        histories = [
            {
                "project_id": created[number % 3],
                "hour": (START + timedelta(hours=number % 240)).isoformat(),
                "instant_restore_byte_hours": number,
            }
            for number in range(20_000)
        ]
        assert (await control.post("/consumption", json=histories)).status_code == 204
        asked = {**ALL, "granularity": "monthly", "from": START.isoformat()}
        body = (await consumed(api, emulator, now, **asked)).json()
        assert total(body, "instant_restore_bytes_month") == sum(range(20_000))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hour": "2027-01-01T00:30:00Z"}, "whole hour"),
        ({"hour": "2027-01-01T00:00:00"}, "offset"),
        ({"hour": "2099-01-01T00:00:00Z"}, "over"),
        ({"hour": 7}, "whole hour"),
        ({"sent_bytes": -1}, "from 0"),
        ({"sent_bytes": "many"}, "from 0"),
        ({"sent_bytes": True}, "from 0"),
        ({"bytes_sent": 1}, "is not known"),
        ({"project_id": 5}, "must be a string"),
    ],
)
async def test_what_cannot_be_added_is_refused_with_its_name(
    api: httpx.AsyncClient, control: httpx.AsyncClient, emulator: Emulator, wrong: dict[str, Any], said: str
) -> None:
    project_id = (await create(api))["project"]["id"]
    fine = {"project_id": project_id, "hour": "2025-06-01T00:00:00Z", "sent_bytes": 1}
    refused = await control.post("/consumption", json=[fine, {**fine, **wrong}])
    assert refused.status_code == 400
    assert "[1]" in refused.json()["message"]
    assert said in refused.json()["message"]
    for nothing in (5, "x", [[]]):
        assert (await control.post("/consumption", json=nothing)).status_code == 400
    unknown = {**fine, "project_id": "never-was-12345678"}
    assert (await control.post("/consumption", json=[fine, unknown])).status_code == 404
