"""What the local Neon API keeps over restarts, and how it starts and ends."""

from __future__ import annotations

import logging
import signal

import anyio
import asyncpg
import httpx
import pytest
from emulating import client_of

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.neon_emulator import Behaviour, Emulator, neon_emulator

AT_ONCE = Behaviour(operation_seconds=0, kept_after_delete_seconds=0)


async def sessions(superuser: asyncpg.Connection) -> int:
    count: int = await superuser.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'neon_emulator'"
    )
    return count


async def wait_for_no_sessions(superuser: asyncpg.Connection) -> None:
    """A closed connection's backend ends a moment later."""
    with anyio.fail_after(30):
        while await sessions(superuser):
            await anyio.sleep(0.01)


async def test_a_restart_finds_everything_again(postgres: EmbeddedPostgres) -> None:
    async with neon_emulator(postgres.uri().reveal(), behaviour=AT_ONCE) as first, client_of(first) as api:
        created = (await api.post("/projects", json={"project": {"name": "lasting"}})).json()
    async with neon_emulator(postgres.uri().reveal(), behaviour=AT_ONCE) as second, client_of(second) as api:
        assert (second.api_key, second.org_id) == (first.api_key, first.org_id)
        assert second.base_url != first.base_url
        path = f"/projects/{created['project']['id']}"
        assert (await api.get(path)).json()["project"] == created["project"]
        assert (await api.get(f"{path}/endpoints")).json()["endpoints"] == created["endpoints"]
        operation = created["operations"][0]["id"]
        assert (await api.get(f"{path}/operations/{operation}")).json()["operation"]["status"] == "finished"
        names = {
            "database_name": created["databases"][0]["name"],
            "role_name": created["roles"][0]["name"],
        }
        uri = (await api.get(f"{path}/connection_uri", params=names)).json()["uri"]
        connection = await asyncpg.connect(uri)
        await connection.close()


async def test_a_key_that_is_given_is_the_key(postgres: EmbeddedPostgres) -> None:
    async with neon_emulator(postgres.uri().reveal(), api_key="napi_given") as emulator, client_of(emulator) as api:
        assert emulator.api_key == "napi_given"
        assert (await api.get("/projects")).status_code == 200


@pytest.mark.parametrize("state", ["creating", "deleted"])
async def test_what_an_earlier_run_left_half_done_is_finished(
    postgres: EmbeddedPostgres, superuser: asyncpg.Connection, state: str
) -> None:
    uri = postgres.uri().reveal()
    async with neon_emulator(uri, behaviour=AT_ONCE) as emulator, client_of(emulator) as api:
        created = (await api.post("/projects", json={"project": {"name": "half-done"}})).json()
    project_id = created["project"]["id"]
    own = await asyncpg.connect(postgres.uri("neon_emulator").reveal())
    await own.execute("UPDATE project SET state = $2 WHERE id = $1", project_id, state)
    if state == "creating":  # killed between CREATE DATABASE and its row
        await own.execute("DELETE FROM database WHERE project_id = $1", project_id)
    await own.close()
    async with neon_emulator(uri, behaviour=AT_ONCE) as emulator, client_of(emulator) as api:
        assert (await api.get(f"/projects/{project_id}")).status_code == 404
    database, role = created["databases"][0]["name"], created["roles"][0]["name"]
    assert not await superuser.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", database)
    assert not await superuser.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role)


