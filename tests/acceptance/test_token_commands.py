"""`tokens create`, `list` and `revoke` as people and scripts use them."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from agentdb_mcp.local_stack import LocalStack

if TYPE_CHECKING:
    from tests.acceptance.conftest import CommandFactory

TOKEN = re.compile(r"adb_[A-Za-z0-9_-]{43}")


@pytest.fixture(scope="module")
async def environ(stack: LocalStack, command: CommandFactory) -> dict[str, str]:
    """With a user `ada` and a workspace `research`."""
    environ = stack.environ()
    for arguments in (("users", "create", "ada"), ("workspaces", "create", "research", "--user", "ada")):
        done = await command(environ, *arguments)
        assert done.code == 0, done.err
    return environ


async def test_the_token_alone_is_on_stdout_and_only_once(command: CommandFactory, environ: dict[str, str]) -> None:
    made = await command(environ, "tokens", "create", "ada", "--name", "laptop \N{SNOWMAN}")
    assert made.code == 0, made.err
    assert TOKEN.fullmatch(made.out.rstrip("\n"))
    assert "for mcp, valid until it is revoked. It is not shown again" in made.err
    listed = await command(environ, "tokens", "list", "ada")
    assert (listed.code, listed.err) == (0, "")
    assert all(word in listed.out for word in ("laptop ☃", "mcp", "until revoked", "never"))
    assert max(map(len, listed.out.splitlines())) <= 80
    assert not TOKEN.search(made.err + listed.out)


async def test_as_json_with_everything(command: CommandFactory, environ: dict[str, str]) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    made = await command(
        environ, "tokens", "create", "ada", "--workspace", "research", "--scope", "explorer", "--scope", "mcp",
        "--expires-in", "12h", "--json",
    )  # fmt: skip
    assert (made.code, made.err) == (0, "")
    fields = json.loads(made.out)
    assert TOKEN.fullmatch(fields.pop("token"))
    expires_at = fields.pop("expires_at")
    assert before <= datetime.fromisoformat(expires_at) - timedelta(hours=12) <= datetime.now(UTC)
    token_id = fields.pop("id")
    assert fields == {"user_id": "ada", "workspace_id": "research", "scopes": ["mcp", "explorer"]}
    assert "research" in (await command(environ, "tokens", "list", "ada")).out

    revoked = await command(environ, "tokens", "revoke", token_id)
    assert (revoked.code, revoked.out, revoked.err) == (0, f"Token {token_id} is revoked.\n", "")
    again = await command(environ, "tokens", "revoke", token_id, "--json")
    assert json.loads(again.out) == {"id": token_id, "revoked": True}
    listed = json.loads((await command(environ, "tokens", "list", "ada", "--json")).out)["tokens"]
    [row] = [row for row in listed if row["id"] == token_id]
    assert (row["state"], row["expires_at"], row["last_used_at"]) == ("revoked", expires_at, None)
    assert row["revoked_at"] >= row["created_at"]
    assert not TOKEN.search(json.dumps(listed))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("create", "nobody"), 1, "There is no user nobody. Create it first."),
        (("create", "ada", "--expires-in", "soon"), 2, "'soon' is no duration"),
        (("create", "ada", "--scope", "root"), 2, "'root' is not one of 'mcp', 'explorer', 'admin'"),
        (("revoke", "missing"), 1, "There is no token missing. `agentdb-mcp tokens list USER` shows their ids."),
    ],
)
async def test_what_cannot_be_done_is_one_line(
    command: CommandFactory, environ: dict[str, str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = await command(environ, "tokens", *arguments)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert len(done.err.splitlines()) == 1


async def test_a_user_without_tokens_has_none(command: CommandFactory, environ: dict[str, str]) -> None:
    assert (await command(environ, "tokens", "list", "nobody")).out == "No token.\n"
