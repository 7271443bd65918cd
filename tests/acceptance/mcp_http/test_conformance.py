"""The official conformance suite and the official inspector, against a real server: `make conformance`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from authorizing import authorizing
from node import node, packages
from serving import LEGACY, MODERN, WAYS, Holder

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from tests.acceptance.mcp_http.conftest import Shared

pytestmark = pytest.mark.long

SUITE = Path(__file__).parent / "conformance"
OLDEST_NODE = 22
# Without sessions the suite cannot try this, and says so by a warning, which counts.
WITHOUT_SESSIONS = "  - server-sse-multiple-streams:server-sse-multiple-streams-session\n"


@pytest.fixture(scope="module")
def modules() -> Path:
    node(OLDEST_NODE)
    return packages(SUITE, must=True)


async def run(modules: Path, program: str, *arguments: str) -> CompletedProcess[bytes]:
    with anyio.fail_after(180):
        return await anyio.run_process(
            [node(OLDEST_NODE), str(modules / "node_modules/.bin" / program), *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(modules)},
            check=False,
        )


@pytest.mark.parametrize("revision", [LEGACY, MODERN])
@pytest.mark.parametrize("way", WAYS)
async def test_nothing_fails_but_what_the_baseline_lists(
    shared: Shared, holder: Holder, modules: Path, tmp_path: Path, way: str, revision: str
) -> None:
    server = await shared(way)
    baseline = tmp_path / "baseline.yml"
    more = WITHOUT_SESSIONS if revision == LEGACY and not server.sessions else ""
    baseline.write_text((SUITE / "baseline.yml").read_text("utf-8") + more)
    async with authorizing(server.url, holder.token) as url:
        chosen = ("--url", f"{url}/mcp", "--requirements", revision)
        done = await run(
            modules, "conformance", "server", *chosen, "--expected-failures", str(baseline), "-o", str(tmp_path)
        )
    report = done.stdout.decode()
    assert done.returncode == 0, report[report.find("=== SUMMARY") :] + done.stderr.decode()
    assert "Baseline check passed" in report


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("path", ["/mcp", "/mcp/agent"])
async def test_the_inspector_finds_no_error_in_any_tool(
    shared: Shared, holder: Holder, modules: Path, path: str, era: str
) -> None:
    server = await shared("stateless-json")
    authorization = f"Authorization: Bearer {holder.token}"
    where = ("--cli", server.url + path, "--transport", "http", "--header", authorization, "--protocol-era", era)
    listed = await run(modules, "mcp-inspector", *where, "--method", "tools/list", "--strict")
    assert listed.returncode == 0, listed.stderr.decode()
    assert len(json.loads(listed.stdout)["tools"]) >= 6
    call = ("--method", "tools/call", "--tool-name", "execute_sql", "--tool-arg", "sql=SELECT 41 + 1 AS n")
    answered = await run(modules, "mcp-inspector", *where, *call)
    assert answered.returncode == 0, answered.stderr.decode()
    assert json.loads(answered.stdout)["structuredContent"]["rows"] == [[42]]