async def test_creates_that_the_end_cuts_off_leave_nothing_behind(
    postgres: EmbeddedPostgres, superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentdb_mcp.neon_emulator.serving.GRACE_S", 0)
    uri, statuses = postgres.uri().reveal(), list[int]()
    count = "SELECT (SELECT count(*) FROM pg_database), (SELECT count(*) FROM pg_roles)"
    async with neon_emulator(uri, behaviour=AT_ONCE) as emulator:
        before = await superuser.fetchrow(count)

    async def create(api: httpx.AsyncClient) -> None:
        response = await api.post("/projects", json={"project": {"name": "cut-off"}})
        statuses.append(response.status_code)

    async with (
        client_of(emulator) as api,
        anyio.create_task_group() as group,
        neon_emulator(uri, behaviour=AT_ONCE) as emulator,
    ):
        api.base_url = httpx.URL(emulator.base_url)
        for _ in range(12):
            group.start_soon(create, api)
        with anyio.fail_after(30):
            while await superuser.fetchrow(count) == before:
                await anyio.sleep(0.01)
    assert set(statuses) <= {201, 503}
    assert 503 in statuses
    async with neon_emulator(uri, behaviour=AT_ONCE):  # a commit that was cut off may have landed after its undoing
        after = await superuser.fetchrow(count)
    assert [there - then for there, then in zip(after, before, strict=True)] == [statuses.count(201)] * 2


async def test_the_end_closes_every_connection_and_the_port(
    postgres: EmbeddedPostgres, superuser: asyncpg.Connection
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    async with neon_emulator(postgres.uri().reveal(), behaviour=AT_ONCE) as emulator, client_of(emulator) as api:
        assert (await api.get("/projects")).status_code == 200
        assert await sessions(superuser)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    await wait_for_no_sessions(superuser)
    async with client_of(emulator) as api:
        with pytest.raises(httpx.ConnectError):
            await api.get("/projects")


async def test_cancellation_ends_it_as_cleanly(postgres: EmbeddedPostgres, superuser: asyncpg.Connection) -> None:
    emulators: list[Emulator] = []

    async def run(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with neon_emulator(postgres.uri().reveal(), behaviour=AT_ONCE) as emulator:
            emulators.append(emulator)
            task_status.started()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        await group.start(run)
        async with client_of(emulators[0]) as api:
            assert (await api.get("/projects")).status_code == 200
            group.cancel_scope.cancel()
    await wait_for_no_sessions(superuser)
    async with client_of(emulators[0]) as api:
        with pytest.raises(httpx.ConnectError):
            await api.get("/projects")


async def test_an_error_in_the_block_leaves_it_unwrapped(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with neon_emulator(postgres.uri().reveal(), behaviour=AT_ONCE):
            raise LookupError("mine")


async def test_a_port_in_use_is_an_error_of_its_own(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(OSError, match="in use"):
        async with neon_emulator(postgres.uri().reveal(), port=postgres.port):
            pass


async def test_it_writes_nothing_to_stdout_and_no_secret_to_the_log(
    postgres: EmbeddedPostgres, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with neon_emulator(postgres.uri().reveal(), behaviour=AT_ONCE) as emulator, client_of(emulator) as api:
            created = (await api.post("/projects", json={"project": {}})).json()
    assert capsys.readouterr().out == ""
    for secret in (emulator.api_key, postgres.password.reveal(), created["roles"][0]["password"]):
        assert secret not in caplog.text


async def test_databases_open_to_every_project_are_warned_of(
    postgres: EmbeddedPostgres, superuser: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await superuser.execute("CREATE DATABASE somebodys")
    async with neon_emulator(postgres.uri().reveal(), behaviour=AT_ONCE):
        assert "can connect to somebodys" in caplog.text
    await superuser.execute("DROP DATABASE somebodys")


@pytest.mark.parametrize(
    "uri", ["", "postgresql:///postgres", "http://u:hidden@h/postgres", "postgresql://u:hidden@h:x/d"]
)
async def test_a_uri_that_cannot_serve_is_refused_without_its_password(uri: str) -> None:
    with pytest.raises(ValueError, match="Postgres URI") as refused:
        async with neon_emulator(uri, behaviour=AT_ONCE):
            pass
    assert "hidden" not in str(refused.value)


async def test_a_database_that_a_killed_run_left_closed_opens_again(
    postgres: EmbeddedPostgres, superuser: asyncpg.Connection
) -> None:
    async with neon_emulator(postgres.uri().reveal(), behaviour=AT_ONCE) as first, client_of(first) as api:
        created = (await api.post("/projects", json={"project": {}})).json()
    name = created["databases"][0]["name"]
    await superuser.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    async with neon_emulator(postgres.uri().reveal(), behaviour=AT_ONCE):
        assert await superuser.fetchval("SELECT datallowconn FROM pg_database WHERE datname = $1", name)


async def test_use_that_an_earlier_version_wrote_down_is_kept(postgres: EmbeddedPostgres) -> None:
    async with neon_emulator(postgres.uri().reveal(), behaviour=AT_ONCE) as first, client_of(first) as api:
        project_id = (await api.post("/projects", json={"project": {}})).json()["project"]["id"]
    own = await asyncpg.connect(postgres.uri("neon_emulator").reveal())
    await own.execute("DROP TABLE hourly_usage, monthly_usage, published_usage")
    columns = (
        "compute_seconds float8, active_seconds float8, byte_hours float8, extra_branch_hours float8, sent_bytes int8"
    )
    for table in ("usage", "published_usage"):
        await own.execute(
            f"CREATE TABLE {table} (project_id text, branch_id text, root bool, hour timestamptz, {columns})"
        )
    hour = "date_trunc('month', now())"
    for branch in (f"'b', true, {hour}, 900, 3600, 5, 0, 7", f"'c', false, {hour}, 0, 0, 5, 1, 7"):
        await own.execute(f"INSERT INTO usage VALUES ($1, {branch})", project_id)
    await own.close()
    async with neon_emulator(postgres.uri().reveal(), behaviour=AT_ONCE) as second, client_of(second) as api:
        project = (await api.get(f"/projects/{project_id}")).json()["project"]
        assert project["active_time_seconds"] >= 3600
        assert project["data_transfer_bytes"] == 14
