"""Projects on a cluster whose admin is no superuser, and what a crash leaves on any of them."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import anyio
import asyncpg
import pytest

from agentdb_mcp.embedded import EmbeddedPostgres, embedded_postgres
from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.execution import layout
from agentdb_mcp.models import Project, ProjectAccess, Secret
from agentdb_mcp.providers.postgres import PostgresProvider, copies, projects, setup
from agentdb_mcp.providers.postgres.cluster import Cluster

ADMIN_PASSWORD = secrets.token_urlsafe(16)


@pytest.fixture(scope="module")
async def own_cluster(anyio_backend: str) -> AsyncIterator[EmbeddedPostgres]:
    async with embedded_postgres() as server:
        yield server


@pytest.fixture(scope="module")
async def weak_admin(own_cluster: EmbeddedPostgres) -> Secret:
    """What a managed Postgres gives at most."""
    connection = await asyncpg.connect(own_cluster.uri().reveal())
    await connection.execute(f"CREATE ROLE weak LOGIN CREATEDB CREATEROLE PASSWORD '{ADMIN_PASSWORD}'")
    await connection.close()
    return Secret(f"postgresql://weak:{ADMIN_PASSWORD}@127.0.0.1:{own_cluster.port}/postgres")


@pytest.fixture(params=["superuser", "no superuser"])
def admin_uri(request: pytest.FixtureRequest, postgres: EmbeddedPostgres, weak_admin: Secret) -> Secret:
    return postgres.uri() if request.param == "superuser" else weak_admin


@pytest.fixture
def provider(admin_uri: Secret) -> PostgresProvider:
    return PostgresProvider(admin_uri)


@pytest.fixture
async def admin(admin_uri: Secret) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(admin_uri.reveal())
    yield connection
    await connection.close()


@pytest.fixture
def name() -> str:
    return f"agent-{secrets.token_hex(8)}"


async def everything(admin: asyncpg.Connection) -> tuple[set[str], set[str]]:
    """The databases and roles of projects."""
    databases = await admin.fetch("SELECT datname FROM pg_database WHERE datname ~ '^[do]_'")
    roles = await admin.fetch("SELECT rolname FROM pg_roles WHERE rolname ~ '^[oa]_'")
    return {row[0] for row in databases}, {row[0] for row in roles}


async def ask(access: ProjectAccess, sql: str) -> object:
    connection = await asyncpg.connect(access.uri.reveal())
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


class Crash(Exception):
    pass


def crash(monkeypatch: pytest.MonkeyPatch, step: str, when: str, module: object = projects) -> None:
    """Right before or right after the step, as when the process is killed there: the connection ends."""
    work = getattr(module, step)

    async def deadly(*arguments: object) -> None:
        if when == "after":
            await work(*arguments)
        raise Crash

    monkeypatch.setattr(module, step, deadly)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["make_role", "make_database", "open_database", "mark_ready"])
async def test_a_create_that_was_killed_is_found_by_its_name_and_completed(
    provider: PostgresProvider, name: str, step: str, when: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        crash(patch, step, when)
        with pytest.raises(Crash):
            await provider.create(name)
    (found,) = await provider.find(name)
    access = await provider.access(found)
    assert await ask(access, "SELECT current_database()") == access.database_name
    assert (await provider.create(name)).id == found.id


@pytest.mark.parametrize("step", ["make_role", "make_database", "open_database"])
async def test_a_create_that_was_killed_can_be_deleted_without_a_trace(
    provider: PostgresProvider, admin: asyncpg.Connection, name: str, step: str
) -> None:
    await provider.check()
    before = await everything(admin)
    with pytest.MonkeyPatch.context() as patch:
        crash(patch, step, "after")
        with pytest.raises(Crash):
            await provider.create(name)
    (left,) = await provider.projects(name)
    await provider.delete(left.id)
    assert await everything(admin) == before


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["end_connections", "_drop_roles"])
async def test_a_delete_that_was_killed_is_finished_by_whoever_looks_for_the_name(
    provider: PostgresProvider, admin: asyncpg.Connection, name: str, step: str, when: str
) -> None:
    before = await everything(admin)
    created = await provider.create(name)
    with pytest.MonkeyPatch.context() as patch:
        crash(patch, step, when)
        with pytest.raises(Crash):
            await provider.delete(created.id)
    assert await provider.get(created.id) is None
    assert await provider.find(name) == []
    assert await everything(admin) == before
    assert (await provider.create(name)).id != created.id


async def test_a_delete_that_an_outage_cut_off_while_it_dropped_is_finished(
    provider: PostgresProvider,
    admin: asyncpg.Connection,
    admin_uri: Secret,
    postgres: EmbeddedPostgres,
    own_cluster: EmbeddedPostgres,
    name: str,
) -> None:
    """Postgres calls such a database invalid, and ends whoever alters it."""
    before = await everything(admin)
    created = await provider.create(name)
    access = await provider.access(created)
    server = postgres if admin_uri.reveal() == postgres.uri().reveal() else own_cluster
    superuser = await asyncpg.connect(server.uri().reveal())
    invalid = "UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1"
    assert await superuser.execute(invalid, access.database_name) == "UPDATE 1"
    await superuser.close()
    await provider.delete(created.id)
    assert await everything(admin) == before


async def test_twelve_that_create_one_name_at_once_get_one_project(admin_uri: Secret, name: str) -> None:
    made: list[Project] = []

    async def create() -> None:
        made.append(await PostgresProvider(admin_uri).create(name))

    async with anyio.create_task_group() as group:
        for _ in range(12):
            group.start_soon(create)
    assert len({project.id for project in made}) == 1


async def test_a_caller_that_gives_up_while_creating_leaves_what_can_be_completed(
    provider: PostgresProvider, name: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        async with anyio.create_task_group() as group:

            async def reached(*_: object) -> None:
                group.cancel_scope.cancel()
                await anyio.sleep_forever()

            patch.setattr(projects, "make_database", reached)
            group.start_soon(provider.create, name)
    with anyio.fail_after(30):
        assert await ask(await provider.access(await provider.create(name)), "SELECT 1") == 1


async def test_roles_and_databases_that_the_owner_made_go_with_the_project(
    provider: PostgresProvider, admin: asyncpg.Connection, name: str
) -> None:
    before = await everything(admin)
    created = await provider.create(name)
    access = await provider.access(created)
    await layout.install(access.uri, layout.new_role_name(), connection_limit=3)
    await ask(access, f"CREATE DATABASE d_{secrets.token_hex(8)}")
    assert len((await everything(admin))[1]) == len(before[1]) + 2
    await provider.delete(created.id)
    assert await everything(admin) == before


async def test_public_has_nothing_in_a_project_or_in_the_registry(
    provider: PostgresProvider, admin: asyncpg.Connection, name: str
) -> None:
    access = await provider.access(await provider.create(name))
    granted = await admin.fetchval(
        "SELECT count(*) FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba)))"
        " WHERE grantee = 0 AND datname = ANY ($1::text[])",
        [access.database_name, setup.REGISTRY],
    )
    assert granted == 0


async def test_an_owner_reads_no_registry(provider: PostgresProvider, name: str) -> None:
    access = await provider.access(await provider.create(name))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(access.uri.reveal().replace(f"/{access.database_name}", f"/{setup.REGISTRY}"))


@pytest.mark.parametrize("catalog", ["pg_database", "pg_roles", "pg_stat_activity", "pg_auth_members"])
async def test_an_agent_does_not_see_its_neighbours_where_a_superuser_made_its_database(
    postgres: EmbeddedPostgres, superuser: asyncpg.Connection, name: str, catalog: str
) -> None:
    provider = PostgresProvider(postgres.uri())
    access = await provider.access(await provider.create(name))
    role = layout.new_role_name()
    await layout.install(access.uri, role, connection_limit=3)
    connection = await asyncpg.connect(postgres.uri(access.database_name).reveal())
    try:
        await connection.execute(f"SET SESSION AUTHORIZATION {role}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch(f"SELECT * FROM pg_catalog.{catalog}")
        assert await connection.fetchval("SELECT count(*) FROM pg_catalog.pg_class") > 0
    finally:
        await connection.close()


async def test_a_checkpoint_is_kept_and_restored_by_an_admin_of_either_kind(
    provider: PostgresProvider, admin: asyncpg.Connection, name: str
) -> None:
    before = await everything(admin)
    created = await provider.create(name)
    access, role = await provider.access(created), layout.new_role_name()
    await layout.install(access.uri, role, connection_limit=3)
    await ask(access, "CREATE TABLE note AS SELECT 'before'::text AS text")
    until = datetime.now(UTC) + timedelta(days=1)
    made = await provider.checkpoint(created.id, "c", until)
    await ask(access, "UPDATE note SET text = 'after'")
    await provider.restore(created.id, made.id)
    assert await ask(access, "SELECT text FROM note") == "before"
    assert await ask(access, f"SELECT has_database_privilege('{role}', current_database(), 'CONNECT')")
    await provider.pause(created.id)
    await provider.restore(created.id, made.id)
    with pytest.raises(asyncpg.PostgresError):
        await ask(access, "SELECT 1")
    await provider.delete(created.id)
    assert await everything(admin) == before


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["_begin", "_grant_as", "tidy"])
async def test_what_a_killed_restore_left_is_gone_after_tidying(
    provider: PostgresProvider, admin: asyncpg.Connection, name: str, step: str, when: str
) -> None:
    created = await provider.create(name)
    access = await provider.access(created)
    await ask(access, "CREATE TABLE note ()")
    made = await provider.checkpoint(created.id, "c", datetime.now(UTC) + timedelta(days=1))
    whole = await everything(admin)
    with pytest.MonkeyPatch.context() as patch:
        crash(patch, step, when, copies)
        with pytest.raises(Crash):
            await provider.restore(created.id, made.id)
    assert await ask(access, "SELECT to_regclass('note')") is not None
    await provider.tidy(created.id)
    assert await everything(admin) == whole
    assert await provider.checkpoints(created.id) == [made]


async def test_an_expired_checkpoint_is_not_listed_and_tidying_drops_it(
    provider: PostgresProvider, admin: asyncpg.Connection, name: str
) -> None:
    created = await provider.create(name)
    whole = await everything(admin)
    made = await provider.checkpoint(created.id, "c", datetime.now(UTC) + timedelta(days=1))
    assert await everything(admin) != whole
    async with Cluster(provider._cluster.admin_uri).connection(setup.REGISTRY) as registry:
        await registry.execute("UPDATE public.copy SET expires_at = now() WHERE id = $1", made.id)
    assert await provider.checkpoints(created.id) == []
    with pytest.raises(ProvisioningFailed, match="does not exist"):
        await provider.restore(created.id, made.id)
    await provider.tidy(created.id)
    assert await everything(admin) == whole


async def test_consumption_is_the_size_over_the_time(provider: PostgresProvider, name: str) -> None:
    created = await provider.create(name)
    size = await ask(await provider.access(created), "SELECT pg_database_size(current_database())")
    until = datetime.now(UTC)
    (used,) = await provider.consumption([created.id], until - timedelta(hours=3), until)
    assert isinstance(size, int)
    assert used.storage_byte_hours is not None
    assert 0.5 < float(used.storage_byte_hours) / (size * 3) < 2
    assert (used.compute_cu_seconds, used.egress_bytes) == (None, None)


async def test_a_login_that_may_not_make_databases_is_told_what_it_lacks(own_cluster: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(own_cluster.uri().reveal())
    await connection.execute("CREATE ROLE powerless LOGIN PASSWORD 'powerless-password'")
    await connection.close()
    uri = Secret(f"postgresql://powerless:powerless-password@127.0.0.1:{own_cluster.port}/postgres")
    with pytest.raises(ProvisioningFailed, match="may not make databases") as failed:
        await PostgresProvider(uri).check()
    assert "CREATEDB CREATEROLE" in (failed.value.hint or "")


async def test_a_cluster_that_is_not_there_is_an_error_that_shows_nothing_of_it() -> None:
    with pytest.raises(ProvisioningFailed, match="cannot be reached") as failed:
        await PostgresProvider(Secret("postgresql://me:s3cret-word@127.0.0.1:1/db")).find("x")
    assert failed.value.retryable
    assert not [shown for shown in ("s3cret", "127.0.0.1", "me:") if shown in f"{failed.value!r}{failed.value.hint}"]


@pytest.mark.parametrize(
    ("admin", "expected"),
    [
        ("postgresql://u:p@h:5/x", "postgresql://o:w%2Fx@h:5/d"),
        ("postgres://u@h1:1,h2:2/x?sslmode=require", "postgresql://o:w%2Fx@h1:1,h2:2/d?sslmode=require"),
        ("postgresql:///x?host=/run/pg&user=u&password=p&dbname=y", "postgresql://o:w%2Fx@/d?host=%2Frun%2Fpg"),
    ],
)
def test_a_projects_uri_keeps_the_server_and_nothing_of_the_admins_login(admin: str, expected: str) -> None:
    assert Cluster(Secret(admin)).uri("d", "o", "w/x").reveal() == expected


async def test_no_password_is_in_what_the_server_is_told(provider: PostgresProvider, name: str) -> None:
    """Statements end up in logs: a role gets a verifier, never its password."""
    told: list[str] = []
    execute = asyncpg.Connection.execute

    async def listen(connection: asyncpg.Connection, query: str, *values: object, **options: object) -> str:
        told.append(query)
        return await execute(connection, query, *values, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncpg.Connection, "execute", listen)
        created = await provider.create(name)
        first = await provider.access(created)
        second = await provider.reset_password(created)
    passwords = [access.uri.reveal().split(":")[2].split("@")[0] for access in (first, second)]
    assert len(set(passwords)) == 2
    assert any("SCRAM-SHA-256$" in query for query in told)
    assert not [query for query in told for password in passwords if password in query]
