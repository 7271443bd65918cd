"""One bounded set of connections for all databases of a process, and fair turns where it is too small."""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import asyncpg
import pytest

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.errors import DatabaseUnavailable
from agentdb_mcp.execution import Call, Pools, PoolSettings, Statement
from agentdb_mcp.models import DatabaseTarget, Limits, Secret

LIMITS = Limits(timeout_s=20, max_rows=100, max_bytes=100_000)
HELD = "SELECT pg_advisory_xact_lock(815)"
Opener = Callable[..., Pools]


def without_tls(uri: Secret) -> Secret:
    return Secret(f"{uri.reveal()}?sslmode=disable")


@pytest.fixture(scope="module")
async def databases(postgres: EmbeddedPostgres) -> AsyncIterator[dict[str, DatabaseTarget]]:
    """Four databases with plain logins, by letters; the driver complains of a negotiation of TLS that is cancelled."""
    names = {letter: f"pool_{letter}_{secrets.token_hex(4)}" for letter in "abcd"}
    superuser = await asyncpg.connect(postgres.uri().reveal())
    for name in names.values():
        await superuser.execute(f"CREATE DATABASE {name}")
    yield {letter: DatabaseTarget(letter, without_tls(postgres.uri(name))) for letter, name in names.items()}
    for name in names.values():
        await superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await superuser.close()


@pytest.fixture
async def opened() -> AsyncIterator[Opener]:
    async with AsyncExitStack() as exits:

        def open_pools(**settings: float) -> Pools:
            pools = Pools(PoolSettings(**{"grace_s": 1.0} | settings))  # type: ignore[arg-type]
            exits.push_async_callback(pools.close)
            return pools

        yield open_pools


async def run(pools: Pools, target: DatabaseTarget, sql: str = "SELECT 1") -> list[list[object]]:
    return (await pools.run(target, Call([Statement(sql)], LIMITS)))[0].rows


@pytest.fixture
def connected(superuser: asyncpg.Connection, databases: dict[str, DatabaseTarget]) -> Callable[[], Awaitable[str]]:
    """The letters of the databases to which there are connections, one for each."""

    async def look() -> str:
        rows = await superuser.fetch(
            "SELECT datname FROM pg_stat_activity"
            " WHERE application_name = 'agentdb-mcp' AND starts_with(datname, 'pool_')"
        )
        return "".join(sorted(row["datname"][5] for row in rows))

    return look


async def until(look: Callable[[], Awaitable[str]], wanted: str) -> None:
    with anyio.fail_after(20):
        while await look() != wanted:
            await anyio.sleep(0.02)


@asynccontextmanager
async def held_up(pools: Pools, target: DatabaseTarget) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """A call of the database's that runs until what is given is called."""
    key = target.uri.reveal()
    holder = await asyncpg.connect(key)
    await holder.execute("SELECT pg_advisory_lock(815)")
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(run, pools, target, HELD)
            with anyio.fail_after(20):
                while not await holder.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted AND objid = 815"):
                    await anyio.sleep(0.01)
            yield lambda: holder.execute("SELECT pg_advisory_unlock_all()")
            await holder.execute("SELECT pg_advisory_unlock_all()")
    finally:
        await holder.close()


async def test_a_connection_that_was_idle_longest_makes_room(
    opened: Opener, databases: dict[str, DatabaseTarget], connected: Callable[[], Awaitable[str]]
) -> None:
    pools = opened(size=2, max_connections=3)
    for letter in "abca":
        await run(pools, databases[letter])
    await run(pools, databases["d"])
    await until(connected, "acd")
    await run(pools, databases["b"])
    await until(connected, "abd")


async def test_there_are_never_more_than_the_most_connections(
    opened: Opener, databases: dict[str, DatabaseTarget], superuser: asyncpg.Connection
) -> None:
    pools = opened(size=4, max_connections=3)
    seen: list[int] = []

    async def call(letter: str) -> None:
        await run(pools, databases[letter], "SELECT pg_sleep(0.002)")
        seen.append(len(pools._connections._slots))

    async with anyio.create_task_group() as group:
        for letter in "abcd" * 15:
            group.start_soon(call, letter)
    assert len(seen) == 60
    assert max(seen) == 3


