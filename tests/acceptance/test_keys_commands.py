"""`keys rotate` as an operator does it, while an agent works."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.acceptance.conftest import CommandFactory, ServeFactory


async def test_keys_are_rotated_while_an_agent_works_and_the_old_one_is_left_out(
    command: CommandFactory, serve: ServeFactory, tenant: Callable[..., dict[str, str]]
) -> None:
    old = tenant("rita", "rotation")
    first = old["AGENTDB_ENCRYPTION_KEYS"]
    new = secrets.token_hex(32)
    both, after = ({**old, "AGENTDB_ENCRYPTION_KEYS": keys} for keys in (f"{new},{first}", new))
    async with serve(old) as agent:
        await agent.sql("CREATE TABLE notes (id int)")

        lost = await command(after, "keys", "rotate")
        assert lost.code == 1
        assert "1 open with none of the keys" in lost.out
        assert "AGENTDB_ENCRYPTION_KEYS" in lost.out
        doctor = await command(after, "doctor")
        assert "1 of 1 open with none of the keys" in doctor.out + doctor.err

        waiting = await command(both, "keys", "rotate", "--check", "--json")
        assert (waiting.code, json.loads(waiting.out)["older"]) == (1, 1)
        done = await command(both, "keys", "rotate", "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out) == {"current": 1, "older": 0, "unreadable": 0, "rotated": 1, "total": 1}
        await agent.sql("INSERT INTO notes VALUES (1)")
    for output in (lost, doctor, waiting, done):
        assert first not in output.out + output.err
        assert "postgresql://" not in output.out + output.err
    async with serve(after) as agent:
        assert (await agent.sql("SELECT * FROM notes")).rows == [[1]]
