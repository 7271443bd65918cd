"""The local Neon API over real HTTP, on a real Postgres."""

from __future__ import annotations

import contextlib
import re
from datetime import datetime

import anyio
import asyncpg
import httpx
import pytest
from emulating import Json, assert_error, connected, create, role_path, uri_of

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.neon_emulator import Behaviour, Emulator

ID = re.compile(r"^[a-z0-9-]{1,60}$")


@pytest.fixture(scope="module")
def behaviour() -> Behaviour:
    return Behaviour(operation_seconds=0)


async def test_a_new_project_is_a_database_that_its_uri_opens(api: httpx.AsyncClient) -> None:
    created = await create(api, "agent-one")
    async with connected(uri_of(created)) as admin:
        assert await admin.fetchval("SELECT current_user") == created["roles"][0]["name"]
        assert await admin.fetchval("SELECT current_database()") == created["databases"][0]["name"]
        await admin.execute("CREATE TABLE note (text text)")
        await admin.execute("INSERT INTO note VALUES ('kept')")
    parameters = created["connection_uris"][0]["connection_parameters"]
    options = {"host": parameters["host"], "port": parameters["port"], "database": parameters["database"]}
    async with connected("postgresql://", user=parameters["role"], password=parameters["password"], **options) as again:
        assert await again.fetchval("SELECT text FROM note") == "kept"


async def test_the_answer_has_neons_parts_and_identifiers(api: httpx.AsyncClient, emulator: Emulator) -> None:
    created = await create(api, "agent-parts")
    project, branch, endpoint = created["project"], created["branch"], created["endpoints"][0]
    assert re.fullmatch(r"[a-z]+-[a-z]+-\d{8}", project["id"])
    assert branch["id"].startswith("br-")
    assert endpoint["id"].startswith("ep-")
    assert all(ID.match(value) for value in (project["id"], branch["id"], endpoint["id"], project["org_id"]))
    assert project["org_id"] == emulator.org_id
    assert datetime.fromisoformat(project["created_at"]).utcoffset() is not None
    assert project["created_at"].endswith("Z")
    assert endpoint["id"] in endpoint["host"]
    assert created["roles"][0]["password"] == created["connection_uris"][0]["connection_parameters"]["password"]
    assert [operation["action"] for operation in created["operations"]] == ["create_timeline", "start_compute"]


async def test_operations_are_finished_once_they_are_asked_for(api: httpx.AsyncClient) -> None:
    created = await create(api)
    path = f"/projects/{created['project']['id']}/operations"
    for operation in created["operations"]:
        found = (await api.get(f"{path}/{operation['id']}")).json()["operation"]
        assert found["status"] == "finished"
        assert found["id"] == operation["id"]
    first = (await api.get(path, params={"limit": 1})).json()
    second = (await api.get(path, params={"limit": 1, "cursor": first["pagination"]["cursor"]})).json()
    listed = {operation["id"] for operation in first["operations"] + second["operations"]}
    assert listed == {operation["id"] for operation in created["operations"]}


async def test_settings_are_kept_and_defaults_fill_the_rest(api: httpx.AsyncClient) -> None:
    created = await create(
        api,
        "agent-settings",
        region_id="aws-eu-central-1",
        branch={"name": "trunk", "role_name": "keeper", "database_name": "treasure"},
        default_endpoint_settings={"autoscaling_limit_max_cu": 1, "suspend_timeout_seconds": 60},
        settings={"quota": {"active_time_seconds": 3600}},
    )
    assert created["project"]["region_id"] == "aws-eu-central-1"
    assert created["project"]["settings"] == {"quota": {"active_time_seconds": 3600}}
    assert created["branch"]["name"] == "trunk"
    assert (created["roles"][0]["name"], created["databases"][0]["name"]) == ("keeper", "treasure")
    assert created["databases"][0]["owner_name"] == "keeper"
    assert created["endpoints"][0]["autoscaling_limit_min_cu"] == 0.25
    assert created["endpoints"][0]["suspend_timeout_seconds"] == 60


