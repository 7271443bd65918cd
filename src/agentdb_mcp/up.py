"""`up` and `neon-emulator`: run the local parts until we are asked to end."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

import anyio

from agentdb_mcp.bootstrap import open_application
from agentdb_mcp.cli_running import until_asked
from agentdb_mcp.errors import ConfigurationError, DatabaseUnavailable, NotAuthenticated
from agentdb_mcp.jobs import Worker, jobs_of
from agentdb_mcp.local_stack import LocalStack, local_stack, neon_environ
from agentdb_mcp.models import Secret, TokenScope
from agentdb_mcp.neon_emulator import Emulator
from agentdb_mcp.services import Tokens
from agentdb_mcp.services.databases import plain_url
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store.jobs import JobStore

USER = "demo"
_PG = "--pg (or AGENTDB_EMULATOR_PG)"
# How long the explorer's link that `up` prints signs in, once.
LINK_S = 3600
WORKSPACES = {"research": "Research agent", "support": "Support agent"}


def default_data_dir() -> Path:
    """Where `up` keeps its data: root's must be reachable by the account that Postgres runs as."""
    return Path("/var/lib/agentdb-mcp") if os.geteuid() == 0 else Path.home() / ".local/share/agentdb-mcp"


async def run_up(data_dir: Path, port: int, bin_dir: Path | None, as_json: bool) -> None:
    """Start everything, register the demo user with two workspaces, print how to connect, work until the end."""
    from agentdb_mcp.web import explorer
    from agentdb_mcp.web.app import HttpOptions, build_app
    from agentdb_mcp.web.serving import serve

    async with (
        local_stack(data_dir, bin_dir=bin_dir) as stack,
        open_application(load_settings(stack.environ())) as application,
    ):
        managed = application.managed()
        await managed.lifecycle.create_user(USER)
        for workspace_id, name in WORKSPACES.items():
            await managed.lifecycle.create_workspace(workspace_id, USER, name)
        tokens = {workspace_id: await _token(data_dir, managed.tokens, workspace_id) for workspace_id in WORKSPACES}
        file = _environment_file(data_dir, stack)
        app = build_app(application, HttpOptions())
        async with serve(app, "127.0.0.1", port) as url:
            report: dict[str, Any] = {
                "data_dir": str(data_dir),
                "url": url,
                "explorer": await explorer.link(app, url, USER, LINK_S),
                "mcpServers": {name: _client(file, name) for name in WORKSPACES},
                "mcpServersOverHttp": {name: _http_client(url, token) for name, token in tokens.items()},
            }
            print(json.dumps(report) if as_json else _words(report), flush=True)
            async with anyio.create_task_group() as group:
                group.start_soon(Worker(application, JobStore(managed.control), jobs_of(application), quiet=True).run)
                await until_asked()
                group.cancel_scope.cancel()


async def _token(data_dir: Path, tokens: Tokens, workspace_id: str) -> Secret:
    """The workspace's token of last time while it is valid, so that what was pasted stays right."""
    file = data_dir / f"{workspace_id}.token"
    if file.exists():
        known = Secret(file.read_text().strip())
        try:
            await tokens.authenticate(known.reveal())
        except NotAuthenticated:
            pass
        else:
            return known
    issued = await tokens.issue(USER, workspace_id, [TokenScope.MCP, TokenScope.EXPLORER], None, "up")
    with _private(file) as out:
        out.write(issued.token.reveal() + "\n")
    return issued.token


async def run_emulator(port: int, postgres_url: str | None, bin_dir: Path | None, env_file: Path | None) -> None:
    """The local Neon API alone; `env_file` is written when it is ready."""
    from agentdb_mcp.embedded import embedded_postgres
    from agentdb_mcp.neon_emulator import ClusterUnavailableError, neon_emulator

    async def serve(url: str) -> None:
        async with neon_emulator(url, port=port) as emulator:
            if env_file is not None:
                _write_for_servers(env_file, emulator)
            fields = {"base_url": emulator.base_url, "api_key": emulator.api_key, "org_id": emulator.org_id}
            print(json.dumps(fields), flush=True)
            await until_asked()

    if postgres_url is not None:
        if (url := plain_url(postgres_url, _PG, None)) is None:
            raise ConfigurationError(f"{_PG} is not a postgresql:// URL.")
        try:
            await serve(url.reveal())
        except ClusterUnavailableError as error:
            raise DatabaseUnavailable(f"The Postgres of {_PG} cannot be used ({error}).") from None
        return
    async with embedded_postgres(bin_dir=bin_dir) as postgres:
        await serve(postgres.uri().reveal())


def _environment_file(data_dir: Path, stack: LocalStack) -> Path:
    """Where client configurations find the settings, so that they hold no secret themselves (mode 0600)."""
    file = data_dir / "environment"
    _write_environment(file, stack.environ())
    return file


def _write_for_servers(file: Path, emulator: Emulator) -> None:
    try:
        _write_environment(file, neon_environ(emulator))
    except OSError as error:
        raise ConfigurationError(f"--env-file names {file}, which cannot be written ({error.strerror}).") from None


def _write_environment(file: Path, environ: dict[str, str]) -> None:
    with _private(file) as out:
        out.writelines(f"{name}={value}\n" for name, value in environ.items())


def _private(file: Path) -> TextIO:
    return open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w")


def _http_client(url: str, token: Secret) -> dict[str, object]:
    """The same over HTTP."""
    return {"type": "http", "url": f"{url}/mcp", "headers": {"Authorization": f"Bearer {token.reveal()}"}}


def _client(file: Path, workspace_id: str) -> dict[str, object]:
    """One entry of an MCP client's `mcpServers`."""
    return {
        "command": sys.executable,
        "args": ["-m", "agentdb_mcp", "serve"],
        "env": {"AGENTDB_ENV_FILE": str(file), "AGENTDB_USER_ID": USER, "AGENTDB_WORKSPACE_ID": workspace_id},
    }


def _explorer(link: str | None) -> str:
    if link is None:
        return "There is no explorer: the extra `explorer` is not installed.\n"
    return f"The explorer, which this link signs in to once: {link}\n"


def _words(report: dict[str, Any]) -> str:
    over_stdio, over_http = (
        json.dumps({"mcpServers": report[name]}, indent=2) for name in ("mcpServers", "mcpServersOverHttp")
    )
    return (
        f"Running on {report['data_dir']}; end it with Ctrl-C.\n"
        f"{_explorer(report['explorer'])}"
        f"REST is described at {report['url']}/docs; its service key is AGENTDB_SERVICE_KEY in the file below.\n"
        f"Two agents of one user, for your MCP client's configuration:\n{over_stdio}\n"
        f"or over HTTP:\n{over_http}"
    )
