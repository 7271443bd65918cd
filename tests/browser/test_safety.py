"""What a page must not do, whoever wrote the data in it and whoever asks for it."""

from __future__ import annotations

import csv
import re
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from playwright.sync_api import expect
from tests.browser.conftest import Framer, Keep, OpenPage
from tests.browser.house import NASTY, NASTY_NAME, House, nasty
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from agentdb_mcp.credentials.cipher import Cipher
from agentdb_mcp.execution import login
from agentdb_mcp.models import TokenScope

COOKIE = "agentdb_explorer"


@pytest.fixture(scope="module", autouse=True)
def passwords() -> Iterator[list[str]]:
    """Of the agents' roles, each as it is set for one login; from before the server's first one."""
    made: list[str] = []
    unseal = login._unseal_sql

    def noting(role: str, database: str, password: str, until: datetime) -> str:
        made.append(password)
        return unseal(role, database, password, until)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(login, "_unseal_sql", noting)
        yield made


@pytest.fixture
def signed_in(explorer: House) -> Iterator[httpx.Client]:
    """A client with the cookie of a session."""
    with httpx.Client(base_url=explorer.url, timeout=60) as client:
        assert client.get(explorer.link()).status_code == 303
        yield client


def test_html_and_script_in_data_names_comments_and_errors_show_as_text(
    open_page: OpenPage, explorer: House, keep: Keep
) -> None:
    nasty(explorer)
    explorer.call(explorer.application.managed().lifecycle.create_workspace, "nasty", "ada", NASTY_NAME)
    page = open_page("/agent/support")
    page.get_by_role("link", name=NASTY_NAME).first.click()
    expect(page.locator(".ag-center-cols-container .ag-row").first).to_be_visible()
    expect(page.get_by_text(NASTY).first).to_be_visible()
    keep(page, "nasty-data")
    page.locator(".ag-center-cols-container .ag-cell").first.dblclick()
    expect(page.get_by_role("textbox").last).to_have_value(NASTY)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("link", name="Structure").click()
    expect(page.get_by_text(NASTY).first).to_be_visible()
    page.goto(f"{explorer.url}/explorer/agent/support/sql")
    page.locator(".cm-content").click()
    page.keyboard.insert_text(
        "SELECT '" + NASTY.replace("'", "''") + "'::text AS \"" + NASTY_NAME.replace('"', '""') + '"'
    )
    page.keyboard.press("Control+Enter")
    expect(page.locator(".ag-cell").first).to_have_text(NASTY)
    page.keyboard.press("Control+a")
    page.keyboard.insert_text("SELECT '" + NASTY.replace("'", "''") + "'::integer")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text(NASTY[:40])
    page.goto(f"{explorer.url}/explorer/")
    expect(page.get_by_role("link", name=NASTY_NAME)).to_be_visible()
    page.get_by_role("link", name=NASTY_NAME).click()
    expect(page.get_by_role("heading", name=NASTY_NAME)).to_be_visible()
    assert page.evaluate("window.pwned") is None


def test_a_link_signs_in_once(open_page: OpenPage, explorer: House, keep: Keep) -> None:
    link = explorer.link()
    page = open_page(signed_in=False)
    page.goto(link)
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    assert "adb_" not in page.url
    other = open_page(signed_in=False)
    other.goto(link)
    expect(other.get_by_role("alert")).to_contain_text("used before")
    keep(other, "link-used")


def test_signing_in_by_a_token_and_out_again(open_page: OpenPage, explorer: House, keep: Keep) -> None:
    _, token = explorer.token(TokenScope.EXPLORER)
    _, wrong = explorer.token(TokenScope.MCP)
    page = open_page("/agent/research?table=papers", signed_in=False)
    page.get_by_label("Token").fill(wrong)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("not for the explorer")
    keep(page, "sign-in-refused")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="papers")).to_be_visible()
    cookie = next(each for each in page.context.cookies() if each["name"] == COOKIE)
    assert cookie["httpOnly"]
    assert token not in str(cookie)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    with httpx.Client(cookies={COOKIE: cookie["value"]}, timeout=60) as copied:
        assert copied.get(f"{explorer.url}/explorer/").status_code == 303


def test_a_revoked_token_ends_its_sessions(open_page: OpenPage, explorer: House) -> None:
    token_id, token = explorer.token(TokenScope.EXPLORER)
    page = open_page("/sign-in", signed_in=False)
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.goto(f"{explorer.url}/explorer/agent/research?table=papers")
    expect(page.get_by_text("Rows 1 to 100")).to_be_visible()
    explorer.call(explorer.application.managed().tokens.revoke, token_id)
    page.get_by_role("button", name="Reload").click()
    expect(page.get_by_text("You were signed out")).to_be_visible()


