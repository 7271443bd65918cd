"""A setting that is missing or wrong: one line on stderr that names it, exit code 2, no traceback, no secret."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import CommandFactory

SECRET = "hunter2hunter2"
CONTROL = f"postgresql://u:{SECRET}@127.0.0.1:1/control"
SERVE = ("serve",)

REFUSALS = [
    pytest.param({}, SERVE, "AGENT_DB_URL", id="nothing at all"),
    pytest.param({"AGENT_DB_URL": "${AGENT_DB_URL}"}, SERVE, "AGENT_DB_URL", id="a reference nobody resolved"),
    pytest.param({"AGENT_DB_URL": f"mysql://u:{SECRET}@h/d"}, SERVE, "AGENT_DB_URL", id="a URL of another database"),
    pytest.param({"AGENTDB_CONTROL_URL": CONTROL}, SERVE, "AGENTDB_USER_ID", id="a control database for nobody"),
    pytest.param(
        {"AGENTDB_CONTROL_URL": CONTROL, "AGENTDB_USER_ID": "u"},
        ("serve", "--scope", "agent"),
        "AGENTDB_WORKSPACE_ID",
        id="an agent without a workspace",
    ),
    pytest.param({"AGENTDB_CONTROL_URL": f"mysql://u:{SECRET}@h/d"}, SERVE, "AGENTDB_CONTROL_URL", id="control: mysql"),
    pytest.param({"AGENTDB_ENCRYPTION_KEYS": SECRET}, SERVE, "AGENTDB_ENCRYPTION_KEYS", id="a short key"),
    pytest.param({"NEON_API_HOST": f"http://u:{SECRET}@neon.test"}, SERVE, "NEON_API_HOST", id="a login"),
    pytest.param({"AGENTDB_LOG": "loud"}, SERVE, "AGENTDB_LOG", id="a log level"),
    pytest.param(
        {"AGENT_DB_URL": CONTROL, "AGENTDB_POLICY": "/does/not/exist"}, SERVE, "AGENTDB_POLICY", id="no policy file"
    ),
    pytest.param({}, ("migrate",), "AGENTDB_CONTROL_URL", id="migrate without a control database"),
    pytest.param({"AGENTDB_PG_BIN": "/does/not/exist"}, ("neon-emulator",), "AGENTDB_PG_BIN", id="no programs"),
    pytest.param({}, ("serve", "--scope", "other"), "--scope", id="an unknown scope"),
    pytest.param({}, ("neon-emulator", "--pg", SECRET), "--pg", id="an emulator on no URL"),
]


@pytest.mark.parametrize(("environ", "arguments", "named"), REFUSALS)
async def test_a_wrong_start_is_one_line_that_names_the_cause_and_exit_code_2(
    command: CommandFactory, environ: dict[str, str], arguments: tuple[str, ...], named: str
) -> None:
    done = await command(environ, *arguments)
    assert named in done.one_line
    assert done.code == 2
    assert done.out == ""
    assert SECRET not in done.err


@pytest.mark.parametrize(
    "text",
    [
        "[[[",
        'name = "x"\nversion = "1"\nunknown_key = 1',
    ],
)
async def test_a_wrong_policy_file_is_one_line_that_names_the_setting_and_the_file(
    command: CommandFactory, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    done = await command({"AGENT_DB_URL": CONTROL, "AGENTDB_POLICY": str(file)}, "serve")
    assert done.code == 2
    assert "AGENTDB_POLICY" in done.one_line or "policy.toml" in done.one_line


@pytest.mark.parametrize(
    "arguments",
    [
        ("migrate",),
        ("neon-emulator", "--pg", CONTROL),
    ],
    ids=" ".join,
)
async def test_an_unreachable_database_is_one_line_and_exit_code_1(
    command: CommandFactory, arguments: tuple[str, ...]
) -> None:
    with anyio.fail_after(60):
        done = await command({"AGENTDB_CONTROL_URL": CONTROL, "AGENTDB_ENCRYPTION_KEYS": "ab" * 32}, *arguments)
    assert done.one_line
    assert done.code == 1
    assert SECRET not in done.err
    assert "127.0.0.1:1" not in done.err
