"""The explorer's table page on a million rows and on two hundred columns: `make bench-explorer`.

Prints how long the first page, next pages and a sort take in a real browser, and the server's memory before and after.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
from playwright.sync_api import Page, sync_playwright
from tests.browser.house import CHROMIUM, FLAGS, house

ROWS = ".ag-center-cols-container .ag-row"
PAGES = 30


def timed(name: str, work: Callable[[], None]) -> None:
    began = time.perf_counter()
    work()
    print(f"  {name:<28}{(time.perf_counter() - began) * 1000:8.0f} ms")


def memory() -> float:
    return psutil.Process().memory_info().rss / 1e6


def turn(page: Page, first: int) -> None:
    page.get_by_role("button", name="Next page").click()
    page.get_by_text(f"Rows {first:,} to").wait_for()


def walk(page: Page, url: str, table: str) -> None:
    def opened() -> None:
        page.goto(f"{url}/explorer/agent/research?table={table}")
        page.locator(ROWS).first.wait_for()

    def sorted_by(header: str) -> None:
        page.locator(".ag-header-cell-text", has_text=header).first.click()
        page.locator(".ag-header-cell-sorted-asc").wait_for()
        page.get_by_text("Rows 1 to 100").wait_for()

    opened()  # what the browser and the server load once
    timed("first page, page load included", opened)
    timed("next page", lambda: turn(page, 101))
    before = memory()
    began = time.perf_counter()
    for index in range(2, PAGES + 2):
        turn(page, index * 100 + 1)
    print(f"  {PAGES} pages, each{(time.perf_counter() - began) / PAGES * 1000:22.0f} ms")
    print(f"  memory of the server {before:.0f} MB, after {PAGES} pages {memory():.0f} MB")
    timed("sort by another column", lambda: sorted_by("c1"))


def main() -> None:
    if CHROMIUM is None:
        raise SystemExit("There is no Chromium here (Debian: apt-get install chromium).")
    with house() as at, sync_playwright() as playwright:
        at.call(at.application.managed().usage.set_tier, "ada", "enterprise")
        at.sql("CREATE TABLE million (id bigint PRIMARY KEY, c1 text, c2 timestamptz, c3 numeric)")
        for start in range(0, 1_000_000, 20_000):
            at.sql(
                "INSERT INTO million SELECT n, 'row ' || md5(n::text), now() - n * interval '1 s', n / 7.0"
                " FROM generate_series($1::bigint, $2::bigint) AS n",
                start,
                start + 19_999,
            )
        columns = ", ".join(f"c{n} text DEFAULT 'value {n} of a wide table'" for n in range(1, 200))
        at.sql(f"CREATE TABLE wide (id integer PRIMARY KEY, {columns})")
        for start in range(1, 5001, 500):
            at.sql("INSERT INTO wide (id) SELECT generate_series($1::integer, $2::integer)", start, start + 499)
        for name in ("million", "wide"):
            at.sql(f"ANALYZE {name}")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(at.link())
        for name, what in (("million", "1,000,000 rows"), ("wide", "200 columns, 5,000 rows")):
            print(f"{what}:")
            walk(page, at.url, name)
        browser.close()


if __name__ == "__main__":
    main()