async def test_names_of_projects_need_not_be_unique_and_taken_roles_get_another_name(api: httpx.AsyncClient) -> None:
    branch = {"role_name": "twin " * 12 + "end", "database_name": 'twin"; --'}
    one, two = await create(api, "twin", branch=branch), await create(api, "twin", branch=branch)
    assert one["project"]["id"] != two["project"]["id"]
    assert one["roles"][0]["name"] == branch["role_name"] != two["roles"][0]["name"]
    assert one["databases"][0]["name"] == branch["database_name"] != two["databases"][0]["name"]
    for created in (one, two):
        async with connected(uri_of(created)) as admin:
            assert await admin.fetchval("SELECT current_database()") == created["databases"][0]["name"]


async def test_twenty_creates_at_once_give_twenty_databases(api: httpx.AsyncClient) -> None:
    made: list[Json] = []

    async def one(number: int) -> None:
        made.append(await create(api, f"crowd-{number}"))

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(one, number)
    assert len({created["databases"][0]["name"] for created in made}) == 20
    for created in made:
        async with connected(uri_of(created)) as admin:
            assert await admin.fetchval("SELECT current_database()") == created["databases"][0]["name"]


# --- roles and walls ------------------------------------------------------------------------------------------------


async def test_the_admin_is_the_role_that_neon_makes_without_replication(api: httpx.AsyncClient) -> None:
    async with connected(uri_of(await create(api))) as admin:
        role = await admin.fetchrow("SELECT * FROM pg_roles WHERE rolname = current_user")
        expected = {"rolcanlogin", "rolinherit", "rolcreaterole", "rolcreatedb", "rolbypassrls"}
        flags = {"rolsuper", "rolreplication", *expected}
        assert {flag for flag in flags if role[flag]} == expected
        for group in ("neon_superuser", "pg_read_all_data", "pg_write_all_data", "pg_monitor", "pg_signal_backend"):
            assert await admin.fetchval("SELECT pg_has_role($1, 'USAGE')", group), group
        assert not await admin.fetchval("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'neon_superuser'")


async def test_the_admin_makes_roles_databases_and_extensions(api: httpx.AsyncClient) -> None:
    created = await create(api)
    async with connected(uri_of(created)) as admin:
        await admin.execute("CREATE ROLE made_by_sql LOGIN PASSWORD 'a-long-enough-password'")
        await admin.execute("CREATE EXTENSION pg_trgm")
        await admin.execute("CREATE DATABASE made_by_sql")
        await admin.execute("DROP DATABASE made_by_sql")
        await admin.execute("DROP ROLE made_by_sql")
        assert await admin.fetchval("SELECT count(*) >= 0 FROM pg_stat_statements")


