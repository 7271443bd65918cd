"""Branches of the local Neon API, their roles and databases."""

from __future__ import annotations

import asyncpg
import httpx
import pytest
from emulating import base, branch_path, connected, create, done, settled, uri_of


async def test_a_branch_is_a_copy_that_goes_its_own_way(api: httpx.AsyncClient) -> None:
    created = await create(api)
    async with connected(uri_of(created)) as admin:
        await admin.execute("CREATE TABLE note AS SELECT 'before' AS text")
    path = f"{base(created)}/branches"
    body = {"branch": {"name": "experiment"}, "endpoints": [{"type": "read_write"}]}
    response = await api.post(path, json=body)
    assert response.status_code == 201, response.text
    made = response.json()
    await settled(api, created["project"]["id"])
    async with connected(made["connection_uris"][0]["connection_uri"]) as copy, connected(uri_of(created)) as root:
        await copy.execute("UPDATE note SET text = 'after'")
        assert await root.fetchval("SELECT text FROM note") == "before"
        assert await copy.fetchval("SELECT text FROM note") == "after"
    assert (await api.post(path, json=body)).status_code == 409
    assert (await api.delete(branch_path(created))).status_code == 422
    without = (await api.post(path)).json()
    assert without["endpoints"] == []
    await settled(api, created["project"]["id"])
    for branch in (made["branch"], without["branch"]):
        await done(api, "DELETE", f"{path}/{branch['id']}")
    assert len((await api.get(path)).json()["branches"]) == 1
    async with connected(uri_of(created)) as root:
        assert await root.fetchval("SELECT text FROM note") == "before"


async def test_roles_and_databases_come_and_go(api: httpx.AsyncClient) -> None:
    created = await create(api)
    branch = branch_path(created)
    role = (await done(api, "POST", f"{branch}/roles", json={"role": {"name": "extra_role"}}))["role"]
    database = {"name": "extra_database", "owner_name": role["name"]}
    made = (await done(api, "POST", f"{branch}/databases", json={"database": database}))["database"]
    query = {"database_name": made["name"], "role_name": role["name"]}
    uri = (await api.get(f"{base(created)}/connection_uri", params=query)).json()["uri"]
    async with connected(uri) as owner:
        await owner.execute("CREATE TABLE note (text text)")
    assert (await api.post(f"{branch}/roles", json={"role": {"name": role["name"]}})).status_code == 409
    assert (await api.delete(f"{branch}/roles/{role['name']}")).status_code == 422
    await done(api, "DELETE", f"{branch}/databases/{made['name']}")
    await done(api, "DELETE", f"{branch}/roles/{role['name']}")
    assert [found["name"] for found in (await api.get(f"{branch}/roles")).json()["roles"]] == [
        created["roles"][0]["name"]
    ]
    with pytest.raises(asyncpg.PostgresError):
        await asyncpg.connect(uri)
