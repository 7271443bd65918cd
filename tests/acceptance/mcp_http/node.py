"""Node on this machine, and the npm packages of a package.json that names exact versions."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest

# Kept between runs; `make clean` removes it.
CACHE = Path(__file__).parents[3] / ".node"
INSTALL_S = 180


def node(oldest: int = 20) -> str:
    """The path of a Node of that version or a newer one; the test is skipped where there is none."""
    for found in (os.environ.get("AGENTDB_TEST_NODE"), shutil.which("node")):
        if found and Path(found).exists() and _version(found) >= oldest:
            return found
    pytest.skip(f"there is no Node {oldest} or newer on this machine")


def _npm() -> list[str]:
    """The command npm: the one beside AGENTDB_TEST_NODE, or the machine's. Empty if there is none."""
    if program := os.environ.get("AGENTDB_TEST_NODE"):
        return [program, str(Path(program).parents[1] / "lib/node_modules/npm/bin/npm-cli.js")]
    return ["npm"] if shutil.which("npm") else []


def _version(program: str) -> int:
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    return int(told.removeprefix("v").partition(".")[0] or 0)


def packages(folder: Path, *, must: bool) -> Path:
    """The folder where what a package.json names is installed.

    Where npm cannot install it, the test is skipped, or fails if `must`.
    """
    wanted = (folder / "package.json").read_bytes()
    target = CACHE / f"{folder.name}-{hashlib.sha256(wanted).hexdigest()[:12]}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not (target / "installed").exists():
            if (reason := _install(folder, target)) is not None:
                shutil.rmtree(target, ignore_errors=True)
                (pytest.fail if must else pytest.skip)(reason)
            (target / "installed").touch()
    return target


def _install(folder: Path, target: Path) -> str | None:
    """Why it could not be done."""
    if not (npm := _npm()):
        return "npm is not on this machine"
    target.mkdir(exist_ok=True)
    shutil.copy(folder / "package.json", target)
    command = [*npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    try:
        done = subprocess.run(command, cwd=target, capture_output=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        return "npm did not install the clients in time"
    return "npm cannot install the clients here" if done.returncode else None


async def run_script(script: Path, modules: Path, given: Any, **environment: str) -> Any:
    """What a script prints that gets `given` on its standard input, both as JSON; it must end by itself."""
    copy = shutil.copy(script, modules)
    with anyio.fail_after(180):
        done = await anyio.run_process(
            [node(), str(copy)],
            input=json.dumps(given).encode(),
            env={"PATH": os.environ["PATH"], "HOME": str(modules)} | environment,
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)
