"""Checkpoints, as every provider keeps them and puts them back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest
from implementations import Service, ask, connected

from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.models import Checkpoint, Project
from agentdb_mcp.providers import Provider

GONE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


def in_a_week() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=7)


async def with_note(provider: Provider, name: str) -> Project:
    project = await provider.create(name)
    await ask(await provider.access(project), "CREATE TABLE note AS SELECT 'before' AS text")
    return project


async def databases(superuser: asyncpg.Connection) -> set[str]:
    return {row["datname"] for row in await superuser.fetch("SELECT datname FROM pg_database")}


async def test_a_checkpoint_is_listed_with_its_name_time_and_size(provider: Provider, name: str) -> None:
    project, until = await with_note(provider, name), in_a_week()
    made = await provider.checkpoint(project.id, "before the change", until)
    assert await provider.checkpoints(project.id) == [made]
    assert (made.name, made.expires_at) == ("before the change", until)
    assert made.size_bytes > 1_000_000
    assert abs(datetime.now(UTC) - made.created_at) < timedelta(minutes=5)
    second = await provider.checkpoint(project.id, "and another", until)
    assert await provider.checkpoints(project.id) == [made, second]


async def test_a_restore_brings_back_the_data_under_the_same_connection_string(provider: Provider, name: str) -> None:
    project = await with_note(provider, name)
    access = await provider.access(project)
    made = await provider.checkpoint(project.id, "c", in_a_week())
    async with connected(access) as old:
        await old.execute("UPDATE note SET text = 'after'; CREATE TABLE later ()")
        restored = await provider.restore(project.id, made.id)
        with pytest.raises(GONE):
            await old.fetchval("SELECT 1")
    assert restored.id == project.id
    assert await provider.access(restored) == access
    assert await ask(access, "SELECT text FROM note") == "before"
    assert await ask(access, "SELECT to_regclass('later')") is None
    assert (
        await ask(access, "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'note'") == access.role_name
    )
    # It stays, and can be gone back to again, also after another one of what was restored.
    await ask(access, "UPDATE note SET text = 'again'")
    second = await provider.checkpoint(project.id, "d", in_a_week())
    await provider.restore(project.id, made.id)
    assert await ask(access, "SELECT text FROM note") == "before"
    await provider.restore(project.id, second.id)
    assert await ask(access, "SELECT text FROM note") == "again"
    assert await provider.checkpoints(project.id) == [made, second]


async def test_rights_on_the_database_itself_are_there_after_a_restore(provider: Provider, name: str) -> None:
    project = await with_note(provider, name)
    access, role = await provider.access(project), f"a_{name[-16:]}"
    await ask(access, f"CREATE ROLE {role}")
    await ask(access, f"GRANT CONNECT, CREATE ON DATABASE {access.database_name} TO {role}")
    made = await provider.checkpoint(project.id, "c", in_a_week())
    await provider.restore(project.id, made.id)
    asked = f"SELECT has_database_privilege('{role}', '{access.database_name}', 'CREATE')"
    assert await ask(access, asked) is True
    everyone = "SELECT count(*) FROM pg_database, aclexplode(datacl) WHERE datname = current_database() AND grantee = 0"
    assert await ask(access, everyone) == 0


async def test_sessions_that_come_and_go_do_not_hinder_a_checkpoint_or_a_restore(provider: Provider, name: str) -> None:
    project = await with_note(provider, name)
    access = await provider.access(project)

    async def use() -> None:
        while True:
            try:
                await ask(access, "SELECT pg_sleep(0.01)")
            except GONE:
                await anyio.sleep(0.01)

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(use)
        made = await provider.checkpoint(project.id, "c", in_a_week())
        await provider.restore(project.id, made.id)
        group.cancel_scope.cancel()
    assert await ask(access, "SELECT text FROM note") == "before"


async def test_the_project_cannot_enter_its_checkpoint(
    provider: Provider, name: str, superuser: asyncpg.Connection
) -> None:
    project = await with_note(provider, name)
    access, before = await provider.access(project), await databases(superuser)
    await provider.checkpoint(project.id, "c", in_a_week())
    (copy,) = await databases(superuser) - before
    neighbour = await provider.access(await provider.create(f"{name}-other"))
    for way in (access, neighbour):
        path = urlsplit(way.uri.reveal()).path
        with pytest.raises(asyncpg.PostgresError):
            await asyncpg.connect(way.uri.reveal().replace(path, f"/{copy}"))
    assert {each.id for each in await provider.projects(name)} >= {project.id}
    assert len(await provider.projects(name)) == 2


async def test_a_dropped_checkpoint_is_gone_and_dropping_it_again_is_a_success(provider: Provider, name: str) -> None:
    project = await with_note(provider, name)
    made = await provider.checkpoint(project.id, "c", in_a_week())
    await provider.drop_checkpoint(project.id, made.id)
    await provider.drop_checkpoint(project.id, made.id)
    await provider.drop_checkpoint("never-was-12345678", made.id)
    assert await provider.checkpoints(project.id) == []
    with pytest.raises(ProvisioningFailed) as failed:
        await provider.restore(project.id, made.id)
    assert failed.value.hint
    assert await ask(await provider.access(project), "SELECT text FROM note") == "before"


async def test_a_checkpoint_of_another_project_is_not_restored(provider: Provider, name: str) -> None:
    mine, other = await with_note(provider, name), await with_note(provider, f"{name}-other")
    made = await provider.checkpoint(other.id, "c", in_a_week())
    with pytest.raises(ProvisioningFailed):
        await provider.restore(mine.id, made.id)
    await provider.drop_checkpoint(mine.id, made.id)
    assert [each.id for each in await provider.checkpoints(other.id)] == [made.id]
    assert await provider.checkpoints(mine.id) == []


async def test_a_deleted_project_leaves_no_checkpoints(
    service: Service, provider: Provider, name: str, superuser: asyncpg.Connection
) -> None:
    before = await databases(superuser)
    project = await with_note(provider, name)
    made = await provider.checkpoint(project.id, "c", in_a_week())
    await provider.restore(project.id, made.id)
    await provider.tidy(project.id)
    await provider.delete(project.id)
    assert await provider.checkpoints(project.id) == []
    if not service.recovers:  # Neon keeps all of it for a week
        assert await databases(superuser) <= before


async def test_tidying_leaves_what_is_kept(provider: Provider, name: str) -> None:
    project = await with_note(provider, name)
    made: list[Checkpoint] = [await provider.checkpoint(project.id, "c", in_a_week())]
    await provider.tidy(project.id)
    await provider.tidy("never-was-12345678")
    assert await provider.checkpoints(project.id) == made
    assert await ask(await provider.access(project), "SELECT text FROM note") == "before"


@pytest.mark.parametrize("call", ["checkpoint", "restore"])
async def test_what_is_not_there_can_neither_be_kept_nor_restored(provider: Provider, call: str) -> None:
    missing = "never-was-12345678"
    with pytest.raises(ProvisioningFailed) as failed:
        await (
            provider.checkpoint(missing, "c", in_a_week())
            if call == "checkpoint"
            else provider.restore(missing, "snap-never-was-12345678")
        )
    assert failed.value.hint
