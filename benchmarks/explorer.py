"""The explorer's table page on a million rows and on two hundred columns: `make bench-explorer`.

Times are the browser's own: from the start of the navigation, or from the click, until the frame in which the rows are
drawn. The server, the local Neon API and the browser's driver share one process, whose memory is printed.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
from playwright.sync_api import Browser, Page, sync_playwright
from tests.browser.house import CHROMIUM, FLAGS, House, house

PAGES = int(os.environ.get("PAGES", "200"))
MILLION = """
CREATE TABLE million (id bigint PRIMARY KEY, c1 text, c2 timestamptz, c3 numeric);
INSERT INTO million SELECT n, 'row ' || md5(n::text), now() - n * interval '1 s', n / 7.0
  FROM generate_series(1, 1000000) AS n;
ANALYZE million;
"""
WIDE_ROWS = 12_000
# Between acts and not measured: a session may make 120 calls in ten seconds.
PAUSE_MS = 120
WIDE = f"""
CREATE TABLE wide (id integer PRIMARY KEY, {", ".join(f"c{n} text" for n in range(1, 200))});
INSERT INTO wide SELECT n, md5(n::text), {", ".join(f"'value {n} of row ' || n" for n in range(2, 200))}
  FROM generate_series(1, {WIDE_ROWS}) AS n;
ANALYZE wide;
"""
# `drawn(looks, act)`: milliseconds from the act, or the navigation, until the frame with rows in which the text of the
# footer and that of the second cell make `looks` true.
SCRIPT = """
window.drawn = (looks, act) => new Promise(done => {
    const text = query => document.querySelector(query)?.textContent ?? '';
    const began = act ? performance.now() : 0;
    act?.();
    const look = () => {
        const cell = text('.ag-row[row-index="0"] [col-id="c1"]');
        if (!cell || !looks(text('.ax-foot [role=status]'), cell)) setTimeout(look, 5);
        else requestAnimationFrame(() => done(performance.now() - began));
    };
    look();
});
"""


def say(what: str, times: Sequence[float]) -> None:
    more = f", longest {max(times):.0f} ms of {len(times)}" if len(times) > 1 else ""
    print(f"  {what:<44}{statistics.median(times):8.0f} ms{more}", flush=True)


def busy() -> dict[str, float]:
    """Milliseconds of CPU that were used so far: by the browser, and by the server with Postgres."""
    used = {"browser": 0.0, "server": 0.0}
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            name, times = process.name(), process.cpu_times()
            if name != "node":  # Playwright's own
                used["browser" if name.startswith("chrom") else "server"] += (times.user + times.system) * 1000
    return used


def memory() -> float:
    return psutil.Process().memory_info().rss / 1e6


@dataclass
class Walk:
    at: House
    browser: Browser
    table: str
    rows: int
    size: int

    def fresh(self) -> Page:
        """A page in a browser that has nothing of the server's yet."""
        context = self.browser.new_context(viewport={"width": 1600, "height": 1000})
        context.request.get(self.at.link(), max_redirects=0)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.add_init_script(SCRIPT)
        return page

    def first(self, page: Page) -> float:
        page.wait_for_timeout(PAUSE_MS * 5)  # (which takes several calls)
        page.goto(f"{self.at.url}/explorer/agent/research?table={self.table}", wait_until="commit")
        return float(page.evaluate("drawn(text => text.startsWith('Rows 1 to '))"))

    def press(self, page: Page, name: str, text: str) -> float:
        page.wait_for_timeout(PAUSE_MS)
        act = f"() => document.querySelector('[aria-label=\"{name}\"]').click()"
        return float(page.evaluate(f"drawn(text => text.startsWith({text!r}), {act})"))

    def walk(self) -> None:
        page = self.fresh()
        say("first page, nothing in the browser's cache", [self.first(page)])
        before = busy()
        say("first page, page load included", [self.first(page) for _ in range(10)])
        spent = {who: (now - before[who]) / 10 for who, now in busy().items()}
        print(
            f"  CPU of each: browser {spent['browser']:.0f} ms, server and Postgres {spent['server']:.0f} ms",
            flush=True,
        )
        self.turn(page, "Next page", lambda number: f"Rows {number * self.size + 1:,} to")
        say("last page", [self.press(page, "Last page", "The last ")])
        self.turn(
            page, "Previous page", lambda number: f"Rows {(number + 1) * self.size:,} to {number * self.size + 1:,} f"
        )
        self.sort_and_filter(page)
        page.context.close()

    def turn(self, page: Page, name: str, text: Callable[[int], str]) -> None:
        times, before = [], memory()
        for number in range(1, PAGES + 1):
            times.append(self.press(page, name, text(number)))
            if number == PAGES // 2:
                middle = memory()
        say(f"{name.lower()}, {PAGES} times", times)
        print(f"  memory {before:.0f} MB, after {PAGES // 2} {middle:.0f} MB, at the end {memory():.0f} MB", flush=True)

    def sort_and_filter(self, page: Page) -> None:
        self.first(page)
        cell = page.locator('.ag-row[row-index="0"] [col-id="c1"]').text_content()
        act = "() => [...document.querySelectorAll('.ag-header-cell-text')].find(e => e.textContent === 'c1').click()"
        say("sort by a column without an index", [page.evaluate(f"drawn((_, cell) => cell !== {cell!r}, {act})")])
        cell = page.locator('.ag-row[row-index="0"] [col-id="c1"]').text_content()
        for column, value, what in (
            ("id", str(self.rows - 7), "by the key"),
            ("c1", cell, "by a column without an index"),
        ):
            self.first(page)
            page.get_by_role("button", name="Filter", exact=True).click()
            if column != "id":
                page.get_by_role("combobox", name="Column").click()
                page.get_by_role("option", name=column, exact=True).click()
            page.get_by_label("Value").fill(value or "")
            act = "() => [...document.querySelectorAll('button')].find(e => e.textContent === 'Add filter').click()"
            say(f"filter {what}", [page.evaluate(f"drawn(text => text === 'Rows 1 to 1', {act})")])


def main() -> None:
    if CHROMIUM is None:
        raise SystemExit("There is no Chromium here (Debian: apt-get install chromium).")
    with house() as at, sync_playwright() as playwright:
        began = time.perf_counter()
        at.fill(MILLION, WIDE)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; filled in {time.perf_counter() - began:.0f} s")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        began = time.perf_counter()
        page.goto(at.link())
        page.get_by_role("heading", name="Overview").wait_for()
        print(f"  first page of the process (loads NiceGUI) {(time.perf_counter() - began) * 1000:8.0f} ms", flush=True)
        for table, rows, size, what in (
            ("million", 1_000_000, 100, "1,000,000 rows"),
            ("wide", WIDE_ROWS, 50, "200 columns"),
        ):
            print(f"{what}:", flush=True)
            Walk(at, browser, table, rows, size).walk()
        print(f"load at the end {os.getloadavg()[0]:.1f}")
        browser.close()


if __name__ == "__main__":
    main()
