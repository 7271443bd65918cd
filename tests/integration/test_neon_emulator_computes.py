"""Computes of the local Neon API: operations that take time, sleep, waking, quotas and what passes the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import anyio
import asyncpg
import httpx
import pytest

from agentdb_mcp.embedded import EmbeddedPostgres, embedded_postgres
from agentdb_mcp.neon_emulator import Behaviour, Emulator, NewOrganization, neon_emulator

Json = dict[str, Any]
DAY_S = 86_400
GONE = (asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.InterfaceError)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def postgres(anyio_backend: str) -> AsyncIterator[EmbeddedPostgres]:
    async with embedded_postgres() as server:
        yield server


@pytest.fixture(scope="module")
async def emulator(postgres: EmbeddedPostgres) -> AsyncIterator[Emulator]:
    behaviour = Behaviour(organizations=(NewOrganization("Paid"), NewOrganization("Free", "free")))
    async with neon_emulator(postgres.uri().reveal(), control=True, behaviour=behaviour) as running:
        yield running


def client(base_url: str | None, key: str = "none") -> httpx.AsyncClient:
    assert base_url is not None
    return httpx.AsyncClient(base_url=base_url, headers={"Authorization": f"Bearer {key}"}, timeout=60)


@pytest.fixture
async def api(emulator: Emulator) -> AsyncIterator[httpx.AsyncClient]:
    async with client(emulator.base_url, emulator.api_key) as opened:
        yield opened


@pytest.fixture
async def control(emulator: Emulator) -> AsyncIterator[httpx.AsyncClient]:
    async with client(emulator.control_url) as opened:
        yield opened
        assert (await opened.delete("/faults")).status_code == 204
        assert (await opened.put("/rate-limit", json={"requests_per_minute": None})).status_code == 204


@contextlib.asynccontextmanager
async def controlled(behaviour: Behaviour) -> AsyncIterator[tuple[Emulator, httpx.AsyncClient, httpx.AsyncClient]]:
    """An emulator on a cluster of its own: the module's has a clock that other tests move."""
    async with (
        embedded_postgres() as postgres,
        neon_emulator(postgres.uri().reveal(), control=True, behaviour=behaviour) as emulator,
        client(emulator.base_url, emulator.api_key) as api,
        client(emulator.control_url) as control,
    ):
        yield emulator, api, control


@contextlib.asynccontextmanager
async def connected(uri: str, **options: object) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(uri, **options)
    try:
        yield connection
    finally:
        connection.terminate()


async def settled(api: httpx.AsyncClient, project_id: str) -> None:
    """Wait for the project's operations, as clients do."""
    with anyio.fail_after(10):
        while True:
            listed = (await api.get(f"/projects/{project_id}/operations")).json()["operations"]
            if all(operation["status"] == "finished" for operation in listed):
                return
            await anyio.sleep(0.01)


async def create(api: httpx.AsyncClient, **project: object) -> Json:
    response = await api.post("/projects", json={"project": project})
    assert response.status_code == 201, response.text
    body: Json = response.json()
    await settled(api, body["project"]["id"])
    return body


async def done(api: httpx.AsyncClient, method: str, path: str, **options: Any) -> Json:
    response = await api.request(method, path, **options)
    assert response.is_success, response.text
    await settled(api, path.split("/")[2])
    body: Json = response.json()
    return body


def base(created: Json) -> str:
    return f"/projects/{created['project']['id']}"


def endpoint_path(created: Json) -> str:
    return f"{base(created)}/endpoints/{created['endpoints'][0]['id']}"


def branch_path(created: Json) -> str:
    return f"{base(created)}/branches/{created['branch']['id']}"


def uri_of(created: Json) -> str:
    uri: str = created["connection_uris"][0]["connection_uri"]
    return uri


async def state_of(api: httpx.AsyncClient, created: Json) -> str:
    state: str = (await api.get(endpoint_path(created))).json()["endpoint"]["current_state"]
    return state


async def advance(control: httpx.AsyncClient, seconds: float) -> datetime:
    response = await control.post("/clock", json={"advance_seconds": seconds})
    assert response.status_code == 200, response.text
    return datetime.fromisoformat(response.json()["now"])


# --- operations -----------------------------------------------------------------------------------------------------


