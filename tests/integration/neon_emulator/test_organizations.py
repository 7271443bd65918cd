"""Organizations of the local Neon API: their plans, their keys, their projects."""

from __future__ import annotations

import httpx
from emulating import base, client, create

from agentdb_mcp.neon_emulator import Emulator


async def test_the_free_plan_takes_no_suspend_timeout(api: httpx.AsyncClient, emulator: Emulator) -> None:
    free = emulator.organizations[1]
    settings = {"default_endpoint_settings": {"suspend_timeout_seconds": 600}}
    refused = await api.post("/projects", json={"project": {"org_id": free.id, **settings}})
    assert refused.status_code == 412
    created = await create(api, org_id=free.id)
    assert (await api.patch(base(created), json={"project": settings})).status_code == 412
    assert (await api.patch(base(created), json={"project": {"name": "renamed"}})).status_code == 200


async def test_projects_move_between_organizations_whose_keys_open_only_their_own(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    paid, free = emulator.organizations
    assert paid.id == emulator.org_id
    created = await create(api, name="moving-house", org_id=free.id)
    async with client(emulator.base_url, free.api_key) as of_free, client(emulator.base_url, paid.api_key) as of_paid:
        assert (await of_free.get(base(created))).status_code == 200
        assert (await of_paid.get(base(created))).status_code == 404
        assert (await of_paid.post("/projects", json={"project": {"org_id": free.id}})).status_code == 404
        path = f"/organizations/{free.id}/projects/transfer"
        move = {"destination_org_id": paid.id, "project_ids": [created["project"]["id"]]}
        unknown = {**move, "project_ids": [*move["project_ids"], "never-was-12345678"]}
        assert (await of_free.post(path, json=unknown)).status_code == 404
        assert (await of_free.get(base(created))).status_code == 200
        assert (await of_free.post(path, json={**move, "project_ids": ["p"] * 401})).status_code == 400
        assert (await of_free.post(path, json=move)).status_code == 200
        assert (await of_paid.get(base(created))).json()["project"]["org_id"] == paid.id
        assert (await of_free.get(base(created))).status_code == 404