async def test_many_waiting_calls_of_one_database_do_not_hold_up_anothers_first(
    opened: Opener, databases: dict[str, DatabaseTarget]
) -> None:
    pools = opened(size=4, max_connections=1)
    order: list[str] = []

    async def call(letter: str) -> None:
        await run(pools, databases[letter])
        order.append(letter)

    async with held_up(pools, databases["a"]) as go_on, anyio.create_task_group() as group:
        for letter in "a" * 64 + "b":  # they begin in this order
            group.start_soon(call, letter)
        await anyio.wait_all_tasks_blocked()
        await go_on()
    assert order.index("b") <= 1
    assert Counter(order) == {"a": 64, "b": 1}


async def test_databases_take_turns_and_calls_of_one_keep_their_order(
    opened: Opener, databases: dict[str, DatabaseTarget]
) -> None:
    pools = opened(size=1, max_connections=1)
    order: list[str] = []

    async def call(letter: str, number: int) -> None:
        await run(pools, databases[letter])
        order.append(f"{letter}{number}")

    async with held_up(pools, databases["d"]) as go_on, anyio.create_task_group() as group:
        for letter in "abc":
            for number in range(3):
                group.start_soon(call, letter, number)
                await anyio.wait_all_tasks_blocked()
        await go_on()
    assert order == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]


@pytest.mark.parametrize(
    ("letter", "settings", "busy"),
    [("b", {"max_connections": 1}, "server"), ("a", {"size": 1, "max_connections": 9}, "database")],
)
async def test_who_waits_too_long_is_told_what_is_busy_and_to_try_again(
    opened: Opener, databases: dict[str, DatabaseTarget], letter: str, settings: dict[str, int], busy: str
) -> None:
    pools = opened(acquire_timeout_s=0.05, **settings)
    async with held_up(pools, databases["a"]):
        with pytest.raises(DatabaseUnavailable, match=f"All sessions of the {busy} are busy") as waited:
            await run(pools, databases[letter])
    assert waited.value.retryable
    assert await run(pools, databases[letter]) == [[1]]


async def test_whoever_stops_waiting_leaves_the_turn_to_the_next(
    opened: Opener, databases: dict[str, DatabaseTarget]
) -> None:
    pools = opened(size=1, max_connections=1)
    answers: list[list[list[object]]] = []

    async def call() -> None:
        answers.append(await run(pools, databases["b"]))

    async with held_up(pools, databases["a"]) as go_on, anyio.create_task_group() as group:
        async with anyio.create_task_group() as leaving:
            for letter in "abc":
                leaving.start_soon(run, pools, databases[letter])
            await anyio.wait_all_tasks_blocked()
            group.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            leaving.cancel_scope.cancel()
        await go_on()
    assert answers == [[[1]]]
    assert not pools._connections._waiting


async def test_calls_that_are_cancelled_at_any_moment_cost_no_connection(
    opened: Opener, databases: dict[str, DatabaseTarget]
) -> None:
    pools = opened(size=2, max_connections=3)
    dice = random.Random(6)

    async def call() -> None:
        with anyio.move_on_after(dice.choice([0, 0.001, 0.01, 0.05, 5])):
            await run(pools, databases[dice.choice("abcd")], f"SELECT pg_sleep({dice.random() / 100})")

    async with anyio.create_task_group() as group:
        for _ in range(150):
            group.start_soon(call)
            await anyio.sleep(0.002)
    connections = pools._connections
    assert not connections._waiting
    assert set(connections._idle) == connections._slots
    for letter in "abcd":
        assert await run(pools, databases[letter]) == [[1]]


async def test_what_nobody_uses_is_closed_and_forgotten_and_what_is_used_is_not(
    opened: Opener, databases: dict[str, DatabaseTarget], connected: Callable[[], Awaitable[str]]
) -> None:
    pools = opened(idle_s=0.2)
    async with held_up(pools, databases["a"]):
        for letter in "bcb":
            await run(pools, databases[letter])
        await until(connected, "a")
        assert list(pools._connections._databases) == ["a"]
    await until(connected, "")
    assert not pools._connections._databases
    assert pools._connections._timer is None


