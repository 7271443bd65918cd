"""Projects of the local Neon API that were deleted can be recovered for a while."""

from __future__ import annotations

import asyncpg
import httpx
import pytest
from emulating import DAY_S, GONE, advance, base, connected, create, uri_of

from agentdb_mcp.embedded import EmbeddedPostgres


async def test_a_deleted_project_is_out_of_reach_until_it_is_recovered(
    api: httpx.AsyncClient, postgres: EmbeddedPostgres
) -> None:
    created = await create(api, name="mistake")
    async with connected(uri_of(created)) as admin:
        await admin.execute("CREATE TABLE note AS SELECT 'kept' AS text")
        await admin.execute("CREATE DATABASE by_sql")
        assert (await api.delete(base(created))).status_code == 200
        with pytest.raises(GONE):
            await admin.fetchval("SELECT 1")
    with pytest.raises(asyncpg.PostgresError):
        await asyncpg.connect(uri_of(created))
    with pytest.raises(asyncpg.PostgresError):
        await asyncpg.connect(uri_of(created).partition("?")[0], host="127.0.0.1", port=postgres.port)
    assert (await api.get(base(created))).status_code == 404
    assert (await api.get("/projects", params={"search": "mistake"})).json()["projects"] == []
    listed = (await api.get("/projects", params={"search": "mistake", "recoverable": "true"})).json()["projects"]
    assert [project["id"] for project in listed] == [created["project"]["id"]]
    recovered = await api.post(f"{base(created)}/recover")
    assert recovered.status_code == 200
    assert recovered.json()["project"]["name"] == "mistake"
    async with connected(uri_of(created)) as admin:
        assert await admin.fetchval("SELECT text FROM note") == "kept"
    assert (await api.post(f"{base(created)}/recover")).status_code == 404


async def test_after_seven_days_it_is_gone_for_good(
    api: httpx.AsyncClient, control: httpx.AsyncClient, postgres: EmbeddedPostgres
) -> None:
    created = await create(api)
    await api.delete(base(created))
    async with connected(postgres.uri().reveal()) as superuser:
        there = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"
        await advance(control, 6.9 * DAY_S)
        assert await superuser.fetchval(there, created["databases"][0]["name"])
        await advance(control, 0.2 * DAY_S)
        assert not await superuser.fetchval(there, created["databases"][0]["name"])
    assert (await api.post(f"{base(created)}/recover")).status_code == 404
