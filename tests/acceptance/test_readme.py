"""What README and pages say about commands is so."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from agentdb_mcp.mcp_server.tools import TOOLS
from agentdb_mcp.policy import load_policy

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
POLICIES = (ROOT / "docs/policies.md").read_text("utf-8")
POLICY_COMMANDS = re.findall(r"^agentdb-mcp (policy .+)$", POLICIES, re.MULTILINE)


def test_the_page_on_policies_shows_commands() -> None:
    assert POLICY_COMMANDS


@pytest.mark.parametrize("command", POLICY_COMMANDS)
def test_a_policy_command_of_that_page_runs(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentdb_mcp", *shlex.split(command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_policy_of_that_page_is_valid(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```$", POLICIES, re.MULTILINE | re.DOTALL)
    (tmp_path / "ours.toml").write_text(example, "utf-8")
    assert load_policy(tmp_path / "ours.toml").name == "ours"


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)", README)) <= targets


def test_every_tool_is_in_the_table_of_the_readme() -> None:
    table = README.split("## The tools")[1].split("\n## ")[0]
    named = re.findall(
        r"`([a-z_]+)`", "".join(row.split("|")[1] for row in re.findall(r"^\| .*$", table, re.MULTILINE))
    )
    assert sorted(named) == sorted(tool.name for tool in TOOLS)
