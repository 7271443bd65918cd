"""Real sockets of two people: none speaks for the other's page, and one that is open lasts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from playwright.sync_api import WebSocket, expect
from tests.browser.conftest import OpenPage
from tests.browser.house import House
from websockets.sync.client import ClientConnection, connect

COOKIE = "agentdb_explorer"
SOCKET = "/explorer/_nicegui_ws/socket.io/?EIO=4&transport="


@pytest.fixture
def bobs(explorer: House) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=explorer.url, timeout=60) as client:
        assert client.get(explorer.link(user="bob")).status_code == 303
        yield client


@contextmanager
def speaking(explorer: House, cookie: str, query: str = "") -> Iterator[ClientConnection]:
    """A socket on which socket.io is spoken, with a session's cookie."""
    url = explorer.url.replace("http", "ws") + SOCKET + "websocket" + query
    with connect(url, origin=explorer.url, additional_headers={"Cookie": f"{COOKIE}={cookie}"}) as opened:
        assert opened.recv(timeout=30).startswith("0")
        opened.send("40")
        assert opened.recv(timeout=30).startswith("40")
        yield opened


def asked(socket: ClientConnection, event: str, message: Any) -> Any:
    """What the server answers, when it has heard all that was said before."""
    socket.send(f"427{json.dumps([event, message])}")
    while not (answer := socket.recv(timeout=30)).startswith("437"):
        if answer == "2":
            socket.send("3")
    return json.loads(answer[3:])[0]


def heard(socket: ClientConnection) -> str | bytes:
    """What the server says by itself, but for its pings. Raises TimeoutError."""
    while (said := socket.recv(timeout=0.5)) == "2":
        socket.send("3")
    return said


def test_nobody_speaks_for_the_page_of_another_session(
    open_page: OpenPage, explorer: House, bobs: httpx.Client
) -> None:
    page = open_page("/sign-in", signed_in=False)
    sent: list[str] = []
    queries: list[str] = []

    def listen(socket: WebSocket) -> None:
        queries.append(socket.url)
        socket.on("framesent", lambda each: sent.append(str(each)))

    page.on("websocket", listen)
    page.goto(explorer.link())
    page.get_by_role("button", name="Theme: Auto").click()
    expect(page.get_by_role("button", name="Theme: Dark")).to_be_visible()
    event = next(json.loads(each[2:])[1] for each in sent if each.startswith('42["event"'))
    client_id = event["client_id"]
    tab_id = httpx.URL(queries[-1]).params["tab_id"]
    handshake = {"client_id": client_id, "tab_id": tab_id, "document_id": "d"}

    with speaking(explorer, bobs.cookies[COOKIE]) as socket:
        socket.send(f"42{json.dumps(['event', event])}")
        assert asked(socket, "handshake", handshake) is False
        for name in ("event", "javascript_response", "ack", "log"):
            message = event | {"request_id": "1", "result": 1, "next_message_id": 10**6, "level": "error", "args": []}
            assert asked(socket, name, message) is False
        for odd in (None, [], {}, {"client_id": [client_id]}):
            assert asked(socket, "event", odd) is False
        with pytest.raises(TimeoutError):
            heard(socket)  # nothing of the page comes this way
    expect(page.get_by_role("button", name="Theme: Dark")).to_be_visible()

    own = next(each["value"] for each in page.context.cookies() if each["name"] == COOKIE)
    with speaking(explorer, own) as socket:
        assert asked(socket, "handshake", handshake) is True
        socket.send(f"42{json.dumps(['event', event])}")
        expect(page.get_by_role("button", name="Theme: Light")).to_be_visible()


def test_a_socket_is_not_gone_on_with_by_another_session(explorer: House, bobs: httpx.Client) -> None:
    with httpx.Client(base_url=explorer.url, timeout=60) as adas:
        page = adas.get(explorer.link(), follow_redirects=True).text
        client_id = re.search(r"client_id[^0-9a-f]+([0-9a-f-]{36})", page)
        assert client_id is not None
        opened = adas.get(SOCKET + "polling").text
        sid = json.loads(opened[1:])["sid"]
        going_on = f"{SOCKET}polling&sid={sid}"
        assert bobs.post(going_on, content="40").status_code == 401
        assert bobs.get(f"{going_on}&client_id={client_id[1]}").status_code == 401
        assert bobs.get(f"{SOCKET}polling&client_id=gone&client_id={client_id[1]}").status_code == 401
        assert adas.post(going_on, content="40").status_code == 200
        assert adas.get(going_on).text.startswith("40")
