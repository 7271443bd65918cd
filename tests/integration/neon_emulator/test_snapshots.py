"""Snapshots of the local Neon API: made, listed, restored under the branch's own address, expired."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import httpx
import pytest
from emulating import (
    DAY_S,
    GONE,
    Json,
    advance,
    assert_error,
    base,
    branch_path,
    client,
    connected,
    consumed,
    create,
    done,
    total,
    uri_of,
)

from agentdb_mcp.neon_emulator import Emulator


async def with_note(api: httpx.AsyncClient, text: str = "before") -> Json:
    created = await create(api)
    async with connected(uri_of(created)) as admin:
        await admin.execute(f"CREATE TABLE note AS SELECT '{text}' AS text")
    return created


async def snapshot(api: httpx.AsyncClient, created: Json, branch: str | None = None, **query: str) -> Json:
    path = branch_path(created) if branch is None else f"{base(created)}/branches/{branch}"
    answer = await done(api, "POST", f"{path}/snapshot", params=query)
    made: Json = answer["snapshot"]
    return made


async def default_branch(api: httpx.AsyncClient, created: Json) -> Json:
    (found,) = [each for each in (await api.get(f"{base(created)}/branches")).json()["branches"] if each["default"]]
    return dict(found)


async def note_in(created: Json) -> str:
    async with connected(uri_of(created)) as connection:
        return str(await connection.fetchval("SELECT text FROM note"))


async def test_a_snapshot_brings_the_data_back_under_the_same_connection_string(api: httpx.AsyncClient) -> None:
    created = await with_note(api)
    made = await snapshot(api, created, name="first")
    assert made["full_size"] > 0
    async with connected(uri_of(created)) as admin:
        await admin.execute("UPDATE note SET text = 'after'")
        await admin.execute("CREATE TABLE later ()")
        body = {"finalize_restore": True, "target_branch_id": created["branch"]["id"]}
        restored = await done(api, "POST", f"{base(created)}/snapshots/{made['id']}/restore", json=body)
        with pytest.raises(GONE):
            await admin.fetchval("SELECT 1")
    assert await note_in(created) == "before"
    now = await default_branch(api, created)
    assert now["id"] == restored["branch"]["id"] != created["branch"]["id"]
    assert now["name"] == created["branch"]["name"]
    endpoint = (await api.get(f"{base(created)}/endpoints")).json()["endpoints"][0]
    assert (endpoint["id"], endpoint["branch_id"]) == (created["endpoints"][0]["id"], now["id"])
    databases = (await api.get(f"{base(created)}/branches/{now['id']}/databases")).json()["databases"]
    assert [each["name"] for each in databases] == [created["databases"][0]["name"]]
    await done(api, "DELETE", branch_path(created))
    # The snapshot outlives the branch that it was made of, and serves again; so does one of the restored branch.
    assert [each["id"] for each in (await api.get(f"{base(created)}/snapshots")).json()["snapshots"]] == [made["id"]]
    second = await snapshot(api, created, now["id"])
    assert second["source_branch_id"] == now["id"]
    assert (await api.delete(base(created))).status_code == 200


async def test_a_restore_in_two_steps_names_both_branches(api: httpx.AsyncClient) -> None:
    created = await with_note(api)
    made = await snapshot(api, created)
    async with connected(uri_of(created)) as admin:
        await admin.execute("UPDATE note SET text = 'after'")
    restored = await done(api, "POST", f"{base(created)}/snapshots/{made['id']}/restore", json={"name": "preview"})
    assert await note_in(created) == "after"
    assert not restored["branch"]["default"]
    path = f"{base(created)}/branches/{restored['branch']['id']}/finalize_restore"
    await done(api, "POST", path, json={"name": "replaced"})
    assert await note_in(created) == "before"
    listed = {each["name"]: each["id"] for each in (await api.get(f"{base(created)}/branches")).json()["branches"]}
    assert listed == {"main": restored["branch"]["id"], "replaced": created["branch"]["id"]}
    assert_error(await api.post(path), 422)


async def test_rights_on_the_database_itself_come_back_with_it(api: httpx.AsyncClient) -> None:
    created = await with_note(api)
    role, database = f"a_{created['project']['id'][-8:]}", created["databases"][0]["name"]
    async with connected(uri_of(created)) as admin:
        await admin.execute(f"CREATE ROLE {role}; GRANT CONNECT, CREATE ON DATABASE {database} TO {role}")
    made = await snapshot(api, created)
    await done(api, "POST", f"{base(created)}/snapshots/{made['id']}/restore", json={"finalize_restore": True})
    async with connected(uri_of(created)) as admin:
        ask = f"SELECT has_database_privilege('{role}', '{database}', 'CREATE')"
        assert await admin.fetchval(ask)


async def test_what_cannot_be_is_refused(api: httpx.AsyncClient) -> None:
    created = await with_note(api)
    path = f"{branch_path(created)}/snapshot"
    for query in ({"timestamp": "2026-01-01T00:00:00Z"}, {"lsn": "0/1"}, {"expires_at": "soon"}):
        assert_error(await api.post(path, params=query), 400)
    assert_error(await api.post(path, params={"expires_at": "2020-01-01T00:00:00Z"}), 400)
    child = await done(api, "POST", f"{base(created)}/branches")
    assert_error(await api.post(f"{base(created)}/branches/{child['branch']['id']}/snapshot"), 400)
    assert_error(await api.delete(f"{base(created)}/snapshots/snap-never-was-12345678"), 404)
    assert_error(await api.post(f"{base(created)}/snapshots/snap-never-was-12345678/restore"), 404)


async def test_a_free_project_has_one_snapshot(emulator: Emulator) -> None:
    async with client(emulator.base_url, emulator.organizations[1].api_key) as free:
        created = await create(free)
        await snapshot(free, created)
        assert_error(await free.post(f"{branch_path(created)}/snapshot"), 422)


async def test_a_snapshot_is_stored_and_billed_until_it_expires(
    api: httpx.AsyncClient, control: httpx.AsyncClient, emulator: Emulator, postgres: object
) -> None:
    created = await with_note(api)
    now = await advance(control, 0)
    made = await snapshot(api, created, expires_at=(now + timedelta(hours=2)).isoformat())
    now = await advance(control, 5 * 3600)
    asked = {"project_ids": created["project"]["id"], "metrics": "snapshot_storage_bytes_month"}
    billed = (await consumed(api, emulator, now, **asked)).json()
    held = total(billed, "snapshot_storage_bytes_month")
    assert 1.9 * made["full_size"] < held <= 2.001 * made["full_size"]
    assert (await api.get(f"{base(created)}/snapshots")).json()["snapshots"] == []
    await advance(control, DAY_S)


async def test_nobody_enters_a_snapshot_and_a_deleted_project_leaves_none(
    api: httpx.AsyncClient, control: httpx.AsyncClient, superuser: asyncpg.Connection
) -> None:
    before = {row["datname"] for row in await superuser.fetch("SELECT datname FROM pg_database")}
    created = await with_note(api)
    await snapshot(api, created)
    made = [
        row["datname"]
        for row in await superuser.fetch("SELECT datname FROM pg_database")
        if row["datname"] not in before | {created["databases"][0]["name"]}
    ]
    assert len(made) == 1
    uri = uri_of(created).replace(f"/{created['databases'][0]['name']}", f"/{made[0]}")
    with pytest.raises(asyncpg.PostgresError):
        await asyncpg.connect(uri)
    assert not await superuser.fetchval("SELECT datallowconn FROM pg_database WHERE datname = $1", made[0])
    assert (await api.delete(base(created))).status_code == 200
    await advance(control, 8 * DAY_S)
    assert {row["datname"] for row in await superuser.fetch("SELECT datname FROM pg_database")} <= before
