"""The audit log in a real control database: chains, their appending, tampering with them, and retention."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import anyio
import asyncpg
import pytest

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.errors import DatabaseUnavailable, InvalidArgument
from agentdb_mcp.models import Scope, Secret
from agentdb_mcp.services import Audit
from agentdb_mcp.services.audit import BATCH, DROPPED, MAX_WAITING_OF_USER
from agentdb_mcp.store import AuditDecision, AuditEntry, AuditStore, Broken, ControlDatabase, IdentityStore
from agentdb_mcp.store.audit import PAGE
from agentdb_mcp.store.control import create_database

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def entry(user: str, number: int = 0, *, at: datetime = NOW) -> AuditEntry:
    return AuditEntry(
        user_id=user,
        at=at,
        source="mcp",
        decision=AuditDecision.ALLOWED,
        principal="stdio",
        tool="execute_sql",
        workspace_id="w",
        scope=Scope.AGENT,
        database_id="d",
        kinds=("read",),
        objects=("public.notes", "Größe \N{SNOWMAN}"),
        duration_ms=0.1 + number,
        rows=number,
        statement_hash=bytes(32),
    )


def at(entry: AuditEntry, sequence: int, before: AuditEntry) -> AuditEntry:
    """The entry as one that follows."""
    placed = replace(entry, sequence=sequence, previous_hash=before.hash)
    return replace(placed, hash=placed.computed_hash())


class Process:
    """What one server process has."""

    def __init__(self, uri: Secret) -> None:
        self.control = ControlDatabase(uri)
        self.store = AuditStore(self.control)
        self.audit = Audit(self.store, lambda: NOW, flush_s=0.02, keep_days=90)

    async def append(self, entries: Sequence[AuditEntry]) -> None:
        await self.store.append(uuid4(), entries)


@pytest.fixture(scope="module")
async def uri(postgres: EmbeddedPostgres) -> Secret:
    """A control database of this file's own; tests differ by their user."""
    name = f"control_{secrets.token_hex(6)}"
    await create_database(postgres.uri(), name)
    return postgres.uri(name)


@pytest.fixture
async def process(uri: Secret) -> AsyncIterator[Process]:
    process = Process(uri)
    yield process
    await process.control.close()


@pytest.fixture
async def other(uri: Secret) -> AsyncIterator[Process]:
    process = Process(uri)
    yield process
    await process.control.close()


@pytest.fixture
async def admin(process: Process, uri: Secret) -> AsyncIterator[asyncpg.Connection]:
    """A superuser, for whom no trigger fires."""
    async with process.control.connection():
        pass  # brings it up to date
    connection = await asyncpg.connect(uri.reveal())
    await connection.execute("SET session_replication_role = replica")
    yield connection
    await connection.close()


@pytest.fixture
def user() -> str:
    return f"u{secrets.token_hex(6)}"


# --- appending ------------------------------------------------------------------------------------------------------


async def test_entries_come_back_as_they_were_noted_the_newest_first(process: Process, user: str) -> None:
    noted = [entry(user, number) for number in range(5)]
    await process.append(noted)
    read = await process.audit.entries(user)
    assert [each.sequence for each in read] == [5, 4, 3, 2, 1]
    for stored, original in zip(reversed(read), noted, strict=True):
        assert replace(stored, sequence=0, previous_hash=b"", hash=b"") == original
    verified = await process.store.verify(user)
    assert (verified.entries, verified.broken, verified.chain.sequence) == (5, None, 5)


async def test_pages_and_filters(process: Process, user: str) -> None:
    refused = replace(entry(user), decision=AuditDecision.REFUSED, code="statement_refused")
    elsewhere = replace(entry(user), workspace_id="v", scope=Scope.GLOBAL)
    await process.append([entry(user), refused, elsewhere, entry(user), entry(f"{user}-other")])

    async def sequences(**asked: object) -> list[int]:
        return [each.sequence for each in await process.audit.entries(user, **asked)]  # type: ignore[arg-type]

    assert await sequences(limit=3) == [4, 3, 2]
    assert await sequences(limit=3, before=2) == [1]
    assert await sequences(decision=AuditDecision.REFUSED) == [2]
    assert await sequences(workspace_id="v") == await sequences(scope=Scope.GLOBAL) == [3]
    assert await sequences(workspace_id="v", scope=Scope.AGENT) == []
    for limit in (0, 1001):
        with pytest.raises(InvalidArgument, match="limit"):
            await sequences(limit=limit)