async def test_no_project_reaches_the_database_of_another_or_the_shared_ones(api: httpx.AsyncClient) -> None:
    mine, other = await create(api, "mine"), await create(api, "other")
    for database in (other["databases"][0]["name"], "postgres", "template1", "neon_emulator"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(uri_of(mine), database=database)


async def test_an_admins_powers_do_not_open_another_project(api: httpx.AsyncClient, postgres: EmbeddedPostgres) -> None:
    if postgres.version < 16:
        pytest.skip("CREATEROLE is power over all roles up to Postgres 15")
    mine, other = await create(api), await create(api)
    role, database = other["roles"][0]["name"], other["databases"][0]["name"]
    me = mine["roles"][0]["name"]
    attempts = [
        f"CREATE DATABASE stolen TEMPLATE {database}",
        f"ALTER DATABASE {database} OWNER TO {me}",
        f"ALTER ROLE {role} PASSWORD 'mine-now'",
        f"GRANT {role} TO {me}",
        f"GRANT {me} TO {role}",
        f"SET ROLE {role}",
        "SET ROLE neon_superuser",
        "GRANT neon_superuser TO CURRENT_USER WITH ADMIN OPTION",
        "GRANT pg_execute_server_program TO CURRENT_USER",
        f"DROP DATABASE {database}",
        f"DROP ROLE {role}",
        "ALTER ROLE CURRENT_USER REPLICATION",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ]
    async with connected(uri_of(mine)) as admin:
        for attempt in attempts:
            with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.InvalidGrantOperationError)):
                await admin.execute(attempt)
        # Granting what one does not own is a warning without effect.
        with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
            await admin.execute(f"GRANT CONNECT ON DATABASE {database} TO {me}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(uri_of(mine), database=database)


async def test_passwords_appear_in_no_statement_that_another_project_can_see(api: httpx.AsyncClient) -> None:
    watcher, watched = await create(api), await create(api)
    password = (await api.post(f"{role_path(watched)}/reset_password")).json()["role"]["password"]
    async with connected(uri_of(watcher)) as admin:
        texts = await admin.fetchval("SELECT string_agg(query, ' ') FROM pg_stat_statements")
        texts += await admin.fetchval("SELECT string_agg(query, ' ') FROM pg_stat_activity")
    assert "npg_" not in texts
    assert password not in texts
    assert "SCRAM" not in texts


# --- reading --------------------------------------------------------------------------------------------------------


async def test_everything_made_can_be_read_again(api: httpx.AsyncClient) -> None:
    created = await create(api, "agent-read")
    project_id, branch_id = created["project"]["id"], created["branch"]["id"]
    base = f"/projects/{project_id}"
    without_password = {key: value for key, value in created["roles"][0].items() if key != "password"}
    assert (await api.get(base)).json()["project"]["name"] == "agent-read"
    assert (await api.get(f"{base}/branches")).json()["branches"] == [created["branch"]]
    assert (await api.get(f"{base}/branches/{branch_id}")).json()["branch"] == created["branch"]
    assert (await api.get(f"{base}/branches/{branch_id}/roles")).json()["roles"] == [without_password]
    assert (await api.get(role_path(created))).json()["role"] == without_password
    assert (await api.get(f"{base}/branches/{branch_id}/databases")).json()["databases"] == created["databases"]
    assert (await api.get(f"{base}/endpoints")).json()["endpoints"] == created["endpoints"]
    endpoint_id = created["endpoints"][0]["id"]
    assert (await api.get(f"{base}/endpoints/{endpoint_id}")).json()["endpoint"] == created["endpoints"][0]
    assert (await api.get(f"{base}/branches/{branch_id}/endpoints")).json()["endpoints"] == created["endpoints"]


async def test_the_account_its_organization_and_no_shared_projects_are_there(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    assert (await api.get("/users/me")).json()["id"]
    organizations = (await api.get("/users/me/organizations")).json()["organizations"]
    assert [organization["id"] for organization in organizations] == [emulator.org_id]
    assert (await api.get("/projects/shared")).json()["projects"] == []


async def test_the_connection_uri_and_the_password_can_be_asked_for(api: httpx.AsyncClient) -> None:
    created = await create(api)
    path = f"/projects/{created['project']['id']}/connection_uri"
    names = {"database_name": created["databases"][0]["name"], "role_name": created["roles"][0]["name"]}
    answer = await api.get(path, params={**names, "pooled": "False"})  # casing as Python's clients send it
    assert answer.json() == {"uri": uri_of(created)}
    pooled = (await api.get(path, params={**names, "pooled": "true"})).json()["uri"]
    assert f"{created['endpoints'][0]['id']}-pooler" in pooled
    async with connected(pooled) as admin:
        assert await admin.fetchval("SELECT current_database()") == names["database_name"]
    revealed = await api.get(f"{role_path(created)}/reveal_password")
    assert revealed.json() == {"password": created["roles"][0]["password"]}
    assert_error(await api.get(path, params={**names, "database_name": "postgres"}), 404)
    assert_error(await api.get(path, params={**names, "role_name": "postgres"}), 404)
    assert_error(await api.get(path, params={**names, "branch_id": "br-other"}), 404)
    assert_error(await api.get(path, params={"role_name": names["role_name"]}), 400)
    assert_error(await api.get(path, params={**names, "pooled": "maybe"}), 400)


async def test_a_reset_password_replaces_the_old_one_and_drops_connections(api: httpx.AsyncClient) -> None:
    created = await create(api)
    async with connected(uri_of(created)) as admin:
        response = await api.post(f"{role_path(created)}/reset_password")
        assert response.status_code == 200
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.InterfaceError)):
            await admin.fetchval("SELECT 1")
    password = response.json()["role"]["password"]
    assert password != created["roles"][0]["password"]
    assert [operation["action"] for operation in response.json()["operations"]] == ["apply_config"]
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(uri_of(created))
    async with connected(uri_of(created), password=password) as admin:
        assert await admin.fetchval("SELECT 1") == 1
    assert (await api.get(f"{role_path(created)}/reveal_password")).json() == {"password": password}


