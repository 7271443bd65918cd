"""The two pictures of the explorer in README and docs: `make screenshots`."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import sync_playwright
from tests.browser.house import CHROMIUM, FLAGS, house

IMAGES = Path(__file__).parents[2] / "docs" / "images"


def main() -> None:
    if CHROMIUM is None:
        raise SystemExit("There is no Chromium here (Debian: apt-get install chromium).")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with house() as at, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, theme, path, ready in (
            ("explorer-table", "light", "/agent/research?table=papers", ".ag-center-cols-container .ag-row"),
            ("explorer-plan", "dark", "/agent/research/sql", ".ax-empty"),
        ):
            page = browser.new_page(viewport={"width": 1280, "height": 720}, color_scheme=theme)
            page.goto(at.link())
            page.goto(f"{at.url}/explorer{path}")
            page.wait_for_selector(ready)
            if name == "explorer-plan":
                page.locator(".cm-content").click()
                page.keyboard.insert_text(
                    "SELECT p.year, count(*) AS claims, avg(c.confidence)\n  FROM papers AS p\n"
                    "  JOIN claims AS c ON c.paper = p.id\n WHERE p.cited > 100\n GROUP BY p.year ORDER BY 2 DESC"
                )
                page.keyboard.press("Escape")
                page.get_by_role("checkbox", name="with a run").click()
                page.get_by_role("button", name="Plan").click()
                page.wait_for_selector(".ax-plan")
            page.screenshot(path=IMAGES / f"{name}.png", animations="disabled")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