async def test_two_servers_append_to_one_chain_without_a_gap(process: Process, other: Process, user: str) -> None:
    users = [user, f"{user}-b", f"{user}-a"]

    async def write(server: Process, offset: int) -> None:
        for number in range(20):
            await server.append([entry(each, offset + number) for each in users[:: 1 if offset else -1]])

    async with anyio.create_task_group() as group:
        for server, offset in ((process, 0), (process, 100), (other, 200), (other, 300)):
            group.start_soon(write, server, offset)
    for each in users:
        verified = await process.store.verify(each)
        assert (verified.entries, verified.broken) == (80, None)
        written = {row.rows async for row in process.audit.between(each, NOW, NOW + timedelta(seconds=1))}
        assert written == {offset + number for offset in (0, 100, 200, 300) for number in range(20)}


async def test_a_batch_whose_answer_was_lost_is_not_stored_twice(process: Process, user: str) -> None:
    batch = uuid4()
    for _ in range(2):
        await process.store.append(batch, [entry(user), entry(user)])
    assert (await process.store.verify(user)).entries == 2


async def test_a_user_that_is_deleted_leaves_the_log(process: Process, user: str) -> None:
    identity = IdentityStore(process.control)
    await identity.ensure_user(user)
    await process.append([entry(user)])
    await identity.remove_user(user)
    assert len(await process.audit.entries(user)) == 1