def test_a_session_of_one_workspace_sees_it_and_the_global_database_alone(open_page: OpenPage, explorer: House) -> None:
    page = open_page(workspace="support")
    expect(page.get_by_role("table").get_by_role("link")).to_have_text(["Global database", "Support agent"])
    page.goto(f"{explorer.url}/explorer/agent/research")
    expect(page.get_by_role("alert")).to_contain_text("There is no workspace")
    page.goto(f"{explorer.url}/explorer/agent/shop/sql")
    expect(page.get_by_role("alert")).to_contain_text("There is no workspace")


def test_the_policy_of_pages_lets_no_inline_script_run_and_nobody_frame_them(
    explorer: House, signed_in: httpx.Client, framers: tuple[str, str]
) -> None:
    page = signed_in.get("/explorer/")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert re.fullmatch(r"'self' 'nonce-[\w-]{22}' 'unsafe-eval'", policy["script-src"])
    assert policy["frame-ancestors"] == f"'self' {framers[0]}"
    assert page.headers["referrer-policy"] == "same-origin"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-store"
    nonces = set(re.findall(r"<script[^>]*>", page.text))
    assert all("nonce=" in each for each in nonces)
    strict = httpx.get(f"{explorer.url}/explorer/sign-in", timeout=60).headers["content-security-policy"]
    assert "unsafe" not in strict
    attributes = next(iter(page.headers.get_list("set-cookie"))).lower()
    assert "httponly" in attributes
    assert "path=/explorer" in attributes


def test_only_the_named_site_may_embed_it(open_page: OpenPage, explorer: House, framers: tuple[str, str]) -> None:
    Framer.inner = explorer.link()
    page = open_page("/sign-in", signed_in=False)
    page.goto(framers[0])
    expect(page.frame_locator("iframe").get_by_role("heading", name="Overview")).to_be_visible()
    Framer.inner = f"{explorer.url}/explorer/sign-in"
    page.goto(framers[1])
    page.wait_for_load_state("networkidle")
    assert page.frame_locator("iframe").get_by_label("Token").count() == 0


def test_requests_and_sockets_of_a_foreign_origin_fail(explorer: House, signed_in: httpx.Client) -> None:
    foreign = {"origin": "https://evil.example"}
    assert signed_in.post("/explorer/sign-out", headers=foreign).status_code == 403
    assert signed_in.get("/explorer/", headers=foreign).status_code == 403
    socket = explorer.url.replace("http", "ws") + "/explorer/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    cookie = {"Cookie": f"{COOKIE}={signed_in.cookies[COOKIE]}"}
    for origin, headers in (("https://evil.example", cookie), (explorer.url, {})):
        with pytest.raises(InvalidStatus) as refused, connect(socket, origin=origin, additional_headers=headers):
            pass
        assert refused.value.response.status_code == 403
    with connect(socket, origin=explorer.url, additional_headers=cookie) as opened:
        assert opened.recv().startswith("0")


def test_a_page_is_no_use_to_another_session(explorer: House, signed_in: httpx.Client) -> None:
    page = signed_in.get("/explorer/").text
    client_id = re.search(r'"client_id": ?"([0-9a-f-]{36})"', page) or re.search(
        r"client_id[^0-9a-f]+([0-9a-f-]{36})", page
    )
    assert client_id is not None
    with httpx.Client(base_url=explorer.url, timeout=60) as other:
        other.get(explorer.link(user="bob"))
        query = f"EIO=4&transport=polling&client_id={client_id[1]}"
        assert other.get(f"/explorer/_nicegui_ws/socket.io/?{query}").status_code == 401
        assert signed_in.get(f"/explorer/_nicegui_ws/socket.io/?{query}").status_code == 200