async def test_what_is_idle_closes_when_its_time_is_over_and_one_timer_does_for_all(
    opened: Opener, databases: dict[str, DatabaseTarget]
) -> None:
    pools = opened(idle_s=3600)
    for letter in "aba":
        await run(pools, databases[letter])
    connections = pools._connections
    assert [slot.database.key for slot in connections._idle] == ["b", "a"]
    for slot in list(connections._idle):
        loop_time = slot.idle_until
        connections._close_idle(_At(loop_time - 0.001))  # type: ignore[arg-type]
        assert slot in connections._idle
        connections._close_idle(_At(loop_time))  # type: ignore[arg-type]
        assert slot not in connections._idle


class _At:
    """A loop at another time."""

    def __init__(self, now: float) -> None:
        self._now = now

    def time(self) -> float:
        return self._now


async def test_thousands_of_databases_in_rotation_leave_nothing_behind(
    opened: Opener, databases: dict[str, DatabaseTarget]
) -> None:
    pools = opened(max_connections=5)
    one = databases["a"]
    for number in range(400):
        await run(pools, DatabaseTarget(f"tenant-{number}", one.uri))
    connections = pools._connections
    assert len(connections._databases) == len(connections._slots) == len(connections._idle) == 5
    assert not connections._waiting


async def test_of_a_database_that_is_forgotten_what_is_idle_closes_at_once_and_the_rest_after_its_call(
    opened: Opener, databases: dict[str, DatabaseTarget], connected: Callable[[], Awaitable[str]]
) -> None:
    pools = opened()
    await run(pools, databases["b"])
    async with held_up(pools, databases["a"]):
        async with anyio.create_task_group() as group:
            group.start_soon(run, pools, databases["a"])
        await until(connected, "aab")
        pools.forget("a")
        pools.forget("no such database")
        await until(connected, "ab")
    await until(connected, "b")


async def test_whoever_waits_when_the_server_ends_is_told_so(
    opened: Opener, databases: dict[str, DatabaseTarget]
) -> None:
    pools = opened(max_connections=1)
    errors: list[DatabaseUnavailable] = []

    async def call() -> None:
        with pytest.raises(DatabaseUnavailable, match="shutting down") as refused:
            await run(pools, databases["b"])
        errors.append(refused.value)

    async with held_up(pools, databases["a"]) as go_on, anyio.create_task_group() as group:
        group.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as closing:
            closing.start_soon(pools.close)
            await anyio.wait_all_tasks_blocked()
            await go_on()
    await call()
    assert [error.retryable for error in errors] == [True, True]


@pytest.mark.parametrize(("size", "most"), [(2, 2), (1, 2), (1, 8), (2, 3)])
async def test_calls_that_take_two_connections_end_whatever_order_they_ask_in(
    opened: Opener, databases: dict[str, DatabaseTarget], size: int, most: int
) -> None:
    pools = opened(size=size, max_connections=most)
    ended = Counter[str]()

    async def two(first: str, second: str) -> None:
        for _ in range(3):
            async with pools.two_slots(databases[first], databases[second]) as slots:
                assert [slot.database.key for slot in slots] == [first, second]
                for key, slot in zip((first, second), slots, strict=True):
                    await pools.run(databases[key], Call([Statement("SELECT 1")], LIMITS), slot)
            ended[first + second] += 1

    async def one(letter: str) -> None:
        for _ in range(5):
            await run(pools, databases[letter])
        ended[letter] += 1

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for first, second in ("ab", "ba", "bc", "cb", "ca", "ac"):
                group.start_soon(two, first, second)
                group.start_soon(one, first)
    pairs, single = ("ab", "ba", "bc", "cb", "ca", "ac"), "abc"
    assert ended == dict.fromkeys(pairs, 3) | dict.fromkeys(single, 2)