async def test_what_is_noted_while_a_batch_is_stored_waits_for_the_next(
    process: Process, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, batches = process.store.append, list[int]()

    async def append(batch: UUID, entries: Sequence[AuditEntry]) -> None:
        process.audit.note(entry(user))  # calls go on
        batches.append(len(entries))
        await store(batch, entries)

    monkeypatch.setattr(process.store, "append", append)
    for _ in range(BATCH + 1):
        process.audit.note(entry(user))
    with anyio.fail_after(60):
        await process.audit.flush()
    assert batches == [BATCH, 2]
    assert process.audit.waiting == 1


async def test_a_backlog_that_grew_while_a_batch_was_stored_waits_no_longer_than_for_the_next_call(
    process: Process, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, waiting = process.store.append, [BATCH + 1]

    async def append(batch: UUID, entries: Sequence[AuditEntry]) -> None:
        for _ in range(waiting.pop() if waiting else 0):
            process.audit.note(entry(user))
        await store(batch, entries)

    monkeypatch.setattr(process.store, "append", append)
    monkeypatch.setattr(process.audit, "flush_s", 3600.0)
    for _ in range(2 * BATCH):
        process.audit.note(entry(user))
    await process.audit.flush()
    assert process.audit.waiting == BATCH + 1  # and never were fewer than a batch
    async with anyio.create_task_group() as group:
        group.start_soon(process.audit.keep)
        process.audit.note(entry(user))
        with anyio.fail_after(60):
            while process.audit.waiting:
                await anyio.sleep(0.02)
        group.cancel_scope.cancel()


async def test_at_the_end_what_came_during_the_last_storing_is_stored_too(
    process: Process, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, late = process.store.append, [entry(user, 1), entry(user, 2)]

    async def append(batch: UUID, entries: Sequence[AuditEntry]) -> None:
        if late:
            process.audit.note(late.pop())
        await store(batch, entries)

    monkeypatch.setattr(process.store, "append", append)
    process.audit.note(entry(user))
    await process.audit.drain()
    assert process.audit.waiting == 0
    assert len(await process.audit.entries(user)) == 3


async def test_while_the_control_database_is_away_entries_are_kept_and_then_counted(
    process: Process, superuser: asyncpg.Connection, uri: Secret, user: str
) -> None:
    await process.append([entry(user)])
    name = uri.reveal().rpartition("/")[2]
    await superuser.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        await superuser.fetch("SELECT pg_terminate_backend(pid, 3000) FROM pg_stat_activity WHERE datname = $1", name)
        for number in range(MAX_WAITING_OF_USER + 7):
            process.audit.note(entry(user, number))
        process.audit.note(entry(f"{user}-other"))
        await process.audit.flush()
        await process.audit.flush()
    finally:
        await superuser.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    async with anyio.create_task_group() as group:
        group.start_soon(process.audit.keep)
        with anyio.fail_after(60):
            while not await process.audit.entries(f"{user}-other"):
                await anyio.sleep(0.02)
        group.cancel_scope.cancel()
    await process.audit.flush()
    verified = await process.store.verify(user)
    assert (verified.entries, verified.broken) == (1 + MAX_WAITING_OF_USER + 1, None)
    newest, before, *_ = await process.audit.entries(user)
    assert (newest.source, newest.code, newest.rows) == ("audit", DROPPED, 7)
    assert before.rows == MAX_WAITING_OF_USER - 1
    assert len(await process.audit.entries(f"{user}-other")) == 1


# --- tampering ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE db_audit_log SET code = 'x' WHERE user_id = $1",
        "DELETE FROM db_audit_log WHERE user_id = $1",
        "DELETE FROM db_audit_chain WHERE user_id = $1",
        "UPDATE db_audit_chain SET sequence = 1 WHERE user_id = $1",
        "UPDATE db_audit_chain SET user_id = 'x' WHERE user_id = $1",
    ],
)
async def test_what_the_server_may_do_does_not_change_the_log(process: Process, user: str, change: str) -> None:
    await process.append([entry(user), entry(user)])
    async with process.control.connection() as connection:
        with pytest.raises(asyncpg.RaiseError, match=r"append-only|only goes on"):
            await connection.execute(change, user)
        for table in ("db_audit_log", "db_audit_chain"):
            with pytest.raises(asyncpg.RaiseError):
                await connection.execute(f"TRUNCATE {table}")
    assert (await process.store.verify(user)).broken is None


CHANGES = {
    "objects = '{}'": 3,
    "objects = ARRAY['public.notes,Größe ☃']": 3,
    "kinds = '{write}'": 3,
    "at = at + interval '1 microsecond'": 3,
    "decision = 'refused'": 3,
    "principal = NULL": 3,
    "workspace_id = 'v'": 3,
    "duration_ms = duration_ms + 1": 3,
    "rows = NULL": 3,
    "statement_hash = NULL": 3,
    "request_id = 'another'": 3,
    "previous_hash = decode(repeat('00', 32), 'hex')": 3,
    "hash = decode(repeat('00', 32), 'hex')": 3,
}


@pytest.mark.parametrize(("change", "first"), CHANGES.items())
async def test_an_entry_that_was_changed_is_named(
    process: Process, admin: asyncpg.Connection, user: str, change: str, first: int
) -> None:
    await process.append([entry(user, number) for number in range(5)])
    await admin.execute(f"UPDATE db_audit_log SET {change} WHERE user_id = $1 AND sequence = 3", user)
    verified = await process.store.verify(user)
    assert (verified.entries, verified.broken) == (2, Broken(user, first, "was changed"))


async def test_a_change_with_a_hash_that_fits_breaks_the_next_entry(
    process: Process, admin: asyncpg.Connection, user: str
) -> None:
    await process.append([entry(user, number) for number in range(5)])
    _, _, third, second, _ = await process.audit.entries(user)
    forged = at(replace(third, rows=99), 3, second)
    await admin.execute(
        "UPDATE db_audit_log SET rows = 99, hash = $2 WHERE user_id = $1 AND sequence = 3", user, forged.hash
    )
    assert (await process.store.verify(user)).broken == Broken(user, 4, "does not follow from the one before it")


@pytest.mark.parametrize(("removed", "first"), [("3", 3), ("1", 1), ("1, 2", 1), ("5", 5), ("4, 5", 4)])
async def test_entries_that_were_removed_are_named(
    process: Process, admin: asyncpg.Connection, user: str, removed: str, first: int
) -> None:
    await process.append([entry(user, number) for number in range(5)])
    await admin.execute(f"DELETE FROM db_audit_log WHERE user_id = $1 AND sequence IN ({removed})", user)
    assert (await process.store.verify(user)).broken == Broken(user, first, "is missing")


async def test_a_removed_entry_whose_followers_moved_up_is_named(
    process: Process, admin: asyncpg.Connection, user: str
) -> None:
    await process.append([entry(user, number) for number in range(5)])
    await admin.execute("DELETE FROM db_audit_log WHERE user_id = $1 AND sequence = 3", user)
    for number in (4, 5):
        await admin.execute(
            "UPDATE db_audit_log SET sequence = sequence - 1 WHERE user_id = $1 AND sequence = $2", user, number
        )
    assert (await process.store.verify(user)).broken == Broken(user, 3, "was changed")


async def test_entries_in_another_order_are_named(process: Process, admin: asyncpg.Connection, user: str) -> None:
    await process.append([entry(user, number) for number in range(5)])
    for old, new in ((2, 99), (3, 2), (99, 3)):
        await admin.execute(
            "UPDATE db_audit_log SET sequence = $3 WHERE user_id = $1 AND sequence = $2", user, old, new
        )
    assert (await process.store.verify(user)).broken == Broken(user, 2, "was changed")


async def test_entries_that_were_inserted_are_named(process: Process, admin: asyncpg.Connection, user: str) -> None:
    """At the end, and in the place of one that follows."""
    await process.append([entry(user, number) for number in range(3)])
    newest = (await process.audit.entries(user))[0]
    await insert(admin, at(entry(user), 4, newest))
    assert (await process.store.verify(user)).broken == Broken(user, 4, "was inserted after the chain's end")

    await admin.execute("DELETE FROM db_audit_log WHERE user_id = $1 AND sequence > 1", user)
    first = (await process.audit.entries(user))[0]
    await insert(admin, at(entry(user, 7), 2, first))
    await insert(admin, newest)
    assert (await process.store.verify(user)).broken == Broken(user, 3, "does not follow from the one before it")


async def test_an_entry_of_another_users_chain_is_named(process: Process, admin: asyncpg.Connection, user: str) -> None:
    await process.append([entry(user), entry(f"{user}-other")])
    await admin.execute("DELETE FROM db_audit_log WHERE user_id = $1", user)
    await admin.execute("UPDATE db_audit_log SET user_id = $1 WHERE user_id = $1 || '-other'", user)
    assert (await process.store.verify(user)).broken == Broken(user, 1, "was changed")


async def test_a_chain_whose_end_was_removed_with_its_entries_does_not_go_on_unseen(
    process: Process, admin: asyncpg.Connection, user: str
) -> None:
    await process.append([entry(user, number) for number in range(3)])
    await admin.execute("DELETE FROM db_audit_log WHERE user_id = $1 AND sequence = 3", user)
    await process.append([entry(user)])
    assert (await process.store.verify(user)).broken == Broken(user, 3, "is missing")


async def test_entries_without_a_chain_are_found_too(process: Process, admin: asyncpg.Connection, user: str) -> None:
    await process.append([entry(user)])
    await admin.execute("DELETE FROM db_audit_chain WHERE user_id = $1", user)
    broken = [each.broken async for each in process.audit.verify() if each.broken and each.broken.user_id == user]
    assert broken == [Broken(user, 1, "was inserted after the chain's end")]


async def insert(admin: asyncpg.Connection, entry: AuditEntry) -> None:
    await admin.execute(
        "INSERT INTO db_audit_log (user_id, sequence, at, source, principal, tool, workspace_id, scope, database_id,"
        " kinds, objects, decision, duration_ms, rows, statement_hash, batch, previous_hash, hash)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, gen_random_uuid(), $16, $17)",
        entry.user_id, entry.sequence, entry.at, entry.source, entry.principal, entry.tool, entry.workspace_id,
        entry.scope, entry.database_id, entry.kinds, entry.objects, entry.decision, entry.duration_ms, entry.rows,
        entry.statement_hash, entry.previous_hash, entry.hash,
    )  # fmt: skip


# --- retention ------------------------------------------------------------------------------------------------------


async def test_retention_deletes_the_oldest_and_leaves_a_chain_that_verifies(process: Process, user: str) -> None:
    """In transactions of a page each; an old entry after a new one stays with it."""
    old, new = NOW - timedelta(days=90, seconds=1), NOW - timedelta(days=90)
    await process.append([entry(user, at=old) for _ in range(PAGE + 5)])
    await process.append([entry(user, at=new), entry(user, at=old), entry(user)])
    assert await process.audit.prune() >= PAGE + 5
    kept = await process.audit.entries(user)
    assert [each.sequence for each in kept] == [PAGE + 8, PAGE + 7, PAGE + 6]
    verified = await process.store.verify(user)
    assert (verified.entries, verified.broken) == (3, None)
    assert (verified.chain.anchor_sequence, verified.chain.anchor_hash) == (PAGE + 5, kept[-1].previous_hash)
    assert await process.audit.prune() == 0
    await process.append([entry(user)])
    assert (await process.store.verify(user)).entries == 4


async def test_what_is_removed_after_retention_is_named(process: Process, admin: asyncpg.Connection, user: str) -> None:
    await process.append([entry(user, at=NOW - timedelta(days=100)), entry(user), entry(user)])
    await process.audit.prune()
    await admin.execute("DELETE FROM db_audit_log WHERE user_id = $1 AND sequence = 2", user)
    assert (await process.store.verify(user)).broken == Broken(user, 2, "is missing")


async def test_a_chain_of_nobody_is_forgotten_once_it_is_empty(process: Process, user: str) -> None:
    identity = IdentityStore(process.control)
    await identity.ensure_user(user)
    gone = f"{user}-gone"
    await process.append([entry(each, at=NOW - timedelta(days=100)) for each in (user, gone)])
    await process.audit.prune()
    users = await process.store.users()
    assert user in users
    assert gone not in users
    await process.append([entry(user), entry(gone)])
    assert [each.sequence for each in await process.audit.entries(user)] == [2]
    assert [each.sequence for each in await process.audit.entries(gone)] == [1]
    for each in (user, gone):
        assert (await process.store.verify(each)).broken is None


async def test_without_the_tables_it_is_told_what_to_do(empty_database: Secret) -> None:
    control = ControlDatabase(empty_database, migrate=False)
    with pytest.raises(DatabaseUnavailable, match="agentdb-mcp migrate"):
        await AuditStore(control).entries("u")
    await control.close()
