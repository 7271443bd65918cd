"""Signing in to the explorer behind a proxy that ends TLS, at either of two processes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import httpx
import pytest
from serving import HttpServer

from conftest import ServeHttp

PUBLIC = "https://db.example.com"


@pytest.fixture(scope="module")
async def two(serve_http: ServeHttp) -> AsyncIterator[tuple[HttpServer, HttpServer]]:
    settings = {"AGENTDB_PUBLIC_URL": PUBLIC, "AGENTDB_FRAME_ANCESTORS": "https://app.example.com"}
    async with serve_http("stateless-json", **settings) as one, serve_http("stateless-json", **settings) as other:
        yield one, other


async def link(server: HttpServer, user_id: str) -> str:
    """The path and query of a new link for a user."""
    await server.backend.post("/api/users", json={"user_id": user_id})
    made = await server.backend.post("/api/explorer/links", json={"user_id": user_id})
    url: str = made.raise_for_status().json()["url"]
    assert url.startswith(f"{PUBLIC}/explorer/enter?link=adb_")
    return url.removeprefix(PUBLIC)


async def test_the_cookie_of_an_embedded_explorer_is_secure_and_kept_apart_by_site(
    two: tuple[HttpServer, HttpServer],
) -> None:
    path = await link(two[0], "cookie")
    async with httpx.AsyncClient(base_url=two[0].url, timeout=60) as browser:
        entered = await browser.get(path)
        assert (entered.status_code, entered.headers["location"]) == (303, "/explorer/")
        cookie = entered.headers["set-cookie"]
        attributes = {part.strip() for part in cookie.split(";")[1:]}
        assert {"Secure", "HttpOnly", "SameSite=None", "Partitioned", "Path=/explorer"} <= attributes
        page = await browser.get("/explorer/", headers={"cookie": cookie.partition(";")[0]})
        assert page.status_code == 200
        renewed = {part.strip() for part in page.headers["set-cookie"].split(";")[1:]}
        assert {"Secure", "HttpOnly", "SameSite=None", "Partitioned", "Path=/explorer"} <= renewed
        assert "frame-ancestors 'self' https://app.example.com" in page.headers["content-security-policy"]


async def test_of_many_who_use_a_link_at_once_at_two_processes_one_is_signed_in(
    two: tuple[HttpServer, HttpServer],
) -> None:
    for number in range(5):
        path, statuses = await link(two[number % 2], f"racer{number}"), list[int]()

        async def enter(server: HttpServer, path: str = path, statuses: list[int] = statuses) -> None:
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as browser:
                statuses.append((await browser.get(path)).status_code)

        async with anyio.create_task_group() as group:
            for server in two * 4:
                group.start_soon(enter, server)
        assert sorted(statuses) == [303] + [401] * 7
