"""A server that closes idle connections soon leaves the sockets of open pages alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import WebSocket, expect
from tests.browser.conftest import OpenPage
from tests.browser.house import House, house


@pytest.fixture(scope="module")
def explorer(chromium: str) -> Iterator[House]:
    with house(patience_s=0.5) as made:
        yield made


def is_closed_by(url: str) -> None:
    """Wait until the server closes a connection on which nothing is asked: that takes its patience."""
    at = urlsplit(url)
    with socket.create_connection((at.hostname, at.port), timeout=60) as idle, suppress(ConnectionResetError):
        assert idle.recv(1) == b""


def test_an_open_page_outlasts_the_patience_with_idle_connections(open_page: OpenPage, explorer: House) -> None:
    page = open_page("/sign-in", signed_in=False)
    sockets, closed = list[WebSocket](), list[WebSocket]()

    def listen(opened: WebSocket) -> None:
        sockets.append(opened)
        opened.on("close", lambda each: closed.append(each))

    page.goto(explorer.link())
    expect(page.get_by_role("table")).to_be_visible()
    page.on("websocket", listen)
    page.goto(f"{explorer.url}/explorer/agent/research?table=papers")
    expect(page.get_by_text("Rows 1 to 100")).to_be_visible()
    for _ in range(5):
        is_closed_by(explorer.url)
    page.get_by_role("button", name="Next page").click()
    expect(page.get_by_text("Rows 101 to 200")).to_be_visible()
    assert len(sockets) == 1
    assert not closed
