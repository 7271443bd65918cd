"""The examples for clients in docs/clients.md: what is JSON parses, and what is a program runs."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from node import node, packages
from serving import Holder

if TYPE_CHECKING:
    from tests.acceptance.mcp_http.conftest import Shared

ROOT = Path(__file__).parents[3]
CLIENTS = Path(__file__).parent / "clients"
SECTION = (ROOT / "docs/clients.md").read_text("utf-8")
URL = "http://localhost:8000"


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)


def test_every_configuration_is_json_that_starts_serve_or_sends_a_token() -> None:
    servers = []
    for text in snippets("json"):
        configuration = json.loads(text)
        servers += (configuration.get("mcpServers") or configuration["servers"]).values()
    assert len(servers) == 5
    for server in servers:
        if server.get("command") == "uvx":
            assert server["args"] == ["agentdb-mcp", "serve"]
            assert {"AGENTDB_USER_ID", "AGENTDB_WORKSPACE_ID"} <= set(server["env"])
        else:
            assert f"{URL}/mcp" in json.dumps(server)
            assert "Bearer " in json.dumps(server)


async def run(shared: Shared, holder: Holder, text: str, command: list[str]) -> str:
    """What a program prints that is given on standard input, with the running server's URL in it."""
    server = await shared("stateless-json")
    environ = {"PATH": os.environ["PATH"], "AGENTDB_TOKEN": holder.token}
    program = text.replace(URL, server.url).encode()
    with anyio.fail_after(180):
        done = await anyio.run_process(command, input=program, env=environ, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


async def test_the_python_snippet_prints_its_row(shared: Shared, holder: Holder) -> None:
    (snippet,) = snippets("python")
    assert await run(shared, holder, snippet, [sys.executable, "-"]) == "[[42]]"


async def test_the_typescript_snippet_prints_its_row(shared: Shared, holder: Holder) -> None:
    program = node()
    modules = packages(CLIENTS, must=False) / "node_modules/sdk-1.29.0/dist/esm"
    (snippet,) = snippets("typescript")  # it is plain JavaScript as well
    text = snippet.replace("@modelcontextprotocol/sdk/", f"{modules.as_uri()}/")
    assert await run(shared, holder, text, [program, "--input-type=module", "-"]) == "[[42]]"
