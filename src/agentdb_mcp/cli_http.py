"""`serve --http`: one server for every tenant."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from agentdb_mcp.cli_running import until_asked
from agentdb_mcp.errors import ConfigurationError

if TYPE_CHECKING:
    from agentdb_mcp.bootstrap import Application
    from agentdb_mcp.mcp_server.http import Answers
    from agentdb_mcp.settings import Settings
    from agentdb_mcp.web.app import HttpOptions


async def run_http(application: Application, host: str, port: int, *, sessions: bool, answers: Answers) -> None:
    """Serve until SIGTERM; the first line on stderr says where."""
    from agentdb_mcp.web.app import build_app
    from agentdb_mcp.web.serving import serve

    app = build_app(application, options(application.settings, host, sessions=sessions, answers=answers))
    async with serve(app, host, port) as url:
        print(f"agentdb-mcp: serving at {url}", file=sys.stderr, flush=True)
        await until_asked()


def options(settings: Settings, host: str, *, sessions: bool = False, answers: Answers = "json") -> HttpOptions:
    """Raises ConfigurationError where other machines may connect and nobody said by which names."""
    from agentdb_mcp.web.app import LOOPBACK, HttpOptions

    hosts = settings.allowed_hosts
    if not hosts and host not in (*LOOPBACK, "::1"):
        raise ConfigurationError(
            "AGENTDB_ALLOWED_HOSTS is missing.",
            hint=f"With --host {host} it lists the names that the server is reached by, or is `*`.",
        )
    return HttpOptions((*LOOPBACK, *hosts), settings.allowed_origins, settings.public_url, sessions, answers)