async def test_a_change_merges_and_leaves_the_rest(api: httpx.AsyncClient) -> None:
    created = await create(api, "before", settings={"quota": {"active_time_seconds": 1, "logical_size_bytes": 7}})
    path = f"/projects/{created['project']['id']}"
    change = {"name": "after", "settings": {"quota": {"active_time_seconds": 0}}}
    response = await api.patch(path, json={"project": change})
    assert response.status_code == 200
    assert response.json()["operations"] == []
    project = (await api.get(path)).json()["project"]
    assert project == response.json()["project"]
    assert project["name"] == "after"
    assert project["settings"] == {"quota": {"active_time_seconds": 0, "logical_size_bytes": 7}}
    project = (await api.patch(path, json={"project": {}})).json()["project"]
    assert project["name"] == "after"


# --- listing --------------------------------------------------------------------------------------------------------


async def listed(api: httpx.AsyncClient, **parameters: object) -> list[Json]:
    """All pages, as a client reads them: until an empty one."""
    found: list[Json] = []
    while True:
        body = (await api.get("/projects", params=parameters)).json()  # type: ignore[arg-type]
        if not body["projects"]:
            assert "pagination" not in body
            return found
        found += body["projects"]
        parameters["cursor"] = body["pagination"]["cursor"]


async def test_pages_hold_every_project_once_in_the_order_of_making(api: httpx.AsyncClient) -> None:
    made = [(await create(api, f"paged-{number}"))["project"]["id"] for number in range(5)]
    for limit in (1, 2, 5, 400):
        found = [project["id"] for project in await listed(api, search="paged-", limit=limit)]
        assert found == made
    assert len((await api.get("/projects")).json()["projects"]) <= 10


async def test_a_cursor_survives_the_deletion_of_its_project(api: httpx.AsyncClient) -> None:
    made = [(await create(api, f"moving-{number}"))["project"]["id"] for number in range(3)]
    first = (await api.get("/projects", params={"search": "moving-", "limit": 1})).json()
    await api.delete(f"/projects/{made[0]}")
    rest = await listed(api, search="moving-", cursor=first["pagination"]["cursor"])
    assert [project["id"] for project in rest] == made[1:]


async def test_search_finds_parts_of_names_and_identifiers(api: httpx.AsyncClient, emulator: Emulator) -> None:
    created = await create(api, "agent-W%_5 needle")
    project_id = created["project"]["id"]
    for search in ("needle", "W%_5", "agent-w", project_id, project_id[3:]):
        assert [project["id"] for project in await listed(api, search=search)] == [project_id], search
    assert await listed(api, search="n%dle") == []
    assert await listed(api, search="needle", org_id=emulator.org_id)
    assert "compute_time_seconds" not in (await listed(api, search="needle"))[0]
