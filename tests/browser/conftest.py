"""One stack, one server and one Chromium for the folder."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from tests.browser.house import CHROMIUM, FLAGS, House, artefacts, house

DESKTOP, PHONE = (1600, 1000), (390, 844)


class Framer(http.server.BaseHTTPRequestHandler):
    """Another site, with the explorer in a frame."""

    inner = ""

    def do_GET(self) -> None:
        body = f'<title>platform</title><iframe src="{self.inner}" width="1200" height="800"></iframe>'.encode()
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="session")
def framers() -> Iterator[tuple[str, str]]:
    """Origins of two other sites: the one that may embed, and one that may not."""
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Framer) for _ in range(2)]
    threads = [threading.Thread(target=server.serve_forever, daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    first, second = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    yield first, second
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def explorer(framers: tuple[str, str]) -> Iterator[House]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    with house(embedding=framers[0]) as made:
        yield made


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


OpenPage = Callable[..., Page]
Keep = Callable[[Page, str], None]


@pytest.fixture
def open_page(browser: Browser, explorer: House) -> Iterator[OpenPage]:
    """A new person's page, signed in; what goes wrong in its scripts fails the test."""
    contexts, errors = [], list[str]()

    def make(
        path: str = "/", *, user: str = "ada", workspace: str | None = None, size: tuple[int, int] = DESKTOP,
        theme: Any = "light", signed_in: bool = True,
    ) -> Page:  # fmt: skip
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        if signed_in:
            page.goto(explorer.link(user, workspace))
        if not signed_in or path != "/":
            page.goto(f"{explorer.url}/explorer{path}")
        return page

    yield make
    for context in contexts:
        context.close()
    assert not [each for each in errors if "status of 4" not in each and "frame-ancestors" not in each], errors


@pytest.fixture
def keep(request: pytest.FixtureRequest) -> Callable[[Page, str], None]:
    """Keep a picture of a page as an artefact."""

    def shoot(page: Page, name: str) -> None:
        page.screenshot(path=artefacts() / f"{name}.png", animations="disabled")

    return shoot
