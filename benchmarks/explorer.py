"""The explorer's table page on a million rows and on two hundred columns: `make bench-explorer`.

Prints how long pages take in a real browser, from the click until their rows are there, and the server's memory. The
server, the local Neon API and the browser's driver share one process; its memory is what is printed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
from playwright.sync_api import Browser, Page, sync_playwright
from tests.browser.house import CHROMIUM, FLAGS, House, house

ROWS = ".ag-center-cols-container .ag-row"
PAGES = 50
MILLION = (
    "CREATE TABLE million (id bigint PRIMARY KEY, c1 text, c2 timestamptz, c3 numeric)",
    "INSERT INTO million SELECT n, 'row ' || md5(n::text), timestamptz '2026-01-01' + n * interval '1 s', n / 7.0 FROM"
    + " generate_series(1, 1000000) AS n",
    "ANALYZE million",
)
WIDE = (
    f"CREATE TABLE wide (id integer PRIMARY KEY, {', '.join(f'c{n} text' for n in range(1, 200))})",
    "INSERT INTO wide SELECT n"
    + "".join(f", 'value {n} of row ' || n" for n in range(1, 200))
    + " FROM generate_series(1, 10000) AS n",
    "ANALYZE wide",
)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def say(what: str, *times: float) -> None:
    ordered = sorted(times)
    more = f", longest {ordered[-1] * 1000:.0f} ms of {len(times)}" if len(times) > 1 else ""
    print(f"  {what:<40}{statistics.median(ordered) * 1000:8.0f} ms{more}", flush=True)


@dataclass
class Walk:
    at: House
    browser: Browser
    table: str
    rows: int
    page: Page | None = None

    def opened(self) -> Page:
        """The table's page in a browser that has nothing of it yet."""
        context = self.browser.new_context(viewport={"width": 1600, "height": 1000})
        context.request.get(self.at.link(), max_redirects=0)
        self.page = context.new_page()
        self.page.set_default_timeout(60_000)
        self.go()
        return self.page

    def go(self) -> None:
        assert self.page is not None
        self.page.goto(f"{self.at.url}/explorer/agent/research?table={self.table}")
        self.page.locator(ROWS).first.wait_for()

    def walk(self) -> None:
        say("first page, nothing cached", seconds(self.opened))
        page = self.page
        assert page is not None
        say("first page, page load included", *(seconds(self.go) for _ in range(5)))

        def press(name: str, first: int) -> Callable[[], None]:
            def work() -> None:
                page.get_by_role("button", name=name).click()
                page.get_by_text(f"Rows {first:,} to").wait_for()

            return work

        before = memory()
        turns = [seconds(press("Next page", number * 100 + 1)) for number in range(1, PAGES + 1)]
        say("next page", *turns)
        print(f"  memory {before:.0f} MB, after {PAGES} pages {memory():.0f} MB", flush=True)
        self._sort_and_filter(page)

    def _sort_and_filter(self, page: Page) -> None:
        def sort() -> None:
            page.locator(".ag-header-cell-text", has_text="c1").first.click()
            page.get_by_text("Rows 1 to 100").wait_for()

        def add() -> None:
            page.get_by_role("button", name="Add filter").click()
            page.get_by_text("Rows 1 to 1", exact=True).wait_for()

        say("sort by a column without an index", seconds(sort))
        self.go()
        page.get_by_role("button", name="Filter", exact=True).click()
        page.get_by_label("Value").fill(str(self.rows - 7))
        say("filter by the key", seconds(add))


def memory() -> float:
    return psutil.Process().memory_info().rss / 1e6


def main() -> None:
    if CHROMIUM is None:
        raise SystemExit("There is no Chromium here (Debian: apt-get install chromium).")
    with house() as at, sync_playwright() as playwright:
        print(f"  filled in {seconds(lambda: at.fill(*MILLION, *WIDE)):.0f} s", flush=True)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for table, rows, what in (("million", 1_000_000, "1,000,000 rows"), ("wide", 10_000, "200 columns")):
            print(f"{what}:", flush=True)
            Walk(at, browser, table, rows).walk()
        browser.close()


if __name__ == "__main__":
    main()
