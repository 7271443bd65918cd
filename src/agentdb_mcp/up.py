"""`up` and `neon-emulator`: run the local parts until we are asked to end."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import anyio

from agentdb_mcp.bootstrap import open_application
from agentdb_mcp.errors import ConfigurationError, DatabaseUnavailable
from agentdb_mcp.jobs import Worker, jobs_of
from agentdb_mcp.local_stack import LocalStack, local_stack
from agentdb_mcp.services.databases import plain_url
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store.jobs import JobStore

USER = "demo"
WORKSPACES = {"research": "Research agent", "support": "Support agent"}


def default_data_dir() -> Path:
    """Where `up` keeps its data: root's must be reachable by the account that Postgres runs as."""
    return Path("/var/lib/agentdb-mcp") if os.geteuid() == 0 else Path.home() / ".local/share/agentdb-mcp"


async def run_up(data_dir: Path, bin_dir: Path | None, as_json: bool) -> None:
    """Start everything, register the demo user with two workspaces, print how to connect, work until the end."""
    async with (
        local_stack(data_dir, bin_dir=bin_dir) as stack,
        open_application(load_settings(stack.environ())) as application,
    ):
        managed = application.managed()
        await managed.lifecycle.create_user(USER)
        for workspace_id, name in WORKSPACES.items():
            await managed.lifecycle.create_workspace(workspace_id, USER, name)
        file = _environment_file(data_dir, stack)
        report: dict[str, Any] = {
            "data_dir": str(data_dir),
            "mcpServers": {name: _client(file, name) for name in WORKSPACES},
        }
        print(json.dumps(report) if as_json else _words(report), flush=True)
        async with anyio.create_task_group() as group:
            group.start_soon(Worker(application, JobStore(managed.control), jobs_of(application), quiet=True).run)
            await _until_asked()
            group.cancel_scope.cancel()


async def run_emulator(port: int, postgres_url: str | None, bin_dir: Path | None) -> None:
    """The local Neon API alone."""
    from agentdb_mcp.embedded import embedded_postgres
    from agentdb_mcp.neon_emulator import ClusterUnavailableError, neon_emulator

    async def serve(url: str) -> None:
        async with neon_emulator(url, port=port) as emulator:
            fields = {"base_url": emulator.base_url, "api_key": emulator.api_key, "org_id": emulator.org_id}
            print(json.dumps(fields), flush=True)
            await _until_asked()

    if postgres_url is not None:
        if (url := plain_url(postgres_url, "--pg", None)) is None:
            raise ConfigurationError("--pg is not a postgresql:// URL.")
        try:
            await serve(url.reveal())
        except ClusterUnavailableError as error:
            raise DatabaseUnavailable(f"The Postgres of --pg cannot be used ({error}).") from None
        return
    async with embedded_postgres(bin_dir=bin_dir) as postgres:
        await serve(postgres.uri().reveal())


def _environment_file(data_dir: Path, stack: LocalStack) -> Path:
    """Where client configurations find the settings, so that they hold no secret themselves (mode 0600)."""
    file = data_dir / "environment"
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.writelines(f"{name}={value}\n" for name, value in stack.environ().items())
    return file


def _client(file: Path, workspace_id: str) -> dict[str, object]:
    """One entry of an MCP client's `mcpServers`."""
    return {
        "command": sys.executable,
        "args": ["-m", "agentdb_mcp", "serve"],
        "env": {"AGENTDB_ENV_FILE": str(file), "AGENTDB_USER_ID": USER, "AGENTDB_WORKSPACE_ID": workspace_id},
    }


def _words(report: dict[str, Any]) -> str:
    return (
        f"Running on {report['data_dir']}; end it with Ctrl-C.\n"
        "Two agents of one user, for your MCP client's configuration:\n"
        + json.dumps({"mcpServers": report["mcpServers"]}, indent=2)
    )


async def _until_asked() -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            return
