"""Deleting a project of the local Neon API takes all of it, and nothing of its neighbours."""

from __future__ import annotations

from urllib.parse import urlsplit

import anyio
import asyncpg
import httpx
import pytest
from emulating import assert_error, connected, create, role_path, uri_of

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.neon_emulator import Behaviour


@pytest.fixture(scope="module")
def behaviour() -> Behaviour:
    return Behaviour(operation_seconds=0, kept_after_delete_seconds=0)


async def test_a_deleted_project_is_gone_from_the_api_and_from_the_cluster(
    api: httpx.AsyncClient, superuser: asyncpg.Connection
) -> None:
    created = await create(api, "doomed")
    project_id, database = created["project"]["id"], created["databases"][0]["name"]
    role = created["roles"][0]["name"]
    async with connected(uri_of(created)) as busy:
        response = await api.delete(f"/projects/{project_id}")
        assert response.status_code == 200
        assert response.json()["project"]["id"] == project_id
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.InterfaceError)):
            await busy.fetchval("SELECT 1")
    assert not await superuser.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", database)
    assert not await superuser.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role)
    assert_error(await api.get(f"/projects/{project_id}"), 404)
    assert_error(await api.delete(f"/projects/{project_id}"), 404)
    assert_error(await api.get(f"/projects/{project_id}/branches"), 404)
    assert_error(await api.patch(f"/projects/{project_id}", json={"project": {"name": "x"}}), 404)
    assert_error(await api.post(f"{role_path(created)}/reset_password"), 404)
    assert (await api.get("/projects", params={"search": "doomed"})).json()["projects"] == []


async def test_deleting_takes_what_the_admin_made_by_sql(
    api: httpx.AsyncClient, superuser: asyncpg.Connection, postgres: EmbeddedPostgres
) -> None:
    if postgres.version < 16:
        pytest.skip("Postgres 15 does not know who made a role")
    created, neighbour = await create(api), await create(api)
    async with connected(uri_of(created)) as admin:
        await admin.execute("CREATE ROLE child CREATEROLE CREATEDB LOGIN PASSWORD 'a-long-enough-password'")
        await admin.execute("CREATE ROLE cousin")
        await admin.execute("GRANT cousin TO child; GRANT child TO CURRENT_USER")
        await admin.execute("GRANT CREATE ON SCHEMA public TO child")
        await admin.execute("CREATE TABLE kept (id int); ALTER TABLE kept OWNER TO child")
        await admin.execute("CREATE DATABASE second_home")
        await admin.execute("ALTER DATABASE second_home IS_TEMPLATE true")
    login = f"child:a-long-enough-password@127.0.0.1:{postgres.port}"
    child = urlsplit(uri_of(created))._replace(netloc=login, query="")
    async with connected(child.geturl(), database="second_home") as grandparent:
        await grandparent.execute("CREATE ROLE grandchild")
    async with connected(uri_of(neighbour)) as admin:
        # What a neighbour gives away stays the neighbour's, and does not stand in the way.
        me, mine = created["roles"][0]["name"], neighbour["databases"][0]["name"]
        await admin.execute("CREATE ROLE lent")
        await admin.execute(f"GRANT lent TO {me} WITH ADMIN OPTION")
        await admin.execute(f"GRANT CONNECT ON DATABASE {mine} TO {me}")
    assert (await api.delete(f"/projects/{created['project']['id']}")).status_code == 200
    gone = ["child", "cousin", "grandchild", created["roles"][0]["name"]]
    assert await superuser.fetch("SELECT rolname FROM pg_roles WHERE rolname = ANY($1)", gone) == []
    assert await superuser.fetch("SELECT datname FROM pg_database WHERE datname = 'second_home'") == []
    assert await superuser.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = 'lent'") == 1
    async with connected(uri_of(neighbour)) as admin:
        assert await admin.fetchval("SELECT 1") == 1


async def test_deleting_follows_a_database_that_was_renamed_and_spares_its_old_name(
    api: httpx.AsyncClient, superuser: asyncpg.Connection
) -> None:
    created = await create(api, branch={"role_name": "mover", "database_name": "old_name"})
    async with connected(uri_of(created)) as admin:
        await admin.execute("CREATE DATABASE standby")
    async with connected(uri_of(created), database="standby") as admin:
        await admin.execute("ALTER DATABASE old_name RENAME TO new_name")
    other = await create(api, branch={"database_name": "old_name"})
    assert other["databases"][0]["name"] == "old_name"
    await api.delete(f"/projects/{created['project']['id']}")
    left = await superuser.fetch("SELECT datname FROM pg_database WHERE datname IN ('old_name', 'new_name', 'standby')")
    assert [record["datname"] for record in left] == ["old_name"]
    async with connected(uri_of(other)) as admin:
        assert await admin.fetchval("SELECT 1") == 1


async def test_deleting_twice_at_once_is_harmless(api: httpx.AsyncClient) -> None:
    path = f"/projects/{(await create(api))['project']['id']}"
    statuses: list[int] = []

    async def delete() -> None:
        statuses.append((await api.delete(path)).status_code)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(delete)
    assert 200 in statuses
    assert set(statuses) <= {200, 404}
    assert_error(await api.get(path), 404)