async def test_operations_run_one_after_another_and_lock_the_project_meanwhile() -> None:
    behaviour = Behaviour(operation_seconds=60)
    async with controlled(behaviour) as (_, api, control):
        created = (await api.post("/projects", json={"project": {}})).json()
        path = base(created)

        async def statuses() -> list[str]:
            listed = (await api.get(f"{path}/operations")).json()["operations"]
            return [operation["status"] for operation in reversed(listed)]

        assert [operation["status"] for operation in created["operations"]] == ["finished", "scheduling"]
        assert created["endpoints"][0]["current_state"] == "init"
        for refused in (
            await api.patch(path, json={"project": {"name": "x"}}),
            await api.delete(path),
            await api.post(f"{endpoint_path(created)}/suspend"),
            await api.post(f"{branch_path(created)}/roles", json={"role": {"name": "x"}}),
        ):
            assert refused.status_code == 423
            assert "conflicting operations" in refused.json()["message"]
        await advance(control, 20)
        assert await statuses() == ["finished", "running"]
        await advance(control, 50)
        assert await statuses() == ["finished", "finished"]
        assert (await api.patch(path, json={"project": {"name": "x"}})).status_code == 200


async def test_the_free_plan_takes_no_suspend_timeout(api: httpx.AsyncClient, emulator: Emulator) -> None:
    free = emulator.organizations[1]
    settings = {"default_endpoint_settings": {"suspend_timeout_seconds": 600}}
    refused = await api.post("/projects", json={"project": {"org_id": free.id, **settings}})
    assert refused.status_code == 412
    created = await create(api, org_id=free.id)
    assert (await api.patch(base(created), json={"project": settings})).status_code == 412
    assert (await api.patch(base(created), json={"project": {"name": "renamed"}})).status_code == 200


# --- sleeping and waking --------------------------------------------------------------------------------------------


async def test_suspending_ends_connections_and_a_new_one_wakes_the_compute(api: httpx.AsyncClient) -> None:
    created = await create(api)
    async with connected(uri_of(created)) as old:
        assert await old.fetchval("SELECT 1") == 1
        logged: list[str] = []
        old.add_termination_listener(lambda _connection: logged.append("ended"))
        body = await done(api, "POST", f"{endpoint_path(created)}/suspend")
        assert [operation["action"] for operation in body["operations"]] == ["suspend_compute"]
        assert await state_of(api, created) == "idle"
        with pytest.raises(GONE):
            await old.fetchval("SELECT 1")
        assert logged == ["ended"]
    async with connected(uri_of(created)) as new:
        assert await new.fetchval("SELECT 1") == 1
    assert await state_of(api, created) == "active"
    assert (await done(api, "POST", f"{endpoint_path(created)}/start"))["operations"] == []
    await done(api, "POST", f"{endpoint_path(created)}/suspend")
    assert len((await done(api, "POST", f"{endpoint_path(created)}/start"))["operations"]) == 1
    assert len((await done(api, "POST", f"{endpoint_path(created)}/restart"))["operations"]) == 2


async def test_a_statement_that_runs_when_the_compute_is_suspended_fails_with_57p01(api: httpx.AsyncClient) -> None:
    created = await create(api)
    async with connected(uri_of(created)) as busy, anyio.create_task_group() as group:

        async def suspend() -> None:
            await anyio.sleep(0.1)
            await done(api, "POST", f"{endpoint_path(created)}/suspend")

        group.start_soon(suspend)
        with pytest.raises(asyncpg.PostgresConnectionError) as ended:
            await busy.execute("SELECT pg_sleep(30)")
    cause = ended.value.__cause__
    assert isinstance(cause, asyncpg.AdminShutdownError)
    assert str(cause) == "terminating connection due to administrator command"


async def test_what_is_idle_falls_asleep_and_what_is_busy_does_not(
    api: httpx.AsyncClient, control: httpx.AsyncClient
) -> None:
    idle, busy = await create(api), await create(api)
    async with connected(uri_of(idle)) as one, connected(uri_of(busy)) as other:
        assert await one.fetchval("SELECT 1") == 1
        await other.execute("BEGIN")
        await advance(control, 301)
        assert await state_of(api, idle) == "idle"
        assert await state_of(api, busy) == "active"
        assert await other.fetchval("SELECT 1") == 1
    change = {"endpoint": {"suspend_timeout_seconds": -1}}
    await done(api, "PATCH", endpoint_path(busy), json=change)
    await advance(control, DAY_S)
    assert await state_of(api, busy) == "active"


async def test_waking_takes_the_cold_start_that_was_chosen() -> None:
    behaviour = Behaviour(operation_seconds=0, cold_start_seconds=60)
    async with controlled(behaviour) as (_, api, control):
        created = await create(api)
        await done(api, "POST", f"{endpoint_path(created)}/suspend")
        async with anyio.create_task_group() as group:
            answers: list[int] = []

            async def ask() -> None:
                async with connected(uri_of(created)) as waking:
                    answers.append(await waking.fetchval("SELECT 1"))

            group.start_soon(ask)
            with anyio.fail_after(10):
                while await state_of(api, created) != "init":
                    await anyio.sleep(0.01)
            assert answers == []
            await advance(control, 60)
        assert answers == [1]


