"""One local Neon API serves a cluster at a time."""

from __future__ import annotations

import anyio
import asyncpg
import pytest
from emulating import client_of, connected, create

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.neon_emulator import Behaviour, ClusterUnavailableError, neon_emulator
from agentdb_mcp.neon_emulator.claim import KEY, claimed
from agentdb_mcp.neon_emulator.location import OWN_DATABASE, locate

QUICK = Behaviour(tick_seconds=0.05)
ASKING = "FROM pg_stat_activity WHERE query LIKE '%advisory%' AND pid <> pg_backend_pid()"
END_HOLDER = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"


async def until(superuser: asyncpg.Connection, question: str, *arguments: object) -> None:
    with anyio.fail_after(20):
        while not await superuser.fetchval(question, *arguments):
            await anyio.sleep(0.01)


async def test_a_second_one_is_refused(postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentdb_mcp.neon_emulator.claim.WAIT_S", 0.2)
    uri = postgres.uri().reveal()
    async with neon_emulator(uri) as emulator, client_of(emulator) as api:
        with pytest.raises(ClusterUnavailableError, match="another local Neon API serves this cluster"):
            async with neon_emulator(uri):
                pass
        await create(api)


async def test_the_next_one_waits_for_the_former_to_end(postgres: EmbeddedPostgres) -> None:
    uri = postgres.uri().reveal()
    ended = []

    async def serve_next() -> None:
        async with neon_emulator(uri) as emulator, client_of(emulator) as api:
            assert ended
            await create(api)

    async with anyio.create_task_group() as group, connected(uri) as superuser, neon_emulator(uri):
        group.start_soon(serve_next)
        await until(superuser, f"SELECT count(*) = 2 {ASKING}")
        ended.append(True)


async def test_it_undoes_nothing_while_another_holds_the_cluster(
    postgres: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the end of its connection lost it the cluster, it takes it again as soon as it can."""
    own = postgres.uri(OWN_DATABASE).reveal()
    half_made = "SELECT EXISTS (SELECT FROM project WHERE state = 'creating')"
    async with (
        neon_emulator(postgres.uri().reveal(), behaviour=QUICK) as emulator,
        client_of(emulator) as api,
        connected(own) as superuser,
    ):
        created = await create(api)
        async with connected(own) as other:
            async with anyio.create_task_group() as group:
                group.start_soon(other.execute, "SELECT pg_advisory_lock($1)", KEY)
                await until(
                    superuser, "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
                )
                await superuser.execute(END_HOLDER)
            await superuser.execute("UPDATE project SET state = 'creating' WHERE id = $1", created["project"]["id"])
            for _ in range(3):
                now = await superuser.fetchval("SELECT clock_timestamp()")
                await until(
                    superuser, f"SELECT EXISTS (SELECT {ASKING} AND query LIKE '%try%' AND query_start > $1)", now
                )
            assert await superuser.fetchval(half_made)
            assert caplog.text.count("another local Neon API has taken this cluster") == 1
        await until(superuser, f"SELECT NOT ({half_made})")
        await until(superuser, "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted)")


async def test_many_may_ask_at_once_whether_the_cluster_is_still_ours(postgres: EmbeddedPostgres) -> None:
    uri = postgres.uri().reveal()
    async with neon_emulator(uri):
        pass
    answers: list[bool] = []
    async with claimed(locate(uri)) as claim, anyio.create_task_group() as group:

        async def ask() -> None:
            answers.append(await claim.held())

        for _ in range(20):
            group.start_soon(ask)
    assert answers == [True] * 20
