"""What every provider does alike."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest
from implementations import WRONG_KEY, Service, ask, connected

from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.models import Project, ProjectSettings, Quota, Scope
from agentdb_mcp.providers import Provider, project_name


async def test_what_was_never_made_is_not_found(provider: Provider, name: str) -> None:
    assert await provider.find(name) == []


async def test_a_project_is_found_by_its_whole_name_only(provider: Provider, name: str) -> None:
    names = [name, f"{name}-2", f"x{name}", name.upper(), name[:-1]]
    made = {each: await provider.create(each) for each in names}
    for each in names:
        assert [(project.id, project.name) for project in await provider.find(each)] == [(made[each].id, each)]
    for project in made.values():
        await provider.delete(project.id)


async def test_projects_of_one_name_are_found_oldest_first_unless_they_are_one(
    service: Service, provider: Provider, name: str
) -> None:
    made = [await provider.create(name) for _ in range(3)]
    if service.names_are_unique:
        assert [project.id for project in await provider.find(name)] == [made[0].id]
        assert {project.id for project in made} == {made[0].id}
        return
    assert [project.id for project in await provider.find(name)] == [project.id for project in made]
    await provider.delete(made[0].id)
    assert [project.id for project in await provider.find(name)] == [project.id for project in made[1:]]


@pytest.mark.parametrize("owner", ["a b", "ünï-çødé", "100%_&?#/", "🙂", "x" * 200])
async def test_a_name_of_any_characters_is_found_again(provider: Provider, owner: str) -> None:
    full = project_name(Scope.GLOBAL, f"{owner}{secrets.token_hex(4)}")
    created = await provider.create(full)
    assert [project.id for project in await provider.find(full)] == [created.id]


async def test_a_project_can_be_logged_in_to_as_soon_as_it_is_made(provider: Provider, name: str) -> None:
    access = await provider.access(await provider.create(name))
    parts = urlsplit(access.uri.reveal())
    assert parts.path == f"/{access.database_name}"
    assert parts.username == access.role_name
    assert await ask(access, "SELECT current_database()") == access.database_name
    assert await ask(access, "SELECT current_user") == access.role_name


async def test_a_project_that_was_found_opens_as_the_one_that_was_made(provider: Provider, name: str) -> None:
    created = await provider.create(name)
    (found,) = await provider.find(name)
    assert await provider.access(found) == await provider.access(created)


async def test_the_admin_may_make_the_roles_that_a_database_needs(provider: Provider, name: str) -> None:
    access = await provider.access(await provider.create(name))
    role = f"a_{secrets.token_hex(8)}"
    connection = await asyncpg.connect(access.uri.reveal())
    try:
        await connection.execute(f"CREATE ROLE {role} NOLOGIN")
        await connection.execute(f"GRANT CREATE ON SCHEMA public TO {role}")
        assert await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    finally:
        await connection.close()


async def test_one_projects_admin_does_not_get_into_another(provider: Provider, name: str) -> None:
    mine = await provider.access(await provider.create(name))
    other = await provider.access(await provider.create(f"{name}-other"))
    trespassing = mine.uri.reveal().replace(f"/{mine.database_name}", f"/{other.database_name}")
    with pytest.raises(asyncpg.PostgresError):
        await asyncpg.connect(trespassing)


async def test_names_of_databases_and_roles_tell_nothing_of_their_owner(provider: Provider, name: str) -> None:
    access = await provider.access(await provider.create(name))
    owner = name.removeprefix("agent-")
    assert owner not in access.database_name + access.role_name


async def test_twelve_projects_at_once_are_twelve_projects(provider: Provider, name: str) -> None:
    made: list[Project] = []

    async def create(number: int) -> None:
        made.append(await provider.create(f"{name}-{number}"))

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(create, number)
    assert len({project.id for project in made}) == 12
    async with anyio.create_task_group() as group:
        for project in made:
            group.start_soon(provider.delete, project.id)
    assert await provider.find(f"{name}-0") == []


async def test_a_deleted_project_is_gone_with_its_login(provider: Provider, name: str) -> None:
    created = await provider.create(name)
    access = await provider.access(created)
    await provider.delete(created.id)
    assert await provider.find(name) == []
    with pytest.raises(asyncpg.PostgresError):
        await ask(access, "SELECT 1")


async def test_deleting_twice_or_what_never_was_is_a_success(provider: Provider, name: str) -> None:
    created = await provider.create(name)
    await provider.delete(created.id)
    await provider.delete(created.id)
    await provider.delete("never-was-12345678")


async def test_deleting_ends_the_connections_that_are_open(provider: Provider, name: str) -> None:
    created = await provider.create(name)
    connection = await asyncpg.connect((await provider.access(created)).uri.reveal())
    await provider.delete(created.id)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("SELECT 1")
    await connection.close()


async def test_a_name_can_be_used_again_for_a_new_and_empty_project(provider: Provider, name: str) -> None:
    first = await provider.create(name)
    await ask(await provider.access(first), "CREATE TABLE kept ()")
    await provider.delete(first.id)
    second = await provider.create(name)
    assert second.id != first.id
    assert await ask(await provider.access(second), "SELECT to_regclass('kept')") is None


async def test_the_way_into_a_project_that_is_gone_is_an_error_of_ours(provider: Provider, name: str) -> None:
    created = await provider.create(name)
    await provider.delete(created.id)
    with pytest.raises(ProvisioningFailed) as failed:
        await provider.access(created)
    assert failed.value.hint


async def test_check_passes_with_the_right_key(provider: Provider) -> None:
    await provider.check()


async def test_projects_are_listed_by_how_their_names_begin(provider: Provider, name: str) -> None:
    made = [await provider.create(f"{name}{end}") for end in ("-1", "-2", "_3", "%4")]
    other = await provider.create(f"x{name}-5")
    listed = [(project.id, project.name) for project in await provider.projects(name)]
    assert listed == [(project.id, project.name) for project in made]
    assert [project.id for project in await provider.projects(f"{name}-")] == [made[0].id, made[1].id]
    assert [project.id for project in await provider.projects(f"{name}_")] == [made[2].id]
    assert {project.id for project in (*made, other)} <= {project.id for project in await provider.projects("")}


async def test_a_listed_project_says_when_it_was_made(provider: Provider, name: str) -> None:
    created = await provider.create(name)
    (listed,) = await provider.projects(name)
    assert listed.created_at is not None
    assert created.created_at == listed.created_at
    made = datetime.fromisoformat(listed.created_at)
    assert abs(datetime.now(UTC) - made) < timedelta(hours=1)


async def test_a_project_is_got_by_its_id_until_it_is_deleted(provider: Provider, name: str) -> None:
    created = await provider.create(name)
    got = await provider.get(created.id)
    assert got is not None
    assert (got.id, got.name) == (created.id, name)
    await provider.delete(created.id)
    assert await provider.get(created.id) is None
    assert await provider.get("never-was-12345678") is None


async def test_a_project_can_be_made_with_settings_and_a_quota(provider: Provider, name: str) -> None:
    settings = ProjectSettings(min_cu=0.25, max_cu=0.5, quota=Quota(compute_time_seconds=3600), paid=False)
    assert await ask(await provider.access(await provider.create(name, settings)), "SELECT 1") == 1


async def test_quotas_can_be_changed(provider: Provider, name: str) -> None:
    created = await provider.create(name)
    await provider.configure(created.id, ProjectSettings(quota=Quota(compute_time_seconds=7200, logical_size_bytes=0)))
    assert await ask(await provider.access(created), "SELECT 1") == 1


async def test_sizes_can_be_changed(provider: Provider, name: str) -> None:
    created = await provider.create(name)
    await provider.configure(created.id, ProjectSettings(min_cu=0.25, max_cu=1, suspend_timeout_s=60))
    assert await ask(await provider.access(created), "SELECT 1") == 1


async def test_a_paused_project_lets_nobody_in_until_it_is_resumed(provider: Provider, name: str) -> None:
    created = await provider.create(name)
    access = await provider.access(created)
    async with connected(access) as connection:
        await connection.execute("SELECT pg_sleep(1.1)")  # more than the second that Neon's quota leaves
        await provider.pause(created.id)
        await provider.pause(created.id)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await connection.fetchval("SELECT 1")
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await ask(access, "SELECT 1")
    assert [project.id for project in await provider.find(name)] == [created.id]
    await provider.resume(created.id)
    await provider.resume(created.id)
    assert await ask(access, "SELECT 1") == 1


async def test_a_paused_project_can_be_deleted(provider: Provider, name: str) -> None:
    created = await provider.create(name)
    await provider.configure(created.id, ProjectSettings(quota=Quota(active_time_seconds=1)))
    await provider.delete(created.id)
    assert await provider.find(name) == []


async def test_the_pooled_way_in_leads_to_the_same_database(provider: Provider, name: str) -> None:
    access = await provider.access(await provider.create(name), pooled=True)
    assert await ask(access, "SELECT current_database()") == access.database_name


async def test_a_new_password_ends_the_old_one_and_its_connections(provider: Provider, name: str) -> None:
    created = await provider.create(name)
    old = await provider.access(created)
    async with connected(old) as connection:
        new = await provider.reset_password(created)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await connection.fetchval("SELECT 1")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await ask(old, "SELECT 1")
    assert await ask(new, "SELECT current_user") == old.role_name
    assert await provider.access(created) == new


async def test_a_deleted_project_comes_back_with_its_rows_or_is_said_to_be_gone(
    service: Service, provider: Provider, name: str
) -> None:
    created = await provider.create(name)
    await ask(await provider.access(created), "CREATE TABLE kept ()")
    await provider.delete(created.id)
    if not service.recovers:
        with pytest.raises(ProvisioningFailed, match="cannot be recovered") as failed:
            await provider.recover(created.id)
        assert failed.value.hint
        assert not failed.value.retryable
        return
    assert (await provider.recover(created.id)).id == created.id
    (found,) = await provider.find(name)
    assert await ask(await provider.access(found), "SELECT to_regclass('kept')") is not None


async def test_consumption_is_that_of_the_projects_that_were_asked_for(provider: Provider, name: str) -> None:
    mine, other = await provider.create(name), await provider.create(f"{name}-other")
    now = datetime.now(UTC)
    found = await provider.consumption([mine.id, "never-was-12345678"], now - timedelta(hours=2), now)
    assert {used.project_id for used in found} <= {mine.id}
    assert all(used.start < used.end for used in found)
    assert all((used.storage_byte_hours or 0) >= 0 for used in found)
    assert await provider.consumption([], now - timedelta(hours=2), now) == []
    await provider.delete(other.id)


async def test_where_there_is_one_account_a_project_stays(provider: Provider, name: str) -> None:
    created = await provider.create(name)
    await provider.move(created.id, paid=True)
    assert [project.id for project in await provider.find(name)] == [created.id]


@pytest.mark.parametrize("call", ["pause", "resume", "configure", "reset_password", "recover"])
async def test_what_is_not_there_cannot_be_changed(provider: Provider, name: str, call: str) -> None:
    missing = "never-was-12345678"
    calls = {
        "pause": lambda: provider.pause(missing),
        "resume": lambda: provider.resume(missing),
        "configure": lambda: provider.configure(missing, ProjectSettings(quota=Quota(written_data_bytes=1))),
        "reset_password": lambda: provider.reset_password(Project(missing, name)),
        "recover": lambda: provider.recover(missing),
    }
    with pytest.raises(ProvisioningFailed) as failed:
        await calls[call]()
    assert failed.value.hint


@pytest.mark.parametrize(
    "call", ["check", "find", "projects", "create", "get", "delete", "pause", "resume", "access", "reset_password"]
)
async def test_a_wrong_key_is_one_clear_sentence_without_a_secret(service: Service, call: str, name: str) -> None:
    some = Project("some-project-12345678", name, "br-some-12345678")
    async with service.connect(WRONG_KEY) as refused:
        calls = {
            "check": refused.check,
            "find": lambda: refused.find(name),
            "create": lambda: refused.create(name),
            "delete": lambda: refused.delete("some-project-12345678"),
            "get": lambda: refused.get("some-project-12345678"),
            "projects": lambda: refused.projects("agent-"),
            "pause": lambda: refused.pause("some-project-12345678"),
            "resume": lambda: refused.resume("some-project-12345678"),
            "reset_password": lambda: refused.reset_password(some),
            "access": lambda: refused.access(some),
        }
        with pytest.raises(ProvisioningFailed, match=r"refused the (API key|login)") as failed:
            await calls[call]()
    said = f"{failed.value} {failed.value.hint} {failed.value!r} {failed.value.as_dict()}"
    assert failed.value.hint
    assert not failed.value.retryable
    assert not [private for private in (*service.private, WRONG_KEY.reveal()) if private in said]


async def test_nothing_shows_a_login_by_accident(provider: Provider, name: str) -> None:
    access = await provider.access(await provider.create(name))
    password = urlsplit(access.uri.reveal()).password
    assert password
    assert password not in f"{access!r} {access!s} {access.uri}"
