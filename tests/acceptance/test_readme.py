"""What the README says about commands and settings is so."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
POLICY_COMMANDS = re.findall(r"^agentdb-mcp (policy .+)$", README, re.MULTILINE)


def test_the_readme_shows_policy_commands() -> None:
    assert POLICY_COMMANDS


@pytest.mark.parametrize("command", POLICY_COMMANDS)
def test_a_policy_command_of_the_readme_runs(command: str) -> None:
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


def test_every_setting_is_in_the_readme() -> None:
    source = (ROOT / "src/agentdb_mcp/settings.py").read_text("utf-8")
    names = set(re.findall(r'"((?:AGENTDB|NEON|AGENT|GLOBAL)_[A-Z_]+)"', source)) | {"ENCRYPTION_KEY"}
    documented = set(re.findall(r"`([A-Z][A-Z_]+)`", README))
    assert names <= documented


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)", README)) <= targets
