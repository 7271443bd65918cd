"""What holds before a route is reached: who may ask from where, how much, how slowly, and what is said of failures."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import AsyncIterator

import anyio
import anyio.abc
import asyncpg
import httpx
import pytest
from platform_side import AS_SERVICE, SERVICE_KEY, Owner, Platform, client, error_of, eventually, fresh, platform_on

from agentdb_mcp.bootstrap import open_application
from agentdb_mcp.errors import ConfigurationError
from agentdb_mcp.local_stack import LocalStack
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store.control import create_database
from agentdb_mcp.web.app import HttpOptions, build_app

FRIEND = "https://app.example.com"
LARGE = 4 * 1024 * 1024


@pytest.fixture(scope="module")
async def guarded(environ: dict[str, str]) -> AsyncIterator[Platform]:
    """A server that lets one page of another origin ask, and waits half a second for a request."""
    async with platform_on(environ, origins=[FRIEND], patience_s=0.5) as platform:
        yield platform


@pytest.fixture(scope="module")
async def owner(platform: Platform) -> Owner:
    return await platform.register()


async def test_a_request_has_the_id_it_came_with_or_one_of_ours(platform: Platform) -> None:
    answer = await platform.http.get("/api/nothing", headers={"x-request-id": "my-Id_1.2"})
    assert error_of(answer, 404)["request_id"] == "my-Id_1.2"
    for odd in ("a b", "x" * 65, 'a"level":"x', "é", "a;b", "a,b"):
        answer = await platform.http.get("/api/nothing", headers={"x-request-id": odd.encode()})
        assert answer.headers["x-request-id"] not in (odd, odd.strip())
        assert len(answer.headers["x-request-id"]) == 16
    assert answer.headers.get_list("x-request-id") == [answer.headers["x-request-id"]]


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil:80", "[::2]", "", "127.0.0.1@x"]
)
async def test_another_hosts_name_is_refused(platform: Platform, host: str) -> None:
    assert error_of(await platform.http.get("/api/users/u1", headers={"host": host}), 403)["code"] == "not_allowed"
    assert (await platform.http.get("/healthz", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://[", "http://", "file://", "https://app.example.com.evil", "\xff"]
)
async def test_a_page_of_another_origin_may_not_ask(guarded: Platform, origin: str) -> None:
    headers = {"origin": origin.encode("latin-1")}
    assert error_of(await guarded.http.get("/api/users/u1", headers=headers), 403)["code"] == "not_allowed"
    preflight = headers | {"access-control-request-method": b"POST"}
    answer = await guarded.http.options("/api/users", headers=preflight)
    assert error_of(answer, 403)
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_page_of_an_allowed_origin_may_and_brings_no_cookies(guarded: Platform) -> None:
    preflight = {
        "origin": FRIEND,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    answer = await guarded.http.options("/api/users", headers=preflight)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == FRIEND
    assert "access-control-allow-credentials" not in answer.headers
    answer = await guarded.http.get("/api/users/nobody", headers={"origin": FRIEND})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (404, FRIEND)
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    own = {"origin": guarded.url}
    assert (await guarded.http.get("/api/users/nobody", headers=own)).status_code == 404


async def test_what_is_not_there_is_said_so_and_nothing_redirects(platform: Platform) -> None:
    owner = fresh()
    for path in (
        f"/api/users/{owner.user_id}/",
        "/docs/",
        "//evil.example/",
        "//evil.example/%2e%2e/",
        "/api/users/a%2Fb/usage",
        "/api/users/%2e%2e/usage",
        "/api/users/..%2fw1/usage",
        "/api/users/%00/usage",
        "/api/users/%ff/usage",
        "/api/users/%ed%a0%80/usage",
        "/api/users/" + "x" * 300 + "/usage",
        "/docs/oauth2-redirect",
        "/redoc",
    ):
        request = platform.http.build_request("GET", platform.url)
        request.url = request.url.copy_with(raw_path=path.encode())
        answer = await platform.http.send(request)
        assert answer.status_code in (400, 404), (path, answer.text)
        error_of(answer, answer.status_code)
        assert "location" not in answer.headers


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "CONNECT", "PATCH", "PROPFIND"])
async def test_other_methods_are_refused_everywhere(platform: Platform, method: str) -> None:
    for path in ("/api/users", "/api/users/u1", "/healthz", "/metrics", "/docs"):
        answer = await platform.http.request(method, path)
        assert answer.status_code in (404, 405), (method, path)
        assert AS_SERVICE["Authorization"] not in answer.text


async def test_the_page_of_the_routes_runs_nothing_but_what_is_known(platform: Platform) -> None:
    async with client(platform.url) as nobody:
        page = await nobody.get("/docs")
        document = await nobody.get("/openapi.json")
    assert page.status_code == document.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    assert page.text.count("integrity=") == 2


async def test_bodies_are_bounded_however_they_come(platform: Platform, owner: Owner) -> None:
    async def chunks(size: int) -> AsyncIterator[bytes]:
        for _ in range(size // 2**16):
            yield b" " * 2**16

    async with platform.holder(owner) as explorer:
        path = f"{owner.agent}/execute"
        for body in (b" " * (LARGE + 1), chunks(LARGE + 2**16)):
            answer = await explorer.post(path, content=body, headers={"content-type": "application/json"})
            assert error_of(answer, 413)["code"] == "result_too_large"
        given = {"sql": "SELECT length($1)", "params": ["x" * (LARGE - 1000)]}
        answer = await explorer.post(path, json=given)
        assert answer.json()["rows"] == [[LARGE - 1000]]


async def test_a_body_is_read_only_from_who_may_send_it(platform: Platform) -> None:
    """The answer comes while the body does not."""
    port = int(platform.url.rsplit(":", 1)[1])
    for headers in (b"", b"authorization: Bearer adb_nonsense\r\n", b"x-internal-api-key: nonsense\r\n"):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(
                b"POST /api/users HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
                b"content-length: 1000000\r\n" + headers + b'\r\n{"user_id"'
            )
            with anyio.fail_after(30):
                assert (await stream.receive()).startswith(b"HTTP/1.1 401 ")


async def test_large_bodies_do_not_fill_the_memory_together(platform: Platform, owner: Owner) -> None:
    """A dozen that are sent but for their end: some are refused, small ones never."""
    port = int(platform.url.rsplit(":", 1)[1])
    token = (await platform.token(owner))["token"]
    head = (
        f"POST {owner.agent}/execute HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {token}\r\n"
        f"content-type: application/json\r\ncontent-length: {LARGE}\r\n\r\n"
    ).encode()
    statuses: list[bytes] = []
    async with anyio.create_task_group() as group:

        async def send() -> None:
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(head)
                await stream.send(b" " * (LARGE - 1))
                statuses.append((await stream.receive())[9:12])

        for _ in range(12):
            group.start_soon(send)

        async def some_refused() -> bool:
            return len(statuses) >= 4

        await eventually(some_refused)
        assert set(statuses) == {b"429"}
        async with client(platform.url, {"Authorization": f"Bearer {token}"}) as explorer:
            answer = await explorer.post(f"{owner.agent}/execute", json={"sql": "SELECT 1"})
            assert answer.status_code == 200
        group.cancel_scope.cancel()

    async def free_again() -> bool:
        async with client(platform.url, {"Authorization": f"Bearer {token}"}) as explorer:
            given = {"sql": "SELECT length($1)", "params": ["x" * (LARGE - 1000)]}
            return (await explorer.post(f"{owner.agent}/execute", json=given)).status_code == 200

    await eventually(free_again)


async def test_a_body_that_does_not_come_is_waited_for_so_long(guarded: Platform) -> None:
    port = int(guarded.url.rsplit(":", 1)[1])
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(
            b"POST /api/users HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            b"content-length: 30\r\nauthorization: Bearer " + SERVICE_KEY.encode() + b'\r\n\r\n{"user_id"'
        )
        with anyio.fail_after(30):
            answer = await stream.receive()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"did not come" in answer


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nx: "])
async def test_a_connection_on_which_no_request_comes_is_closed(guarded: Platform, sent: bytes) -> None:
    port = int(guarded.url.rsplit(":", 1)[1])
    async with await anyio.connect_tcp("127.0.0.1", port) as stream, anyio.create_task_group() as group:

        async def drip() -> None:
            with contextlib.suppress(anyio.BrokenResourceError):
                while True:
                    await stream.send(b"y")
                    await anyio.sleep(0.1)

        if sent:
            await stream.send(sent)
            group.start_soon(drip)
        with anyio.fail_after(30), contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            await stream.receive()
        group.cancel_scope.cancel()


async def test_a_statement_that_runs_longer_than_clients_may_dawdle_is_answered(guarded: Platform) -> None:
    owner = await guarded.register()
    async with guarded.holder(owner) as explorer:
        answer = await explorer.post(f"{owner.agent}/execute", json={"sql": "SELECT 1 FROM pg_sleep(2)"})
    assert answer.json()["rows"] == [[1]]


async def test_requests_that_two_servers_might_read_differently_are_refused(platform: Platform) -> None:
    port = int(platform.url.rsplit(":", 1)[1])
    for lines in (
        b"content-length: 5\r\ncontent-length: 6",
        b"content-length: +5",
        b"content-length: 99999999999999999999999999",
        b"transfer-encoding: chunked, identity",
        b"transfer-encoding: xchunked",
        b"host: localhost",
        b"content-length : 5",
        b"x: a\0b",
    ):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"POST /api/users HTTP/1.1\r\nhost: 127.0.0.1\r\n" + lines + b"\r\n\r\n")
            with anyio.fail_after(30):
                answer = await stream.receive()
            assert answer[9:12] in (b"400", b"413", b"501"), (lines, answer)


async def test_credentials_that_are_there_twice_are_none(platform: Platform, owner: Owner) -> None:
    """A proxy in front might have looked at the other one."""
    token = (await platform.token(owner))["token"]
    async with client(platform.url) as http:
        for headers in (
            [("authorization", f"Bearer {token}"), ("authorization", "Bearer adb_other")],
            [("x-internal-api-key", SERVICE_KEY), ("x-internal-api-key", "other")],
            [("x-internal-api-key", SERVICE_KEY), ("authorization", f"Bearer {token}")],
        ):
            answer = await http.get(f"/api/users/{owner.user_id}", headers=headers)
            assert error_of(answer, 401)["code"] == "not_authenticated"


async def test_guesses_are_counted_by_the_address_that_they_come_from(environ: dict[str, str]) -> None:
    async with platform_on(environ | {"AGENTDB_TRUSTED_PROXIES": ""}) as platform:
        owner = await platform.register()
        async with platform.holder(owner) as known, client(platform.url) as guesser:
            assert (await known.get(owner.agent)).status_code == 200
            statuses = []
            for number in range(25):
                name, value = (
                    ("x-internal-api-key", f"guess-{number}"),
                    ("authorization", f"Bearer adb_{secrets.token_urlsafe(32)}"),
                )[number % 2]
                headers = {name: value, "x-forwarded-for": f"10.0.0.{number}", "forwarded": f"for=10.0.0.{number}"}
                statuses.append((await guesser.get(f"/api/users/{owner.user_id}", headers=headers)).status_code)
            assert statuses == [401] * 20 + [429] * 5
            assert (await known.get(owner.agent)).status_code == 200
            assert (await platform.http.get(f"/api/users/{owner.user_id}")).status_code == 200


async def test_behind_a_trusted_proxy_the_address_is_the_one_that_it_tells(environ: dict[str, str]) -> None:
    environ = environ | {"AGENTDB_TRUSTED_PROXIES": "127.0.0.0/8"}
    async with platform_on(environ) as platform, client(platform.url) as guesser:
        for number in range(25):
            headers = {"x-internal-api-key": "guess", "x-forwarded-for": f"6.6.6.{number}, 10.0.0.1"}
            answer = await guesser.get("/metrics", headers=headers)
        assert answer.status_code == 429
        headers["x-forwarded-for"] = "10.0.0.1, 10.0.0.2"
        assert (await guesser.get("/metrics", headers=headers)).status_code == 401


async def test_without_a_service_key_nobody_is_the_platform(environ: dict[str, str]) -> None:
    environ = environ | {"AGENTDB_SERVICE_KEY": ""}
    async with platform_on(environ) as platform, client(platform.url) as http:
        for headers in (
            {},
            {"authorization": "Bearer"},
            {"x-internal-api-key": ""},
            AS_SERVICE,
            {"authorization": "Bearer None"},
        ):
            answer = await http.post("/api/users", json={"user_id": "u1"}, headers=headers)
            assert error_of(answer, 401)["code"] == "not_authenticated"


async def test_health_is_everybodys_and_metrics_are_the_platforms(platform: Platform) -> None:
    async with client(platform.url) as nobody:
        assert (await nobody.get("/healthz")).json() == {"status": "ok"}
        assert (await nobody.get("/readyz")).json() == {"status": "ok"}
        assert error_of(await nobody.get("/metrics"), 401)
    metrics = await platform.http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "python_info" in metrics.text


@pytest.mark.parametrize("name", ["AGENT_DB_URL", "GLOBAL_DB_URL"])
async def test_one_tenants_url_is_not_served_to_all(environ: dict[str, str], stack: LocalStack, name: str) -> None:
    url = stack.postgres.uri().reveal()
    async with open_application(load_settings(environ | {name: url})) as application:
        with pytest.raises(ConfigurationError, match=name) as refused:
            build_app(application, HttpOptions())
        assert url not in f"{refused.value.as_dict()}"
    for missing in ("${" + name + "}", "agentdb://agent"):
        async with open_application(load_settings(environ | {name: missing})) as application:
            build_app(application, HttpOptions())


async def test_a_mistake_in_the_background_ends_nothing_else(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    failed = anyio.Event()

    async def work() -> None:
        failed.set()
        raise TypeError("a mistake of ours")

    async with platform_on(environ) as platform, platform.holder(await platform.register(), "mcp") as holder:
        platform.app.state.serving.begin(work)
        await failed.wait()
        question = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        answer = await holder.post("/mcp", json=question, headers={"accept": "application/json, text/event-stream"})
        assert answer.status_code == 200, answer.text
    assert "background work failed" in caplog.text


async def test_a_server_whose_control_database_is_away_says_that_it_is_not_ready(
    environ: dict[str, str], stack: LocalStack
) -> None:
    name = f"control_{secrets.token_hex(6)}"
    await create_database(stack.postgres.uri(), name)
    own = environ | {"AGENTDB_CONTROL_URL": stack.postgres.uri(name).reveal()}
    async with platform_on(own) as platform:
        assert (await platform.http.get("/readyz")).status_code == 200
        await close(stack, name)

        async def unavailable() -> bool:
            answer = await platform.http.get("/readyz")
            return (answer.status_code, answer.json()) == (503, {"status": "unavailable"})

        await eventually(unavailable)
        assert (await platform.http.get("/healthz")).status_code == 200
        error = error_of(await platform.http.get("/api/users/u1"), 503)
        assert (error["code"], name in json.dumps(error)) == ("database_unavailable", False)


async def close(stack: LocalStack, name: str) -> None:
    """Let nobody into the database any more, and whoever is there out."""
    connection = await asyncpg.connect(stack.postgres.uri().reveal())
    await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    await connection.close()


async def test_a_server_that_ends_answers_what_runs_and_takes_no_more(environ: dict[str, str]) -> None:
    answers: list[httpx.Response] = []
    ending = anyio.Event()

    async def run(*, task_status: anyio.abc.TaskStatus[Platform]) -> None:
        async with platform_on(environ) as platform:
            task_status.started(platform)
            await ending.wait()

    async with anyio.create_task_group() as server:
        platform = await server.start(run)
        owner = await platform.register()
        async with platform.holder(owner) as holder:
            assert (await holder.get(owner.agent)).status_code == 200

            async def slow() -> None:
                given = {"sql": "SELECT 'done' FROM pg_sleep(1)"}
                answers.append(await holder.post(f"{owner.agent}/execute", json=given))

            async with anyio.create_task_group() as group:
                group.start_soon(slow)
                await eventually(lambda: is_running(platform, "SELECT 'done'"))
                ending.set()
            assert answers[0].json()["rows"] == [["done"]]
            with pytest.raises(httpx.ConnectError):
                await holder.get("/healthz")


async def is_running(platform: Platform, begins: str) -> bool:
    sql = "SELECT true FROM pg_stat_activity WHERE starts_with(query, $1) AND state = 'active'"
    async with platform.application.managed().control.connection() as connection:
        return bool(await connection.fetchval(sql, begins))
