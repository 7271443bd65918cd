"""`agentdb-mcp policy`: what a file says, and what it says to one statement."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import CommandFactory

Written = Callable[[str | None], Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """A policy file of this text, or only its path."""

    def write(text: str | None) -> Path:
        file = tmp_path / "mine.toml"
        if text is not None:
            file.write_text(text)
        return file

    return write


async def explain(command: CommandFactory, sql: str, *options: str) -> dict[str, Any]:
    done = await command({}, "policy", "explain", "--sql", sql, "--json", *options)
    assert done.code == 0, done.err
    fields: dict[str, Any] = json.loads(done.out)
    return fields


async def test_a_read_is_explained_with_its_facts_and_runs_read_only(command: CommandFactory) -> None:
    fields = await explain(command, "SELECT lower(name) FROM shop.customers")
    assert fields["policy"] == "default"
    assert (fields["kinds"], fields["certain"]) == (["read"], True)
    assert fields["objects"] == ["shop.customers"]
    assert "lower" in fields["functions"]
    assert (fields["allowed"], fields["read_only"]) == (True, True)
    assert (fields["code"], fields["message"]) == (None, None)


@pytest.mark.parametrize(
    ("sql", "options", "kind", "code"),
    [
        ("INSERT INTO t VALUES (1)", [], "write", None),
        ("INSERT INTO t VALUES (1)", ["--state", "exceeded"], "write", "budget_exceeded"),
        ("INSERT INTO t VALUES (1)", ["--mode", "restricted"], "write", "statement_refused"),
        ("COPY t FROM '/etc/passwd'", [], "server", "statement_refused"),
        ("SET search_path = x", [], "session", "statement_refused"),
        ("SET search_path = x", ["--transaction"], "session", None),
    ],
)
async def test_a_decision_follows_state_mode_and_transaction(
    command: CommandFactory, sql: str, options: list[str], kind: str, code: str | None
) -> None:
    fields = await explain(command, sql, *options)
    assert kind in fields["kinds"]
    assert (fields["allowed"], fields["code"]) == (code is None, code)
    assert (fields["hint"] is None) == (code is None)


async def test_what_the_gate_cannot_read_says_why_and_what_the_file_makes_of_it(
    command: CommandFactory, written: Written
) -> None:
    sql = "SELECT my_own_function()"
    assert (await explain(command, sql))["read_only"] is False
    policy_file = written('name = "careful"\nversion = "1"\n[statements.ok]\nunknown = "read_only"\n')
    fields = await explain(command, sql, "--file", str(policy_file))
    assert (fields["policy"], fields["certain"], fields["read_only"]) == ("careful", False, True)
    assert "unknown" in fields["kinds"]
    assert "my_own_function" in fields["why"]


async def test_people_get_lines_instead_of_json(command: CommandFactory) -> None:
    done = await command({}, "policy", "explain", "--sql", "VACUUM")
    assert done.code == 0
    lines = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert lines["kinds"] == "server"
    assert lines["allowed"] == "no"
    assert lines["code"] == "statement_refused"
    assert lines["message"].endswith(".")
    assert "autovacuum" in lines["hint"]


async def test_a_text_that_must_not_be_parsed_is_one_line_and_no_traceback(command: CommandFactory) -> None:
    done = await command({}, "policy", "explain", "--sql", "SELECT 1; SELECT 2")
    assert done.code == 1
    assert "The text holds 2 statements" in done.one_line


async def test_a_valid_file_is_named_with_its_policy(fresh_command: CommandFactory, written: Written) -> None:
    policy_file = written('name = "mine"\nversion = "7"\n[tiers]\nfree = 300\n')
    done = await fresh_command({}, "policy", "check", str(policy_file))
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{policy_file}: policy mine, version 7, prices neon-launch-2026-11, is valid.\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "x"\n[limits]\ntimeout_z = 1\n', "limits.timeout_z is not a known key (did you mean timeout_s?)"),
        ('name = "x"\n[limits]\nmax_rows = 0\n', "limits.max_rows must be at least 1 (got 0)"),
        ('name = "x"\n[statements.ok]\nunknown = "maybe"\n', "statements.ok.unknown must be one of"),
        ('name = "x"\n[statements.paused]\nallow = ["reed"]\n', "statements.paused.allow may hold"),
        ('name = "x"\n[price_books.y]\ndate = 1\n', "price_books.y.date must be a date"),
        ('name = "x"\n[prices]\nbook = "y"\n', "prices.book must be of: neon-launch-2026-11, "),
        ('name = "x"\n[budget]\npaused_percent = 50\n', "budget must rise"),
        ("[tiers]\nfree = 1\n", "name is missing"),
        ("name = \n", "is not valid TOML"),
        (None, "there is no such file"),
    ],
)
@pytest.mark.parametrize("action", ["check", "explain"])
async def test_a_wrong_file_is_one_line_that_names_file_and_key_with_exit_code_2(
    command: CommandFactory, written: Written, action: str, text: str | None, said: str
) -> None:
    policy_file = written(text)
    arguments = [str(policy_file)] if action == "check" else ["--sql", "SELECT 1", "--file", str(policy_file)]
    done = await command({}, "policy", action, *arguments)
    assert done.code == 2
    assert done.out == ""
    assert f"{policy_file}: {said}" in done.one_line


async def test_serve_with_a_wrong_policy_names_the_setting_too(command: CommandFactory, written: Written) -> None:
    policy_file = written('name = "x"\n[limits]\nmax_rows = 0\n')
    environ = {"AGENT_DB_URL": "postgresql://u:p@127.0.0.1:1/x", "AGENTDB_POLICY": str(policy_file)}
    done = await command(environ, "serve")
    assert done.code == 2
    assert f"AGENTDB_POLICY: {policy_file}: limits.max_rows must be at least 1" in done.one_line