# --- quotas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quota", ["compute_time_seconds", "active_time_seconds", "logical_size_bytes"])
async def test_a_broken_quota_suspends_until_it_is_raised(
    api: httpx.AsyncClient, control: httpx.AsyncClient, quota: str
) -> None:
    created = await create(api)
    async with connected(uri_of(created)) as open_one:
        await open_one.execute("BEGIN")
        await advance(control, 10)
        limit = {"project": {"settings": {"quota": {quota: 1}}}}
        await done(api, "PATCH", base(created), json=limit)
        assert await state_of(api, created) == "idle"
        with pytest.raises(GONE):
            await open_one.fetchval("SELECT 1")
    with pytest.raises(asyncpg.InternalServerError, match="has exceeded the") as refused:
        await asyncpg.connect(uri_of(created))
    assert refused.value.sqlstate == "XX000"
    assert (await api.post(f"{endpoint_path(created)}/start")).status_code == 403
    lifted = {"project": {"settings": {"quota": {quota: 0}}}}
    await done(api, "PATCH", base(created), json=lifted)
    async with connected(uri_of(created)) as again:
        assert await again.fetchval("SELECT 1") == 1


async def test_the_data_that_was_sent_counts_against_its_quota(api: httpx.AsyncClient) -> None:
    created = await create(api)
    async with connected(uri_of(created)) as reader:
        await reader.fetchval("SELECT repeat('x', 1000000)")
    used = (await api.get(base(created))).json()["project"]["data_transfer_bytes"]
    assert 1_000_000 <= used < 1_100_000
    await done(api, "PATCH", base(created), json={"project": {"settings": {"quota": {"data_transfer_bytes": 1000}}}})
    with pytest.raises(asyncpg.InternalServerError, match="data transfer quota"):
        await asyncpg.connect(uri_of(created))


# --- the proxy ------------------------------------------------------------------------------------------------------


async def test_a_cancelled_statement_ends_at_once_and_the_connection_goes_on(api: httpx.AsyncClient) -> None:
    async with connected(uri_of(await create(api))) as connection:
        with anyio.fail_after(10):
            with pytest.raises(TimeoutError):
                await connection.execute("SELECT pg_sleep(60)", timeout=0.1)
            assert await connection.fetchval("SELECT 1") == 1


async def test_a_client_that_vanishes_leaves_no_session_behind(
    api: httpx.AsyncClient, postgres: EmbeddedPostgres
) -> None:
    created = await create(api)
    gone = await asyncpg.connect(uri_of(created))
    gone.terminate()
    async with connected(postgres.uri().reveal()) as superuser:
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1"
        with anyio.fail_after(5):
            while await superuser.fetchval(count, created["databases"][0]["name"]):
                await anyio.sleep(0.01)


async def test_large_results_and_copies_pass_unharmed(api: httpx.AsyncClient) -> None:
    async with connected(uri_of(await create(api))) as connection:
        await connection.execute("CREATE TABLE big (n int, text text)")
        records = [(number, "x" * 1000) for number in range(20_000)]
        await connection.copy_records_to_table("big", records=records)
        rows = await connection.fetch("SELECT n, text FROM big ORDER BY n")
        assert [tuple(row) for row in rows] == records


async def test_the_pooler_refuses_what_it_cannot_keep(api: httpx.AsyncClient) -> None:
    created = await create(api)
    names = {"database_name": created["databases"][0]["name"], "role_name": created["roles"][0]["name"]}
    uri = (await api.get(f"{base(created)}/connection_uri", params={**names, "pooled": "true"})).json()["uri"]
    async with connected(uri, server_settings={"application_name": "fine"}) as pooled:
        assert await pooled.fetchval("SELECT 1") == 1
    with pytest.raises(asyncpg.PostgresError, match="unsupported startup parameter: statement_timeout") as refused:
        await asyncpg.connect(uri, server_settings={"statement_timeout": "5"})
    assert refused.value.sqlstate == "08P01"
    async with connected(uri_of(created), server_settings={"statement_timeout": "5s"}) as direct:
        assert await direct.fetchval("SHOW statement_timeout") == "5s"


async def test_an_endpoint_that_is_not_there_cannot_be_asked_for(api: httpx.AsyncClient) -> None:
    created = await create(api)
    with pytest.raises(asyncpg.InternalServerError, match="could not be found"):
        await asyncpg.connect(uri_of(created) + "?options=endpoint%3Dep-never-was-12345678")


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x08\0\0\0\0", struct.pack("!ii", 2**31 - 1, 0)]
)
async def test_what_is_no_startup_packet_ends_its_own_connection_only(api: httpx.AsyncClient, sent: bytes) -> None:
    created = await create(api)
    port = urlsplit(uri_of(created)).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    writer.write_eof()
    with anyio.fail_after(5), contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()
    async with connected(uri_of(created)) as fine:
        assert await fine.fetchval("SELECT 1") == 1


