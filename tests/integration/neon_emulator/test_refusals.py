"""What the local Neon API refuses, in which shape, and what no refusal tells."""

from __future__ import annotations

import logging

import asyncpg
import httpx
import pytest
from emulating import assert_error, connected, create, role_path, uri_of

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.neon_emulator import Behaviour, Emulator


@pytest.fixture(scope="module")
def behaviour() -> Behaviour:
    return Behaviour(operation_seconds=0)


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer wrong", "Basic {key}", "{key}", "Bearer {key}x", "Bearer \u00fc"],
)
@pytest.mark.parametrize("path", ["/projects", "/nonsense"])
async def test_without_the_key_nothing_answers(emulator: Emulator, header: str | None, path: str) -> None:
    headers: dict[bytes, bytes] = {}
    if header is not None:
        headers[b"Authorization"] = header.format(key=emulator.api_key).encode("latin-1")
    async with httpx.AsyncClient(base_url=emulator.base_url, headers=headers) as client:
        response = await client.get(path)
    assert_error(response, 401)
    assert emulator.api_key not in response.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nonsense"),
        ("GET", "/"),
        ("GET", "/projects/"),
        ("DELETE", "/projects"),
        ("TRACE", "/projects"),
        ("GET", "/projects/quiet-river-00000000"),
        ("GET", "/projects/quiet-river-00000000/operations/4a0a0d8e-0000-4000-8000-000000000000"),
        ("GET", "/projects/quiet-river-00000000/nonsense"),
    ],
)
async def test_what_is_unknown_is_not_found(api: httpx.AsyncClient, method: str, path: str) -> None:
    assert_error(await api.request(method, path), 404)


async def test_parts_of_another_project_are_not_found(api: httpx.AsyncClient) -> None:
    mine, other = await create(api), await create(api)
    base = f"/projects/{mine['project']['id']}"
    assert_error(await api.get(f"{base}/branches/{other['branch']['id']}"), 404)
    assert_error(await api.get(f"{base}/branches/{mine['branch']['id']}/roles/{other['roles'][0]['name']}"), 404)
    assert_error(await api.get(f"{base}/branches/{mine['branch']['id']}/roles/a%00b"), 404)
    assert_error(await api.get(f"{base}/endpoints/{other['endpoints'][0]['id']}"), 404)
    assert_error(await api.get(f"{base}/operations/{other['operations'][0]['id']}"), 404)
    assert_error(await api.get(f"{base}/operations/none"), 404)


@pytest.mark.parametrize(
    "path",
    [
        "/projects?limit=0",
        "/projects?limit=401",
        "/projects?limit=ten",
        "/projects?limit=",
        "/projects?cursor=UPPER",
        "/projects?cursor=never-given-00000000",
        "/projects?search=%00",
        "/projects?org_id=a_b",
        "/projects/UPPER",
        "/projects/a%00b",
        f"/projects/{'a' * 61}",
        "/projects/quiet-river-00000000/branches/a.b",
    ],
)
async def test_bad_parameters_are_refused(api: httpx.AsyncClient, path: str) -> None:
    assert_error(await api.get(path), 400)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"project": []}',
        b'{"project": {"name": 7}}',
        b'{"project": {"name": ""}}',
        b'{"project": {"name": "\\u0000"}}',
        b'{"project": {"name": "\\ud800"}}',
        b'{"project": {"name": "\xff"}}',
        b'{"project": {"settings": {"anything": ["\\u0000"]}}}',
        b'{"project": {"name": NaN}}',
        b'{"project": {"settings": {"x": 1e999}}}',
        b'{"project": {"pg_version": 13}}',
        b'{"project": {"pg_version": "17"}}',
        b'{"project": {"region_id": "a b"}}',
        b'{"project": {"branch": "main"}}',
        b'{"project": {"branch": {"role_name": "pg_mine"}}}',
        b'{"project": {"branch": {"role_name": "neon_superuser"}}}',
        b'{"project": {"branch": {"database_name": "' + b"x" * 64 + b'"}}}',
        b'{"project": {"default_endpoint_settings": {"autoscaling_limit_min_cu": 0.1}}}',
        b'{"project": {"default_endpoint_settings": {"autoscaling_limit_min_cu": true}}}',
        b'{"project": {"default_endpoint_settings": {"suspend_timeout_seconds": 59}}}',
        b'{"project": {"default_endpoint_settings": {"suspend_timeout_seconds": 604801}}}',
        b'{"project": {"settings": {"quota": {"active_time_seconds": -1}}}}',
        b'{"project": {"settings": {"quota": {"active_time_seconds": 1.5}}}}',
        b'{"project": {"settings": {"quota": {"active_time_seconds": 99999999999999999999}}}}',
        b'{"project": {"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        b'{"project": {"x": ' + b"9" * 5000 + b"}}",
    ],
    ids=lambda body: body[:60].decode(errors="replace"),
)
async def test_bad_bodies_are_refused_and_make_nothing(
    api: httpx.AsyncClient, superuser: asyncpg.Connection, body: bytes
) -> None:
    before = await superuser.fetchval("SELECT count(*) FROM pg_database")
    assert_error(await api.post("/projects", content=body), 400)
    assert await superuser.fetchval("SELECT count(*) FROM pg_database") == before


async def test_a_body_that_is_too_large_is_refused(api: httpx.AsyncClient) -> None:
    assert_error(await api.post("/projects", content=b" " * 1_100_000), 413)


async def test_an_organization_that_is_not_ours_is_not_found(api: httpx.AsyncClient) -> None:
    assert_error(await api.post("/projects", json={"project": {"org_id": "org-other-00000000"}}), 404)
    assert_error(await api.get("/projects", params={"org_id": "org-other-00000000"}), 404)


async def test_a_fault_inside_tells_nothing_and_the_project_can_be_deleted_again(
    api: httpx.AsyncClient, superuser: asyncpg.Connection, postgres: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    created = await create(api, "faulty")
    path = f"/projects/{created['project']['id']}"
    async with connected(postgres.uri("neon_emulator").reveal()) as own:
        # A check that no password passes: its error quotes the whole row.
        await own.execute("ALTER TABLE role ADD CONSTRAINT refuse CHECK (length(password) < 5) NOT VALID")
        with caplog.at_level(logging.DEBUG):
            for response in (
                await api.post("/projects", json={"project": {"name": "unlucky"}}),
                await api.post(f"{role_path(created)}/reset_password"),
            ):
                body = assert_error(response, 500)
                assert body["message"] == "internal server error"
                assert body["request_id"] in caplog.text
        await own.execute("ALTER TABLE role DROP CONSTRAINT refuse")
    assert "npg_" not in caplog.text
    assert "SCRAM" not in caplog.text
    assert (await api.get("/projects", params={"search": "unlucky"})).json()["projects"] == []
    async with connected(uri_of(created)) as admin:  # the reset was undone as a whole
        assert await admin.fetchval("SELECT 1") == 1
    assert (await api.delete(path)).status_code == 200


async def test_reprs_hide_the_key(emulator: Emulator) -> None:
    assert emulator.api_key not in repr(emulator)
