"""API tokens over a real control database: who has one, what ends it, and what is known to whom."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

import anyio
import asyncpg
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.errors import (
    AgentDBError,
    DatabaseUnavailable,
    InvalidArgument,
    NotAuthenticated,
    NotFound,
    RateLimited,
)
from agentdb_mcp.models import Secret, Tenant, TokenScope
from agentdb_mcp.services import IssuedToken, Tokens
from agentdb_mcp.services.tokens import FRESH_S, LOOKUPS, MAX_EXPIRES_IN_S
from agentdb_mcp.store import ControlDatabase, IdentityStore, TokenRow, TokenStore
from agentdb_mcp.store.control import create_database

MCP = [TokenScope.MCP]
UNKNOWN = "adb_" + "A" * 43


class Clock:
    """The time of day, moved by hand, and the monotonic one beside it."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)
        self.seconds = 0.0

    def __call__(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.seconds


class Counting(TokenStore):
    """The real store; tells how often it was asked for a token, and can be held up once it has read one."""

    def __init__(self, control: ControlDatabase) -> None:
        super().__init__(control)
        self.lookups = 0
        self.after_reading: dict[Secret, Callable[[], Awaitable[None]]] = {}

    async def find_by_hash(self, token_hash: bytes) -> TokenRow | None:
        self.lookups += 1
        row = await super().find_by_hash(token_hash)
        for token, then in self.after_reading.items():
            if hashlib.sha256(token.reveal().encode()).digest() == token_hash:
                await then()
        return row


class Process:
    """What one server process has: connections, a store and `Tokens` of its own."""

    def __init__(self, uri: Secret, clock: Clock) -> None:
        self.control = ControlDatabase(uri)
        self.store = Counting(self.control)
        self.tokens = Tokens(self.store, clock, monotonic=clock.monotonic)

    async def accepts(self, issued: IssuedToken, *, source: str = "") -> bool:
        try:
            await self.tokens.authenticate(issued.token.reveal(), source=source)
        except NotAuthenticated:
            return False
        return True

    async def asks_nothing(self, issued: IssuedToken) -> bool:
        """Whether the token is accepted from memory."""
        before = self.store.lookups
        return await self.accepts(issued) and self.store.lookups == before


@asynccontextmanager
async def without_notices(upstream: int) -> AsyncIterator[tuple[int, anyio.Event]]:
    """A port before Postgres that withholds notices and is set off by the first one; nothing else is changed."""
    withheld = anyio.Event()

    async def questions(client: SocketStream, server: SocketStream) -> None:
        async for data in client:
            await server.send(data)
        await server.send_eof()

    async def serve(client: SocketStream) -> None:
        async with client, await anyio.connect_tcp("127.0.0.1", upstream) as server, anyio.create_task_group() as group:
            group.start_soon(questions, client, server)
            answers = BufferedByteReceiveStream(server)
            with contextlib.suppress(anyio.IncompleteRead, anyio.BrokenResourceError):
                while True:
                    head = await answers.receive_exactly(5)
                    body = await answers.receive_exactly(int.from_bytes(head[1:]) - 4)
                    if head[:1] == b"A":
                        withheld.set()
                    else:
                        await client.send(head + body)
            group.cancel_scope.cancel()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield listener.extra(SocketAttribute.local_port), withheld
        group.cancel_scope.cancel()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(5):
        while not await condition():
            await anyio.sleep(0.01)


@pytest.fixture(scope="module")
async def uri(postgres: EmbeddedPostgres) -> Secret:
    """A control database of this file's own; tests differ by their user."""
    name = f"control_{secrets.token_hex(6)}"
    await create_database(postgres.uri(), name)
    return postgres.uri(name)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def process(uri: Secret, clock: Clock) -> AsyncIterator[Process]:
    """Follows no notices."""
    process = Process(uri, clock)
    yield process
    await process.control.close()


@pytest.fixture
async def servers(uri: Secret, clock: Clock) -> AsyncIterator[list[Process]]:
    """Two that follow."""
    async with AsyncExitStack() as stack:
        processes = [Process(uri, clock) for _ in range(2)]
        for each in processes:
            stack.push_async_callback(each.control.close)
            await stack.enter_async_context(each.tokens.following())
        yield processes


@pytest.fixture
async def admin(process: Process, uri: Secret) -> AsyncIterator[asyncpg.Connection]:
    async with process.control.connection():
        pass  # brings it up to date
    connection = await asyncpg.connect(uri.reveal())
    yield connection
    await connection.close()


@pytest.fixture
async def user(process: Process) -> str:
    """With a workspace `<user>-notes`."""
    identity, user_id = IdentityStore(process.control), f"u{secrets.token_hex(6)}"
    await identity.ensure_user(user_id)
    await identity.ensure_workspace(f"{user_id}-notes", "Notes", user_id)
    return user_id


async def remembered(process: Process, issued: IssuedToken) -> None:
    await until(lambda: process.asks_nothing(issued))


async def cut(superuser: asyncpg.Connection, uri: Secret, application_name: str | None = None) -> None:
    """End connections to the control database: those of the name, or all."""
    await superuser.fetch(
        "SELECT pg_terminate_backend(pid, 3000) FROM pg_stat_activity"
        " WHERE datname = $1 AND application_name = coalesce($2, application_name)",
        uri.reveal().rpartition("/")[2],
        application_name,
    )


# --- issuing --------------------------------------------------------------------------------------------------------


async def test_a_token_says_whose_it_is_and_what_it_is_for(process: Process, user: str, clock: Clock) -> None:
    issued = await process.tokens.issue(
        user, f"{user}-notes", [TokenScope.EXPLORER, TokenScope.MCP, TokenScope.MCP], 3600, "laptop"
    )
    assert re.fullmatch(r"adb_[A-Za-z0-9_-]{43}", issued.token.reveal())
    assert issued.scopes == (TokenScope.MCP, TokenScope.EXPLORER)
    identity = await process.tokens.authenticate(issued.token.reveal())
    assert identity.token_id == issued.id
    assert identity.tenant == Tenant(user, f"{user}-notes")
    assert identity.scopes == {TokenScope.MCP, TokenScope.EXPLORER}
    assert identity.expires_at == issued.expires_at == clock.now + timedelta(hours=1)
    [row] = await process.tokens.of_user(user)
    assert (row.id, row.name, row.created_at, row.revoked_at) == (issued.id, "laptop", clock.now, None)


async def test_a_token_without_workspace_is_for_all_of_the_users(process: Process, user: str) -> None:
    issued = await process.tokens.issue(user, None, MCP, None)
    identity = await process.tokens.authenticate(issued.token.reveal())
    assert (identity.tenant, identity.expires_at) == (Tenant(user, None), None)


async def test_nobody_gets_a_token_for_what_is_not_theirs(process: Process, user: str) -> None:
    other = f"{user}-other"
    await IdentityStore(process.control).ensure_user(other)
    with pytest.raises(NotFound, match="no user nobody"):
        await process.tokens.issue("nobody", None, MCP, None)
    with pytest.raises(NotFound, match="has no workspace missing") as missing:
        await process.tokens.issue(other, "missing", MCP, None)
    with pytest.raises(NotFound) as others:
        await process.tokens.issue(other, f"{user}-notes", MCP, None)
    assert others.value.message.replace(f"{user}-notes", "missing") == missing.value.message
    for odd in ("a\0b", "\ud800"):
        with pytest.raises(NotFound):
            await process.tokens.issue(odd, None, MCP, None)
        with pytest.raises(NotFound):
            await process.tokens.issue(user, odd, MCP, None)
    assert await process.tokens.of_user(other) == await process.tokens.of_user(user) == []


@pytest.mark.parametrize("seconds", [0, -1, MAX_EXPIRES_IN_S + 1, 10**30])
async def test_a_lifetime_out_of_bounds_is_refused(process: Process, user: str, seconds: int) -> None:
    with pytest.raises(InvalidArgument, match=f"1 to {MAX_EXPIRES_IN_S} seconds, not for {seconds}"):
        await process.tokens.issue(user, None, MCP, seconds)


async def test_the_bounds_themselves_are_allowed(process: Process, user: str, clock: Clock) -> None:
    lives = [await process.tokens.issue(user, None, MCP, seconds) for seconds in (1, MAX_EXPIRES_IN_S)]
    assert [each.expires_at and each.expires_at - clock.now for each in lives] == [
        timedelta(seconds=1),
        timedelta(seconds=MAX_EXPIRES_IN_S),
    ]


async def test_a_token_for_nothing_and_a_name_that_a_terminal_obeys_are_refused(process: Process, user: str) -> None:
    with pytest.raises(InvalidArgument, match="needs a scope"):
        await process.tokens.issue(user, None, [], None)
    for name in ("\x1b[31m", "a\0", "n" * 201, "\ud800"):
        with pytest.raises(InvalidArgument, match="name"):
            await process.tokens.issue(user, None, MCP, None, name)
    assert await process.tokens.of_user(user) == []


# --- what is not accepted -------------------------------------------------------------------------------------------


async def test_unknown_expired_and_revoked_are_refused_alike(process: Process, user: str, clock: Clock) -> None:
    expired, revoked, kept = [await process.tokens.issue(user, None, MCP, life) for life in (60, None, None)]
    assert await process.tokens.revoke(revoked.id)
    clock.now += timedelta(seconds=60)
    refusals = set()
    presented = [expired.token.reveal(), revoked.token.reveal(), UNKNOWN, "", "adb_", "ü" * 47, "\ud800", "a\0b"]
    presented += [kept.token.reveal()[:-1], kept.token.reveal() + "\n", f" {kept.token.reveal()}", kept.id]
    for text in presented:
        with pytest.raises(NotAuthenticated) as refused:
            await process.tokens.authenticate(text)
        refusals.add(repr(refused.value.as_dict()))
    assert len(refusals) == 1
    assert await process.accepts(kept)


async def test_a_token_expires_while_it_is_remembered(servers: list[Process], user: str, clock: Clock) -> None:
    issued = await servers[0].tokens.issue(user, None, MCP, 10)
    await remembered(servers[0], issued)
    clock.now += timedelta(seconds=9.999)
    assert await servers[0].asks_nothing(issued)
    clock.now += timedelta(seconds=0.001)
    assert not await servers[0].accepts(issued)


async def test_revoking_again_changes_nothing_and_what_is_anothers_does_not_exist(
    process: Process, user: str, clock: Clock
) -> None:
    issued = await process.tokens.issue(user, None, MCP, None)
    for token_id in ("missing", "a\0b", "\ud800", issued.id.upper(), issued.token.reveal()):
        assert not await process.tokens.revoke(token_id)
    assert not await process.tokens.revoke(issued.id, user_id="somebody else")
    assert not await process.tokens.revoke(issued.id, user_id="a\0b")
    assert await process.accepts(issued)
    assert await process.tokens.revoke(issued.id, user_id=user)
    first = clock.now
    clock.now += timedelta(hours=1)
    assert await process.tokens.revoke(issued.id)
    assert [row.revoked_at for row in await process.tokens.of_user(user)] == [first]


# --- in every process at once ---------------------------------------------------------------------------------------


async def test_what_one_process_revokes_all_refuse(servers: list[Process], user: str) -> None:
    issued = [await servers[0].tokens.issue(user, None, MCP, None) for _ in range(20)]
    for server in servers:
        for each in issued:
            await remembered(server, each)
    for each in issued[1:]:
        assert await servers[0].tokens.revoke(each.id)
        assert not await servers[0].accepts(each)
    for each in issued[1:]:
        await until(lambda each=each: refuses(servers[1], each))  # type: ignore[misc]
    assert await servers[1].accepts(issued[0])


async def refuses(process: Process, issued: IssuedToken) -> bool:
    return not await process.accepts(issued, source=issued.id)


async def test_a_user_whom_the_platform_deletes_has_no_token_left(
    servers: list[Process], user: str, admin: asyncpg.Connection
) -> None:
    """Deleting the row is all that the platform does: nobody calls us."""
    bound = await servers[0].tokens.issue(user, f"{user}-notes", MCP, None)
    free = await servers[0].tokens.issue(user, None, MCP, None)
    for server in servers:
        await remembered(server, bound)
        await remembered(server, free)
    await admin.execute("DELETE FROM workspace WHERE id = $1", f"{user}-notes")
    for server in servers:
        await until(lambda server=server: refuses(server, bound))  # type: ignore[misc]
        assert await server.accepts(free)
    await admin.execute('DELETE FROM "user" WHERE id = $1', user)
    for server in servers:
        await until(lambda server=server: refuses(server, free))  # type: ignore[misc]
    assert await admin.fetchval("SELECT count(*) FROM agentdb_token WHERE user_id = $1", user) == 0


@asynccontextmanager
async def closed_to_new_connections(superuser: asyncpg.Connection, uri: Secret) -> AsyncIterator[None]:
    name = uri.reveal().rpartition("/")[2]
    await superuser.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        yield
    finally:
        await superuser.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


async def test_a_server_whose_listener_is_cut_takes_nothing_from_memory(
    servers: list[Process], process: Process, user: str, superuser: asyncpg.Connection, uri: Secret
) -> None:
    """It cannot come back either: of what is revoked then, no notice tells it."""
    revoked, kept = [await process.tokens.issue(user, None, MCP, None) for _ in range(2)]
    for each in (revoked, kept):
        await remembered(servers[0], each)
    async with closed_to_new_connections(superuser, uri):
        await cut(superuser, uri, "agentdb-mcp listener")
        await process.tokens.revoke(revoked.id)
        assert not await servers[0].accepts(revoked)
        for _ in range(2):
            assert not await servers[0].asks_nothing(kept)
            assert await servers[0].accepts(kept)
    await remembered(servers[0], kept)
    assert not await servers[0].accepts(revoked)


async def test_what_is_revoked_while_the_listener_is_away_is_refused_once_it_is_back(
    servers: list[Process], process: Process, user: str, superuser: asyncpg.Connection, uri: Secret
) -> None:
    """Nobody presents the token meanwhile: only the memory of it could let it in."""
    revoked, other = [await process.tokens.issue(user, None, MCP, None) for _ in range(2)]
    await remembered(servers[0], revoked)
    async with closed_to_new_connections(superuser, uri):
        await cut(superuser, uri, "agentdb-mcp listener")
        await process.tokens.revoke(revoked.id)
    await remembered(servers[0], other)  # it listens again
    assert not await servers[0].accepts(revoked)


async def test_while_the_control_database_is_away_nobody_is_let_in_and_all_may_try_again(
    servers: list[Process], process: Process, user: str, superuser: asyncpg.Connection, uri: Secret
) -> None:
    issued = await process.tokens.issue(user, None, MCP, None)
    await remembered(servers[0], issued)
    async with closed_to_new_connections(superuser, uri):
        await cut(superuser, uri)
        for token in (issued.token.reveal(), UNKNOWN) * 15:
            with pytest.raises(DatabaseUnavailable, match="cannot be checked now") as refused:
                await servers[0].tokens.authenticate(token, source="a")
            assert refused.value.retryable
    assert await servers[0].accepts(issued, source="a")
    with pytest.raises(NotAuthenticated):  # what nobody could check did not count as failed
        await servers[0].tokens.authenticate(UNKNOWN, source="a")


async def test_a_token_revoked_while_it_is_looked_up_is_not_remembered(
    servers: list[Process], process: Process, user: str
) -> None:
    issued = await process.tokens.issue(user, None, MCP, None)
    other = await process.tokens.issue(user, None, MCP, None)
    await remembered(servers[0], other)
    read, told = anyio.Event(), anyio.Event()

    async def after_reading() -> None:
        read.set()
        await told.wait()

    servers[0].store.after_reading[issued.token] = after_reading
    async with anyio.create_task_group() as group:
        group.start_soon(servers[0].accepts, issued)
        await read.wait()
        await process.tokens.revoke(issued.id)
        await process.tokens.revoke(other.id)
        await until(lambda: refuses(servers[0], other))  # so its notice, and the one before, have come
        told.set()
    assert not await servers[0].accepts(issued)


async def test_behind_a_pooler_that_delivers_no_notice_nothing_is_taken_from_memory(
    process: Process, user: str, uri: Secret, clock: Clock, postgres: EmbeddedPostgres
) -> None:
    """To listen is answered as ever there."""
    issued, other = [await process.tokens.issue(user, None, MCP, None) for _ in range(2)]
    async with without_notices(postgres.port) as (port, withheld):
        pooled = Process(Secret(uri.reveal().replace(f":{postgres.port}/", f":{port}/") + "?sslmode=disable"), clock)
        async with pooled.tokens.following():
            await withheld.wait()
            await process.tokens.revoke(other.id)
            assert await pooled.accepts(issued)
            assert not await pooled.asks_nothing(issued)
            await process.tokens.revoke(issued.id)
            assert not await pooled.accepts(issued)
        await pooled.control.close()


async def test_without_following_every_check_asks(process: Process, user: str) -> None:
    issued = await process.tokens.issue(user, None, MCP, None)
    for _ in range(3):
        assert not await process.asks_nothing(issued)


async def test_a_token_is_looked_up_again_after_a_minute(servers: list[Process], user: str, clock: Clock) -> None:
    issued = await servers[0].tokens.issue(user, None, MCP, None)
    await remembered(servers[0], issued)
    clock.seconds += FRESH_S
    assert not await servers[0].asks_nothing(issued)
    assert await servers[0].asks_nothing(issued)


# --- failed tries ---------------------------------------------------------------------------------------------------


async def test_a_client_that_guesses_is_stopped_before_the_control_database_is_asked(process: Process) -> None:
    outcomes: list[str] = []

    async def guess(number: int) -> None:
        try:
            await process.tokens.authenticate(f"adb_{number:043}", source="guesser")
        except AgentDBError as error:
            outcomes.append(error.code)

    async with anyio.create_task_group() as group:
        for number in range(200):
            group.start_soon(guess, number)
    assert outcomes.count("not_authenticated") + outcomes.count("rate_limited") == 200
    assert 20 <= process.store.lookups <= 20 + LOOKUPS
    with pytest.raises(RateLimited):
        await process.tokens.authenticate("no token at all", source="guesser")
    with pytest.raises(NotAuthenticated):
        await process.tokens.authenticate(UNKNOWN, source="somebody else")


@pytest.mark.parametrize("following", [True, False])
async def test_who_was_let_in_before_passes_beside_a_guesser_at_the_same_address(
    process: Process, servers: list[Process], user: str, clock: Clock, following: bool
) -> None:
    """New ones wait. An hour and a dozen guesses later that is the same."""
    server = servers[0] if following else process
    good, new = [await server.tokens.issue(user, None, MCP, None) for _ in range(2)]
    if following:
        await remembered(server, good)
    else:
        assert await server.accepts(good) is True
    for _ in range(20):
        with pytest.raises(NotAuthenticated):
            await server.tokens.authenticate(UNKNOWN, source="office")
    assert await server.accepts(good, source="office")
    clock.seconds += 59
    assert await server.accepts(good, source="office")
    with pytest.raises(RateLimited):
        await server.accepts(new, source="office")
    assert await server.accepts(new, source="elsewhere")
    clock.seconds += 1
    assert await server.accepts(new, source="office")


async def test_a_token_that_was_let_in_before_it_was_revoked_passes_no_limit(
    process: Process, servers: list[Process], user: str
) -> None:
    issued = await process.tokens.issue(user, None, MCP, None)
    assert await process.accepts(issued, source="a")
    assert await servers[0].tokens.revoke(issued.id)
    for _ in range(20):
        assert not await process.accepts(issued, source="a")
    with pytest.raises(RateLimited):
        await process.accepts(issued, source="a")


# --- many at once ---------------------------------------------------------------------------------------------------


async def test_many_calls_with_a_new_token_ask_once_or_twice(servers: list[Process], user: str) -> None:
    first, issued = [await servers[0].tokens.issue(user, None, MCP, None) for _ in range(2)]
    await remembered(servers[0], first)
    before = servers[0].store.lookups
    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(servers[0].accepts, issued)
    assert servers[0].store.lookups - before <= LOOKUPS
    assert await servers[0].asks_nothing(issued)


async def test_tokens_issued_used_and_revoked_at_once_stay_apart(
    servers: list[Process], user: str, process: Process
) -> None:
    wrong: list[str] = []

    async def live(number: int) -> None:
        server, other = servers[number % 2], servers[1 - number % 2]
        issued = await server.tokens.issue(user, None, MCP, None, f"n{number}")
        for each in (server, other):
            identity = await each.tokens.authenticate(issued.token.reveal(), source=issued.id)
            if identity.token_id != issued.id:
                wrong.append(issued.id)
        if number % 3:
            await server.tokens.revoke(issued.id)
            await until(lambda: refuses(other, issued))
        elif not await other.accepts(issued):
            wrong.append(issued.id)

    async with anyio.create_task_group() as group:
        for number in range(60):
            group.start_soon(live, number)
    assert wrong == []
    rows = await process.tokens.of_user(user)
    assert sum(row.revoked_at is None for row in rows) == 20


async def test_what_is_remembered_is_bounded(
    servers: list[Process], user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentdb_mcp.services.tokens.MAX_KNOWN", 3)
    issued = [await servers[0].tokens.issue(user, None, MCP, None) for _ in range(5)]
    for each in issued:
        await remembered(servers[0], each)
    assert len(servers[0].tokens._known) == len(servers[0].tokens._hashes) == 3
    assert [await servers[0].asks_nothing(each) for each in reversed(issued)] == [True, True, True, False, False]


# --- last used ------------------------------------------------------------------------------------------------------


async def last_used(process: Process, user: str) -> list[datetime | None]:
    return [row.last_used_at for row in await process.tokens.of_user(user)]


async def test_last_use_is_stored_when_the_server_ends(process: Process, user: str, clock: Clock) -> None:
    async with process.tokens.following():
        issued = await process.tokens.issue(user, None, MCP, None)
        assert await last_used(process, user) == [None]
        for _ in range(3):
            clock.now += timedelta(seconds=1)
            assert await process.accepts(issued)
        assert await last_used(process, user) == [None]
    assert await last_used(process, user) == [clock.now]


async def test_last_use_is_stored_when_the_server_is_cancelled(process: Process, user: str, clock: Clock) -> None:
    issued = await process.tokens.issue(user, None, MCP, None)
    with anyio.CancelScope() as scope:
        async with process.tokens.following():
            assert await process.accepts(issued)
            scope.cancel()
            await anyio.sleep_forever()
    assert await last_used(process, user) == [clock.now]


async def test_last_use_is_stored_while_the_server_runs(
    process: Process, user: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentdb_mcp.services.tokens.FLUSH_S", 0.01)
    issued = await process.tokens.issue(user, None, MCP, None)

    async def stored() -> bool:
        return await last_used(process, user) == [clock.now]

    async with process.tokens.following():
        assert await process.accepts(issued)
        await until(stored)


async def test_the_latest_use_of_all_servers_is_kept(servers: list[Process], user: str, clock: Clock) -> None:
    issued = await servers[0].tokens.issue(user, None, MCP, None)
    assert await servers[0].accepts(issued)
    clock.now += timedelta(seconds=5)
    latest = clock.now
    assert await servers[1].accepts(issued)
    await servers[1].tokens.flush()
    await servers[0].tokens.flush()
    assert await last_used(servers[0], user) == [latest]


async def test_use_that_cannot_be_stored_now_is_stored_later(
    process: Process, user: str, clock: Clock, superuser: asyncpg.Connection, uri: Secret
) -> None:
    issued = await process.tokens.issue(user, None, MCP, None)
    assert await process.accepts(issued)
    async with closed_to_new_connections(superuser, uri):
        await cut(superuser, uri)
        await process.tokens.flush()
    await process.tokens.flush()
    assert await last_used(process, user) == [clock.now]


# --- what stays -----------------------------------------------------------------------------------------------------


async def test_the_control_database_has_hashes_alone(process: Process, user: str, admin: asyncpg.Connection) -> None:
    issued = await process.tokens.issue(user, f"{user}-notes", [TokenScope.MCP, TokenScope.EXPLORER], 3600, "n")
    token = issued.token.reveal()
    assert await process.accepts(issued)
    await process.tokens.flush()
    tables = await admin.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    held = ""
    for (table,) in tables:
        held += "".join(row[0] for row in await admin.fetch(f'SELECT t::text FROM "{table}" AS t'))
    assert hashlib.sha256(token.encode()).hexdigest() in held
    for form in (token, token[4:], token.encode().hex(), token[4:].encode().hex()):
        assert form not in held


async def test_no_log_and_no_repr_shows_a_token(
    process: Process, user: str, superuser: asyncpg.Connection, uri: Secret, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    issued = await process.tokens.issue(user, None, MCP, None, "n")
    shown = [repr(issued), repr(process.tokens)]
    async with process.tokens.following():
        shown.append(repr(await process.tokens.authenticate(issued.token.reveal())))
        async with closed_to_new_connections(superuser, uri):
            await cut(superuser, uri)
            with pytest.raises(DatabaseUnavailable) as away:
                await process.tokens.authenticate(issued.token.reveal())
            with pytest.raises(DatabaseUnavailable):
                await process.tokens.authenticate(UNKNOWN)
        await process.tokens.revoke(issued.id)
        with pytest.raises(NotAuthenticated) as refused:
            await process.tokens.authenticate(issued.token.reveal())
    shown += [repr(refused.value), repr(away.value), repr(await process.tokens.of_user(user)), caplog.text]
    assert "token not checked" in caplog.text
    for text in shown:
        assert issued.token.reveal()[4:20] not in text
        assert UNKNOWN not in text


async def test_what_ended_a_month_ago_is_deleted_and_nothing_else(process: Process, user: str, clock: Clock) -> None:
    for name, life in (("expired", 60), ("revoked", None), ("expiring", 40 * 86_400), ("endless", None)):
        issued = await process.tokens.issue(user, None, MCP, life, name)
        if name == "revoked":
            await process.tokens.revoke(issued.id)
    clock.now += timedelta(days=30, seconds=1)
    await process.tokens.prune()
    assert {row.name for row in await process.tokens.of_user(user)} == {"expired", "expiring", "endless"}
    clock.now += timedelta(seconds=60)
    await process.tokens.prune()
    assert {row.name for row in await process.tokens.of_user(user)} == {"expiring", "endless"}
    clock.now += timedelta(days=20)
    await process.tokens.prune()
    assert {row.name for row in await process.tokens.of_user(user)} == {"expiring", "endless"}