def test_no_connection_string_or_password_leaves_in_pages_sockets_or_files(
    open_page: OpenPage, explorer: House, passwords: list[str]
) -> None:
    lifecycle = explorer.application.managed().lifecycle
    explorer.call(lifecycle.create_workspace, "unused", "ada", "Unused")  # so that somebody logs in for a page
    before = len(passwords)
    page = open_page(signed_in=False)
    seen: list[str] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda payload: seen.append(str(payload))))
    page.on(
        "response",
        lambda answer: seen.append(answer.text()) if "text/html" in answer.headers.get("content-type", "") else None,
    )
    page.goto(explorer.link())
    for path in ("/", "/agent/research", "/agent/research?table=papers", "/agent/unused", "/activity"):
        page.goto(f"{explorer.url}/explorer{path}")
        expect(page.locator(".ax-loading")).to_have_count(0)
    page.goto(f"{explorer.url}/explorer/agent/research/sql")
    page.locator(".cm-content").click()
    page.keyboard.insert_text("SELECT current_setting('listen_addresses'), 1 / 0")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    page.goto(f"{explorer.url}/explorer/agent/research?table=papers")
    for label in ("Export as CSV", "Export as JSON"):
        with page.expect_download() as waited:
            page.get_by_role("button", name=label).click()
        seen.append(Path(waited.value.path()).read_text("utf-8"))
    everything = "\n".join(seen)
    assert len(everything) > 100_000
    settings = explorer.application.settings
    stored = [row.uri or "" for row in explorer.call(lifecycle.databases.of_user, "ada")]
    cipher = Cipher(list(settings.encryption_keys))
    uris = [cipher.decrypt(uri).reveal() for uri in stored]
    assert len(uris) >= 3
    assert len(passwords) > before >= 2
    for secret in (
        "postgresql://",
        "postgres://",
        explorer.stack.postgres.password.reveal(),
        explorer.stack.emulator.api_key,
        settings.encryption_keys[0].reveal(),
        settings.service_key.reveal(),
        "adb_",
        "SCRAM-SHA-256",
        *passwords,
        *stored,
        *(urlsplit(uri).password or uri for uri in uris),
    ):
        assert secret not in everything.replace("adb_…", ""), secret


@pytest.mark.long
def test_an_export_of_any_size_takes_little_memory_of_the_server(open_page: OpenPage, explorer: House) -> None:
    explorer.fill(
        "CREATE TABLE large AS SELECT n AS id, repeat(md5(n::text), 16) AS text FROM generate_series(1, 200000) AS n"
    )
    page = open_page("/agent/research?table=large")
    page.get_by_text("Rows 1 to 100").wait_for()
    process, sizes, done = psutil.Process(), list[int](), threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            sizes.append(process.memory_info().rss)

    before = process.memory_info().rss
    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with page.expect_download() as waited:
            page.get_by_role("button", name="Export as CSV").click()
        path = Path(waited.value.path())
    finally:
        done.set()
        watching.join()
    assert path.stat().st_size > 100_000_000
    with path.open(newline="") as file:
        rows = csv.reader(file)
        assert next(rows) == ["id", "text"]
        assert sum(int(row[0]) for row in rows if len(row[1]) == 512) == 200_000 * 200_001 // 2
    assert max(sizes) - before < 40_000_000


def test_files_are_for_their_session_and_once(open_page: OpenPage, explorer: House, signed_in: httpx.Client) -> None:
    page = open_page("/agent/research?table=papers")
    with page.expect_download() as waited:
        page.get_by_role("button", name="Export as CSV").click()
    assert httpx.get(waited.value.url, timeout=60).status_code == 401
    assert signed_in.get(waited.value.url).status_code == 404


def test_links_are_made_by_the_backend_alone_and_for_users_that_exist(explorer: House) -> None:
    key = {"authorization": f"Bearer {explorer.application.settings.service_key.reveal()}"}
    with httpx.Client(base_url=explorer.url, timeout=60) as client:
        made = client.post("/api/explorer/links", json={"user_id": "ada"}, headers=key)
        assert made.status_code == 201
        assert made.json()["url"].startswith(f"{explorer.url}/explorer/enter?link=adb_")
        assert client.post("/api/explorer/links", json={"user_id": "nobody"}, headers=key).status_code == 404
        _, token = explorer.token(TokenScope.ADMIN)
        theirs = client.post(
            "/api/explorer/links", json={"user_id": "ada"}, headers={"authorization": f"Bearer {token}"}
        )
        assert theirs.status_code == 403
        assert client.get("/explorer/sign-in", params={"next": "//evil.example"}).status_code == 200


def test_a_session_ends_when_nothing_is_done_for_half_an_hour(open_page: OpenPage, explorer: House) -> None:
    page = open_page("/agent/research?table=papers")
    expect(page.get_by_text("Rows 1 to 100")).to_be_visible()
    sessions = explorer.explorer.sessions
    later = time.time() + 31 * 60
    sessions._now = lambda: later
    try:
        page.get_by_role("button", name="Reload").click()
        expect(page.get_by_text("You were signed out")).to_be_visible()
    finally:
        sessions._now = time.time