async def test_without_the_proxy_uris_lead_to_the_cluster_itself() -> None:
    async with embedded_postgres() as postgres:
        running = neon_emulator(postgres.uri().reveal(), proxy=False)
        async with running as direct, client(direct.base_url, direct.api_key) as api:
            created = await create(api)
            assert urlsplit(uri_of(created)).port == postgres.port
            async with connected(uri_of(created)) as connection:
                assert await connection.fetchval("SELECT 1") == 1


async def test_no_connection_outlives_the_emulator() -> None:
    async with controlled(Behaviour()) as (_, api, _):
        created = await create(api)
        left = await asyncpg.connect(uri_of(created))
        waiting = socket.create_connection(("127.0.0.1", urlsplit(uri_of(created)).port))
    with pytest.raises((*GONE, OSError)):
        await left.fetchval("SELECT 1")
    waiting.close()


# --- deleting and recovering ----------------------------------------------------------------------------------------


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
        await asyncpg.connect(uri_of(created), port=postgres.port)
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


# --- faults ---------------------------------------------------------------------------------------------------------


async def fault(control: httpx.AsyncClient, **fields: object) -> int:
    response = await control.post("/faults", json=fields)
    assert response.status_code == 201, response.text
    identifier: int = response.json()["id"]
    return identifier


async def names(api: httpx.AsyncClient, search: str) -> list[str]:
    listed = (await api.get("/projects", params={"search": search})).json()["projects"]
    return [project["name"] for project in listed]


async def test_a_fault_answers_instead_of_the_call_as_often_as_it_was_asked_to(
    api: httpx.AsyncClient, control: httpx.AsyncClient
) -> None:
    await fault(control, method="GET", path="/projects", status=503, times=2, headers={"Retry-After": "7"})
    answers = [await api.get("/projects") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].headers["Retry-After"] == "7"
    assert answers[0].json().keys() == {"request_id", "code", "message"}
    assert (await control.get("/faults")).json()["faults"][0]["hits"] == 2


@pytest.mark.parametrize("effect", [False, True])
async def test_an_answer_that_is_dropped_leaves_open_whether_it_happened(
    api: httpx.AsyncClient, control: httpx.AsyncClient, effect: bool
) -> None:
    name = f"dropped-{effect}"
    await fault(control, method="POST", path="/projects", drop=True, effect=effect, times=1)
    with pytest.raises(httpx.TransportError):
        await api.post("/projects", json={"project": {"name": name}})
    assert await names(api, name) == [name] * effect


async def test_a_fault_may_strike_after_the_effect_late_and_by_chance(
    api: httpx.AsyncClient, control: httpx.AsyncClient
) -> None:
    await fault(control, path="/projects", method="POST", status=500, effect=True, delay_after=0.01, times=1)
    assert (await api.post("/projects", json={"project": {"name": "five-hundred"}})).status_code == 500
    assert await names(api, "five-hundred") == ["five-hundred"]
    rolls = []
    for _ in range(2):
        identifier = await fault(control, path="/users/*", status=502, probability=0.5, seed=7)
        rolls.append([(await api.get("/users/me")).status_code for _ in range(20)])
        await control.delete(f"/faults/{identifier}")
    assert rolls[0] == rolls[1]
    assert set(rolls[0]) == {200, 502}
    assert (await control.post("/faults", json={"status": "x"})).status_code == 400


async def test_too_many_requests_are_told_when_to_come_again(
    api: httpx.AsyncClient, control: httpx.AsyncClient
) -> None:
    await control.put("/rate-limit", json={"requests_per_minute": 3})
    answers = [await api.get("/users/me") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    await advance(control, float(answers[3].headers["Retry-After"]))
    assert (await api.get("/users/me")).status_code == 200


# --- consumption ----------------------------------------------------------------------------------------------------

METRICS = "compute_unit_seconds,root_branch_bytes_month,child_branch_bytes_month,public_network_transfer_bytes"


async def consumed(api: httpx.AsyncClient, emulator: Emulator, now: datetime, **query: Any) -> httpx.Response:
    asked = {
        "from": (now - timedelta(hours=30)).isoformat(),
        "to": (now + timedelta(hours=1)).isoformat(),
        "granularity": "hourly",
        "org_id": emulator.org_id,
        "metrics": METRICS,
        "limit": 100,
        **query,
    }
    return await api.get("/consumption_history/v2/projects", params=asked)


def total(body: Json, metric: str) -> int:
    return sum(
        measured["value"]
        for project in body["projects"]
        for period in project["periods"]
        for frame in period["consumption"]
        for measured in frame["metrics"]
        if measured["metric_name"] == metric
    )


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


# --- branches, roles, organizations ---------------------------------------------------------------------------------


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
