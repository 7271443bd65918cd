"""What a server over HTTP logs at level debug has no credential in it, whoever called and whatever went wrong."""

from __future__ import annotations

import secrets
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import httpx
import pytest
from platform_side import bearer, eventually

from agentdb_mcp.local_stack import LocalStack, local_stack
from processes import fresh


@pytest.fixture(scope="module")
async def stack(anyio_backend: str) -> AsyncIterator[LocalStack]:
    async with local_stack() as running:
        yield running


async def test_debug_logs_show_no_credential_and_no_forged_line(stack: LocalStack, tmp_path: Path) -> None:
    log = tmp_path / "log"
    environ = stack.environ() | {"AGENTDB_LOG": "text,debug"}
    guess = f"adb_{secrets.token_urlsafe(32)}"
    async with fresh(environ, log, "serve", "--http", "--port", "0") as process:

        async def url() -> str | None:
            lines = log.read_text().splitlines(keepends=True)
            whole = [line for line in lines if " serving at " in line and line.endswith("\n")]
            return whole[0].split()[-1] if whole else None

        base = await eventually(url)
        as_service = {"x-internal-api-key": environ["AGENTDB_SERVICE_KEY"]}
        async with httpx.AsyncClient(base_url=base, timeout=60) as http:
            await http.post("/api/users", json={"user_id": "u1"}, headers=as_service)
            await http.post("/api/workspaces", json={"workspace_id": "w1", "user_id": "u1"}, headers=as_service)
            given = {"user_id": "u1", "workspace_id": "w1", "scopes": ["explorer"]}
            token = (await http.post("/api/tokens", json=given, headers=as_service)).json()["token"]
            path = "/api/workspaces/w1/database"
            answer = await http.post(f"{path}/execute", json={"sql": "SELECT 1"}, headers=bearer(token))
            assert answer.json()["rows"] == [[1]]
            for headers in (bearer(guess), {"x-internal-api-key": guess}, {"cookie": f"token={token}"}):
                assert (await http.get(path, headers=headers)).status_code == 401
            await http.get(path, params={"token": token})
            await http.get(f"/api/{token}/x%0A2026 [error] forged")
            forged = {"x-request-id": 'x" forged'} | bearer(token)
            await http.post(f"{path}/execute", json={"sql": "SELEC 1"}, headers=forged)
        process.send_signal(signal.SIGTERM)
        with anyio.fail_after(30):
            assert await process.wait() == 0
    said = log.read_text()
    assert "[debug" in said or "[info" in said
    for secret in (token, guess, environ["AGENTDB_SERVICE_KEY"], stack.postgres.password.reveal()):
        assert secret not in said
    assert not [line for line in said.splitlines() if line.startswith("2026 [error] forged")]
    assert 'x" forged' not in said
