"""One stack, one server and one Chromium a file: while Playwright runs, no other event loop does in its thread."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from tests.browser.house import CHROMIUM, FLAGS, House, artefacts, house

PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)
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


@pytest.fixture(scope="module")
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
def chromium() -> str:
    """Its path."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    return CHROMIUM


@pytest.fixture(scope="module")
def explorer(framers: tuple[str, str], chromium: str) -> Iterator[House]:
    with house(embedding=framers[0]) as made:
        yield made


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


OpenPage = Callable[..., Page]
Keep = Callable[[Page, str], None]


@pytest.fixture(scope="module")
def adas(browser: Browser, explorer: House) -> Iterator[BrowserContext]:
    """A browser in which ada is signed in, with what it keeps of the server's files."""
    context = browser.new_context()
    context.request.get(explorer.link(), max_redirects=0)
    yield context
    context.close()


@pytest.fixture
def open_page(browser: Browser, explorer: House, adas: BrowserContext) -> Iterator[OpenPage]:
    """A person's page, signed in; what goes wrong in its scripts fails the test. `fresh`: in a browser of its own."""
    contexts, pages, errors = list[BrowserContext](), list[Page](), list[str]()

    def make(
        path: str = "/", *, user: str = "ada", workspace: str | None = None, signed_in: bool = True, fresh: bool = False
    ) -> Page:
        context = adas
        if fresh or not signed_in or (user, workspace) != ("ada", None):
            context = browser.new_context()
            contexts.append(context)
            if signed_in:
                context.request.get(explorer.link(user, workspace), max_redirects=0)
        page = context.new_page()
        pages.append(page)
        page.set_default_timeout(PATIENCE_MS)
        page.set_viewport_size({"width": DESKTOP[0], "height": DESKTOP[1]})
        page.emulate_media(color_scheme="light")
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(f"{explorer.url}/explorer{path}")
        return page

    yield make
    for page in pages:
        page.close()
    for context in contexts:
        context.close()
    assert not [each for each in errors if "status of 4" not in each and "frame-ancestors" not in each], errors


@pytest.fixture
def keep(request: pytest.FixtureRequest) -> Callable[[Page, str], None]:
    """Keep a picture of a page as an artefact."""

    def shoot(page: Page, name: str) -> None:
        page.screenshot(path=artefacts() / f"{name}.png", animations="disabled")

    return shoot
