"""Branches of the local Neon API, their roles and databases."""

from __future__ import annotations

import asyncpg
import httpx
import pytest
from emulating import GONE, Json, base, branch_path, connected, create, done, settled, uri_of


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


async def note_in(uri: str) -> str | None:
    async with connected(uri) as connection:
        text: str | None = await connection.fetchval("SELECT text FROM note")
        return text


async def two_branches(api: httpx.AsyncClient) -> tuple[Json, Json]:
    """A project whose root says 'root', and a branch of it that says 'child'."""
    created = await create(api)
    async with connected(uri_of(created)) as admin:
        await admin.execute("CREATE TABLE note AS SELECT 'root' AS text")
    body = {"branch": {"name": "child"}, "endpoints": [{"type": "read_write"}]}
    child = await done(api, "POST", f"{base(created)}/branches", json=body)
    async with connected(uri_of(child)) as admin:
        await admin.execute("UPDATE note SET text = 'child'")
    return created, child


async def test_a_branch_is_restored_from_its_parent_under_its_own_address(api: httpx.AsyncClient) -> None:
    created, child = await two_branches(api)
    child_path = f"{base(created)}/branches/{child['branch']['id']}"
    databases = (await api.get(f"{child_path}/databases")).json()["databases"]
    await done(api, "POST", f"{child_path}/roles", json={"role": {"name": "only_here"}})
    async with connected(uri_of(child)) as old:
        assert await old.fetchval("SELECT 1") == 1
        restored = await done(api, "POST", f"{child_path}/restore", json={"source_branch_id": created["branch"]["id"]})
        with pytest.raises(GONE):
            await old.fetchval("SELECT 1")
    assert restored["branch"]["id"] == child["branch"]["id"]
    assert [operation["action"] for operation in restored["operations"]] == ["create_timeline"]
    assert await note_in(uri_of(child)) == "root"
    assert await note_in(uri_of(created)) == "root"
    async with connected(uri_of(created)) as admin:
        with pytest.raises(asyncpg.UndefinedObjectError):
            await admin.execute("COMMENT ON ROLE only_here IS 'still there'")
    after = (await api.get(f"{child_path}/databases")).json()["databases"]
    assert [database["name"] for database in after] == [database["name"] for database in databases]
    await done(api, "DELETE", child_path)
    assert (await api.delete(base(created))).status_code == 200


async def test_what_a_restore_replaces_is_preserved_under_the_name_asked_for(api: httpx.AsyncClient) -> None:
    created, child = await two_branches(api)
    path, asked = branch_path(created), {"source_branch_id": child["branch"]["id"]}
    role = (await done(api, "POST", f"{path}/roles", json={"role": {"name": "late_role"}}))["role"]
    refused = await api.post(f"{path}/restore", json=asked)
    assert refused.status_code == 422
    assert "preserve_under_name" in refused.json()["message"]
    taken = await api.post(f"{path}/restore", json={**asked, "preserve_under_name": "child"})
    assert taken.status_code == 409
    await done(api, "POST", f"{path}/restore", json={**asked, "preserve_under_name": "before"})
    assert await note_in(uri_of(created)) == "child"
    listed = {branch["name"]: branch for branch in (await api.get(f"{base(created)}/branches")).json()["branches"]}
    assert set(listed) == {"main", "child", "before"}
    assert listed["child"]["parent_id"] == listed["before"]["id"]
    assert listed["main"]["default"]
    assert role["name"] not in [found["name"] for found in (await api.get(f"{path}/roles")).json()["roles"]]
    before = f"{base(created)}/branches/{listed['before']['id']}"
    assert role["name"] in [found["name"] for found in (await api.get(f"{before}/roles")).json()["roles"]]
    # Back again: what was preserved is a branch like any other.
    back = {"source_branch_id": listed["before"]["id"], "preserve_under_name": "after"}
    await done(api, "POST", f"{path}/restore", json=back)
    assert await note_in(uri_of(created)) == "root"
    assert await note_in(uri_of(child)) == "child"


async def test_points_in_time_and_unknown_branches_are_refused(api: httpx.AsyncClient) -> None:
    created = await create(api)
    path, own = f"{branch_path(created)}/restore", created["branch"]["id"]
    for status, body in (
        (400, {}),
        (400, {"source_branch_id": own}),
        (400, {"source_branch_id": own, "source_timestamp": "2026-01-01T00:00:00Z", "preserve_under_name": "old"}),
        (400, {"source_branch_id": own, "source_lsn": "0/1", "preserve_under_name": "old"}),
        (404, {"source_branch_id": "br-never-was-12345678"}),
    ):
        refused = await api.post(path, json=body)
        assert refused.status_code == status, refused.text
        assert refused.json()["message"]
