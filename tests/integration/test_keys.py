"""Rotation of the keys that connection strings are stored under."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import anyio
import pytest

from agentdb_mcp.credentials.cipher import Cipher
from agentdb_mcp.errors import ConfigurationError
from agentdb_mcp.models import Secret
from agentdb_mcp.services import Keys, KeysReport
from agentdb_mcp.services.keys import BATCH
from agentdb_mcp.store import ConnectionStrings, ControlDatabase, StoredString

OLD, NEW, LOST = (Secret(secrets.token_hex(32)) for _ in range(3))
COUNT = BATCH + 50


def uri(number: int) -> Secret:
    return Secret(f"postgresql://admin:secret-{number}@host/db")


@pytest.fixture
async def control(empty_database: Secret) -> AsyncIterator[ControlDatabase]:
    control = ControlDatabase(empty_database)
    yield control
    await control.close()


@pytest.fixture
async def strings(control: ControlDatabase) -> ConnectionStrings:
    """Global databases of many users under the old key, one of them in the documents' form, one agent's, one empty."""
    old = Cipher([OLD])
    stored = [old.encrypt(uri(number)) for number in range(COUNT)]
    stored[0] = ":".join(stored[0].split(":")[part] for part in (0, 2, 1))
    async with control.transaction() as connection:
        await connection.executemany('INSERT INTO "user" (id) VALUES ($1)', [(f"u{n}",) for n in range(COUNT)])
        await connection.executemany(
            "INSERT INTO user_global_database (user_id, project_name, neon_connection_uri) VALUES ($1, $1, $2)",
            [(f"u{number}", text) for number, text in enumerate(stored)],
        )
        await connection.execute("INSERT INTO workspace (id, name, owner_id) VALUES ('w', 'w', 'u0'), ('v', 'v', 'u0')")
        await connection.execute(
            "INSERT INTO workspace_database (workspace_id, user_id, project_name, neon_connection_uri)"
            " VALUES ('w', 'u0', 'w', $1), ('v', 'u0', 'v', NULL)",
            old.encrypt(uri(COUNT)),
        )
    return ConnectionStrings(control)


async def opened(strings: ConnectionStrings, cipher: Cipher) -> set[str]:
    return {cipher.decrypt(each.stored).reveal() async for batch in strings.batches(100) for each in batch}


ALL = {uri(number).reveal() for number in range(COUNT + 1)}


async def test_all_rows_are_under_the_first_key_afterwards_and_the_old_one_can_go(strings: ConnectionStrings) -> None:
    keys = Keys(strings, Cipher([NEW, OLD]))
    assert await keys.check() == KeysReport(current=0, older=COUNT + 1)
    assert await keys.rotate() == KeysReport(current=COUNT + 1, rotated=COUNT + 1)
    assert await opened(strings, Cipher([NEW])) == ALL
    assert await keys.rotate() == KeysReport(current=COUNT + 1, rotated=0)


async def test_an_older_form_under_the_first_key_is_written_anew_too(strings: ConnectionStrings) -> None:
    assert await Keys(strings, Cipher([OLD])).rotate() == KeysReport(current=COUNT + 1, rotated=1)


async def test_a_rotation_that_is_stopped_goes_on_where_it_was(strings: ConnectionStrings) -> None:
    keys = Keys(strings, Cipher([NEW, OLD]))
    with anyio.CancelScope() as scope:
        await keys.rotate(lambda done: scope.cancel() if done > 1 else None)
    half = await keys.check()
    assert half.current
    assert half.older
    assert await opened(strings, Cipher([NEW, OLD])) == ALL
    assert (await keys.rotate()).rotated == half.older
    assert await opened(strings, Cipher([NEW])) == ALL


async def test_a_row_that_changed_meanwhile_keeps_what_it_was_changed_to(
    strings: ConnectionStrings, control: ControlDatabase
) -> None:
    [[seen, *_], *_] = [batch async for batch in strings.batches(10)]
    later = Cipher([OLD]).encrypt(Secret("postgresql://later"))
    async with control.connection() as connection:
        await connection.execute(f"UPDATE {seen.table} SET neon_connection_uri = $2 WHERE id = $1", seen.row_id, later)
    assert await strings.replace([(seen, "overwritten")]) == 0
    await Keys(strings, Cipher([NEW, OLD])).rotate()
    assert "postgresql://later" in await opened(strings, Cipher([NEW]))


async def test_rows_under_a_lost_key_are_counted_and_left_as_they_are(strings: ConnectionStrings) -> None:
    [[first, *_], *_] = [batch async for batch in strings.batches(10)]
    lost = Cipher([LOST]).encrypt(uri(0))
    await strings.replace([(first, lost), (StoredString(first.table, "nobody", "x"), "y")])
    keys = Keys(strings, Cipher([NEW, OLD]))
    assert await keys.rotate() == KeysReport(current=COUNT, unreadable=1, rotated=COUNT)
    assert lost in {each.stored async for batch in strings.batches(100) for each in batch}


async def test_without_any_key_nothing_is_rotated(strings: ConnectionStrings) -> None:
    with pytest.raises(ConfigurationError, match="AGENTDB_ENCRYPTION_KEYS"):
        await Keys(strings, None).rotate()
