"""A person walks through the explorer in a real browser."""

from __future__ import annotations

import csv
import io
import json
import re
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError
from tests.browser.conftest import DESKTOP, PHONE, Keep, OpenPage
from tests.browser.house import House

ROWS = ".ag-center-cols-container .ag-row"
EVERY_PAGE = {
    "overview": "/",
    "tables": "/agent/research",
    "data": "/agent/research?table=papers",
    "structure": "/agent/research?table=papers&tab=structure",
    "sql": "/agent/research/sql",
    "global": "/global",
    "activity": "/activity",
    "not-found": "/agent/nowhere",
}


def cell(page: Page, row: int, column: str) -> Locator:
    """By the header of its column."""
    header = page.locator(".ag-header-cell", has=page.get_by_text(column, exact=True))
    return page.locator(f'{ROWS}[row-index="{row}"] [col-id="{header.get_attribute("col-id")}"]')


def select_row(page: Page, row: int) -> None:
    page.locator(f'{ROWS}[row-index="{row}"] .ag-cell').first.click()


def write(page: Page, sql: str) -> None:
    page.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(sql)


def run(page: Page, sql: str) -> None:
    write(page, sql)
    page.get_by_role("button", name="Run", exact=True).click()


def fits(page: Page) -> bool:
    """Whether nothing is wider than the window, once all has taken its place."""
    with suppress(PlaywrightTimeoutError):
        page.wait_for_function("document.documentElement.scrollWidth <= window.innerWidth", timeout=5000)
        return True
    return False


def download(page: Page, label: str) -> str:
    with page.expect_download() as waited:
        page.get_by_role("button", name=label).click()
    return Path(waited.value.path()).read_text("utf-8")


def test_every_page_fits_phone_and_desktop_in_both_themes(open_page: OpenPage, keep: Keep, explorer: House) -> None:
    page = open_page()
    for name, path in EVERY_PAGE.items():
        page.goto(f"{explorer.url}/explorer{path}")
        expect(page.locator("h1, .ax-problem").first).to_be_visible()
        expect(page.locator(".ax-loading")).to_have_count(0)
        if name == "data":
            expect(page.locator(ROWS).first).to_be_visible()
        if name == "activity":
            expect(page.get_by_role("table")).to_be_visible()
        if name == "overview":
            expect(page.locator(".ax-chart svg").first).to_be_visible()
        for size in (DESKTOP, PHONE):
            page.set_viewport_size({"width": size[0], "height": size[1]})
            for theme in ("light", "dark"):
                page.emulate_media(color_scheme=theme)
                expect(page.locator("body.body--dark")).to_have_count(int(theme == "dark"))
                keep(page, f"{name}-{theme}-{size[0]}")
            assert fits(page), (name, size)


def test_overview_shows_databases_with_state_size_cost_and_last_use_and_the_budget(
    open_page: OpenPage, explorer: House
) -> None:
    explorer.sql("SELECT 1")
    explorer.call(explorer.application.managed().audit.flush)
    page = open_page()
    table = page.get_by_role("table")
    expect(table.get_by_role("row")).to_have_count(4)
    row = table.get_by_role("row", name="Research agent")
    expect(row).to_contain_text("connected")
    expect(row).to_contain_text("MB")
    expect(row).to_contain_text("just now")
    expect(page.get_by_role("meter")).to_have_attribute("aria-valuemax", "100")
    expect(page.get_by_role("img", name="Cost by database")).to_be_visible()
    assert table.inner_text().count("Global database") == 1


def test_an_exceeded_budget_shows_and_lets_people_read(open_page: OpenPage, explorer: House, keep: Keep) -> None:
    usage = explorer.application.managed().usage
    explorer.sql("CREATE TABLE notes (id integer)", workspace="shop", user="bob")
    explorer.call(usage.set_tier, "bob", "free", 1)
    explorer.call(explorer.application.managed().audit.flush)
    page = open_page(user="bob")
    expect(page.get_by_role("alert")).to_contain_text("used up")
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        keep(page, f"exceeded-{theme}")
    page.goto(f"{explorer.url}/explorer/agent/shop/sql")
    run(page, "INSERT INTO notes VALUES (1)")
    expect(page.get_by_role("alert")).to_contain_text("budget")
    keep(page, "exceeded-refused")


def test_a_table_shows_its_columns_keys_indexes_and_size(open_page: OpenPage) -> None:
    page = open_page("/agent/research?table=papers&tab=structure")
    expect(page.get_by_text("about 340 rows")).to_be_visible()
    for text in (
        "timestamp with time zone",
        "CHECK ((year > 1500))",
        "papers_year ON public.papers",
        "identity by default",
    ):
        expect(page.get_by_text(text).first).to_be_visible()
    expect(page.get_by_text("Papers that the agent has read.")).to_be_visible()


def test_rows_are_paged_sorted_and_filtered_by_postgres(open_page: OpenPage) -> None:
    page = open_page("/agent/research?table=papers")
    expect(page.get_by_text("Rows 1 to 100 of about 340")).to_be_visible()
    page.get_by_role("button", name="Next page").click()
    expect(page.get_by_text("Rows 101 to 200")).to_be_visible()
    expect(cell(page, 0, "id")).to_have_text("101")
    page.get_by_role("button", name="Last page").click()
    expect(page.get_by_text("The last 100 rows of about 340")).to_be_visible()
    expect(cell(page, 0, "id")).to_have_text("241")
    expect(cell(page, 1, "id")).to_have_text("242")
    page.get_by_role("button", name="Previous page").click()
    expect(page.get_by_text("Rows 200 to 101 from the end")).to_be_visible()
    expect(cell(page, 0, "id")).to_have_text("141")
    page.get_by_role("button", name="First page").click()
    expect(page.get_by_text("Rows 1 to 100 of about 340")).to_be_visible()
    expect(cell(page, 0, "id")).to_have_text("1")
    for least_or_most in ("25", "999"):
        page.locator(".ag-header-cell-text", has_text="cited").click()
        expect(cell(page, 0, "cited")).to_have_text(least_or_most)
    page.get_by_role("button", name="Filter", exact=True).click()
    page.get_by_label("Value").fill("340")
    page.get_by_role("button", name="Add filter").click()
    expect(page.get_by_text("Rows 1 to 1", exact=True)).to_be_visible()
    expect(cell(page, 0, "title")).to_have_text(re.compile("part 340$"))
    page.get_by_role("button", name="Remove the filter").click()
    expect(page.get_by_text("Rows 1 to 100")).to_be_visible()


def test_an_export_has_the_rows_that_fit_in_the_order_chosen(open_page: OpenPage) -> None:
    page = open_page("/agent/research?table=papers")
    page.get_by_role("button", name="Filter", exact=True).click()
    page.get_by_role("combobox", name="Operator").click()
    page.get_by_role("option", name="≤", exact=True).click()
    page.get_by_label("Value").fill("120")
    page.get_by_role("button", name="Add filter").click()
    page.locator(".ag-header-cell-text", has_text="cited").click()
    fitting = sorted(n * 37 % 1000 for n in range(1, 121))
    expect(page.locator(f'{ROWS}[row-index="0"] [col-id="c4"]')).to_have_text(str(fitting[0]))
    with page.expect_download() as waited:
        page.get_by_role("button", name="Export as CSV").click()
    with Path(waited.value.path()).open(newline="") as file:
        cited = [int(row["cited"]) for row in csv.DictReader(file)]
    assert cited == fitting
    with page.expect_download() as waited:
        page.get_by_role("button", name="Export as JSON").click()
    exported = json.loads(Path(waited.value.path()).read_text("utf-8"))
    assert [row["cited"] for row in exported] == fitting


def test_rows_are_in_the_page_that_is_sent(explorer: House) -> None:
    """Of a machine that is so busy that a page gives up waiting for them, not each time."""
    with httpx.Client(base_url=explorer.url, timeout=60) as client:
        client.get(explorer.link())
        pages = (client.get("/explorer/agent/research?table=papers").text for _ in range(10))
        assert any("On the practice of databases, part 1" in sent for sent in pages)


def test_files_of_pages_are_kept_by_browsers_and_sent_compressed(explorer: House) -> None:
    with httpx.Client(base_url=explorer.url, timeout=60) as client:
        client.get(explorer.link())
        sent = client.get("/explorer/agent/research?table=papers").text
        files = re.findall(r'"(/explorer/(?:_nicegui|static)/[^"]+\.(?:js|mjs|css)(?:\?v=\w+)?)"', sent)
        assert len(files) > 8
        for file in files:
            first, again = client.get(file), client.get(file)
            assert "immutable" in first.headers["cache-control"], file
            assert first.content == again.content
            assert first.headers["content-type"] == again.headers["content-type"]
        plain = client.get(files[0], headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content == client.get(files[0]).content
        missing = client.get("/explorer/_nicegui/static/missing.js")
        assert missing.status_code == 404
        assert "immutable" not in missing.headers.get("cache-control", "")


def test_values_are_shown_for_what_they_are(open_page: OpenPage, explorer: House) -> None:
    explorer.sql("CREATE TABLE odd (id integer PRIMARY KEY, a text, b jsonb, c bytea, d numeric, e text)")
    long = "line one\n" + "x" * 5000
    explorer.sql(
        "INSERT INTO odd VALUES (1, NULL, 'null', '\\x00ff', 'NaN', $1), (2, '', '{\"a\": 1}', NULL, 1e30, 'null')",
        long,
    )
    page = open_page("/agent/research?table=odd")
    expect(page.locator(ROWS).first).to_be_visible()
    shown = [["null", "null", "\\x00ff", "NaN", re.compile("^line one⏎xxx.*…$")]]
    shown += [["", '{"a": 1}', "null", "1" + "0" * 30, "null"]]
    for row, values in enumerate(shown):
        for name, value in zip("abcde", values, strict=True):
            expect(cell(page, row, name)).to_have_text(value)
    expect(page.locator(f'{ROWS}[row-index="0"] .v-null')).to_have_count(1)
    page.locator(f'{ROWS}[row-index="0"] .ag-cell').nth(1).dblclick()
    expect(page.get_by_role("textbox", name="e, text")).to_have_value(long)


def test_rows_are_inserted_changed_and_deleted_with_their_types_checked(open_page: OpenPage, explorer: House) -> None:
    explorer.sql("CREATE TABLE todo (id integer PRIMARY KEY, what text NOT NULL, due date, done boolean DEFAULT false)")
    page = open_page("/agent/research?table=todo")
    expect(page.get_by_text("No rows yet")).to_be_visible()
    page.get_by_role("button", name="Insert row").click()
    page.get_by_role("textbox", name="id, integer").fill("one")
    expect(page.get_by_text("A whole number is needed.")).to_be_visible()
    page.get_by_role("textbox", name="what, text").fill("test it")
    page.get_by_role("button", name="Insert", exact=True).click()
    expect(page.locator(".ax-dialog [role=alert]")).to_contain_text("integer")
    page.get_by_role("textbox", name="id, integer").fill("1")
    page.get_by_role("button", name="Insert", exact=True).click()
    expect(page.locator(ROWS)).to_have_count(1)
    assert explorer.sql("SELECT id, what, due, done FROM todo") == [[1, "test it", None, False]]

    select_row(page, 0)
    page.get_by_role("button", name="Edit").click()
    page.get_by_role("textbox", name="due, date").fill("2027-02-28")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(f'{ROWS}[row-index="0"] [col-id="c2"]')).to_have_text("2027-02-28")

    select_row(page, 0)
    page.get_by_role("button", name="Edit").click()
    page.get_by_role("textbox", name="what, text").fill("mine")
    explorer.sql("UPDATE todo SET what = 'an agent''s'")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".ax-dialog [role=alert]")).to_contain_text("Somebody else changed")
    page.get_by_role("button", name="Cancel").click()
    assert explorer.sql("SELECT what FROM todo") == [["an agent's"]]

    page.get_by_role("button", name="Reload").click()
    expect(page.locator(f'{ROWS}[row-index="0"] [col-id="c1"]')).to_have_text("an agent's")
    select_row(page, 0)
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete 1 row").click()
    expect(page.get_by_text("No rows yet")).to_be_visible()
    assert explorer.sql("SELECT count(*) FROM todo") == [[0]]


def test_rows_that_cannot_be_told_apart_are_read_only_and_it_says_so(open_page: OpenPage) -> None:
    page = open_page("/agent/research?table=claims")
    expect(page.get_by_text("no primary key")).to_be_visible()
    expect(page.get_by_role("button", name="Insert row")).to_have_count(0)
    page.locator(f'{ROWS}[row-index="3"] .ag-cell').first.dblclick()
    expect(page.locator(".ax-values")).to_contain_text("claim 4")


def test_a_form_shows_the_sql_that_makes_a_table_and_a_column(open_page: OpenPage, explorer: House, keep: Keep) -> None:
    page = open_page("/agent/support")
    page.get_by_role("button", name="New table").first.click()
    page.get_by_label("Name").fill("my plans")
    page.get_by_role("textbox", name="Column", exact=True).last.fill("what")
    shown = page.get_by_role("status", name="The SQL that will run")
    expect(shown).to_contain_text('CREATE TABLE "public"."my plans"')
    expect(shown).to_contain_text('"what" text')
    keep(page, "new-table")
    page.get_by_role("button", name="Create table").click()
    page.get_by_role("link", name="my plans").first.click()
    page.get_by_role("link", name="Structure").click()
    page.get_by_role("button", name="Add column").click()
    page.get_by_role("textbox", name="Column", exact=True).fill("urgent")
    expect(page.get_by_role("status", name="The SQL that will run")).to_contain_text('ADD COLUMN "urgent" text')
    page.get_by_role("button", name="Add column").last.click()
    expect(page.get_by_role("cell", name="urgent")).to_be_visible()
    assert explorer.sql('SELECT * FROM "my plans"', workspace="support") == []


def test_sql_runs_whole_or_as_selected_and_is_remembered(open_page: OpenPage, keep: Keep) -> None:
    page = open_page("/agent/research/sql")
    write(page, "SELECT 41 + 1 AS answer")
    page.keyboard.press("Control+Enter")
    expect(page.locator(ROWS)).to_have_text("42")
    write(page, "SELECT 'first' AS a;\nSELECT 'second' AS b")
    page.keyboard.press("Control+Home")
    page.keyboard.press("Shift+End")
    page.keyboard.press("Shift+ArrowLeft")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(ROWS)).to_have_text("first")
    page.get_by_role("button", name="History").click()
    page.get_by_role("button", name="SELECT 41 + 1").click()
    expect(page.locator(".cm-content")).to_contain_text("SELECT 41 + 1")


def test_an_error_marks_its_position_in_the_editor(open_page: OpenPage, keep: Keep) -> None:
    page = open_page("/agent/research/sql")
    run(page, "SELECT id,\n  titel FROM papers")
    expect(page.get_by_role("alert")).to_contain_text("Line 2, character 3")
    expect(page.locator(".ax-error-mark")).to_have_text("titel")
    keep(page, "sql-error")


def test_the_editor_completes_names_of_the_schema(open_page: OpenPage) -> None:
    page = open_page("/agent/research/sql")
    expect(page.get_by_text("No result yet")).to_be_visible()
    page.locator(".cm-content").click()
    page.keyboard.type("SELECT * FROM pape", delay=30)
    known = page.locator(".cm-tooltip-autocomplete").get_by_text("papers")
    for _ in range(20):  # they are there once the page has asked for them: whoever types then is told
        with suppress(PlaywrightTimeoutError):
            known.first.wait_for(timeout=1500)
            break
        page.keyboard.press("Escape")
        page.keyboard.press("Backspace")
        page.keyboard.type("e")
    expect(known.first).to_be_visible()


def test_a_running_statement_is_cancelled_and_ends_at_the_database(open_page: OpenPage, explorer: House) -> None:
    page = open_page("/agent/research/sql")
    run(page, "WITH held AS (SELECT id FROM papers WHERE id = 1 FOR UPDATE) SELECT pg_sleep(14) FROM held")
    expect(page.get_by_text("Running for")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("The statement was ended")).to_be_visible()
    assert explorer.sql("SELECT id FROM papers WHERE id = 1 FOR UPDATE NOWAIT") == [[1]]


def test_a_plan_is_a_tree_that_a_person_can_read(open_page: OpenPage, keep: Keep) -> None:
    page = open_page("/agent/research/sql")
    write(page, "SELECT year, count(*) FROM papers JOIN claims ON paper = id GROUP BY year ORDER BY 2")
    page.get_by_role("checkbox", name="with a run").click()
    page.get_by_role("button", name="Plan").click()
    plan = page.get_by_role("region", name="Plan")
    expect(plan).to_contain_text("Seq Scan")
    expect(plan).to_contain_text("Sort Key: (count(*))")
    expect(page.get_by_text("ran in")).to_be_visible()
    keep(page, "plan")


def test_results_and_tables_are_exported_whole(open_page: OpenPage) -> None:
    page = open_page("/agent/research/sql")
    write(page, "SELECT n, NULL AS nothing, 'a,\"b\"' AS text FROM generate_series(1, 2500) AS n")
    rows = list(csv.reader(io.StringIO(download(page, "Export as CSV"))))
    assert rows[0] == ["n", "nothing", "text"]
    assert rows[2500] == ["2500", "", 'a,"b"']
    assert json.loads(download(page, "Export as JSON"))[-1] == {"n": 2500, "nothing": None, "text": 'a,"b"'}
    page = open_page("/agent/research?table=papers")
    assert len(list(csv.reader(io.StringIO(download(page, "Export as CSV"))))) == 341


def test_activity_shows_what_agents_did_by_agent_and_decision(open_page: OpenPage, explorer: House) -> None:
    with pytest.raises(Exception, match="COPY"):
        explorer.sql("COPY papers TO PROGRAM 'true'")
    explorer.call(explorer.application.managed().audit.flush)
    page = open_page("/activity")
    table = page.get_by_role("table")
    expect(table).to_contain_text("Research agent")
    expect(table).to_contain_text("papers")
    page.get_by_label("Decision").click()
    page.get_by_role("option", name="Refused").click()
    expect(table).to_contain_text("statement_refused")
    expect(table.get_by_text("allowed", exact=True)).to_have_count(0)
    page.get_by_label("Agent", exact=True).click()
    page.get_by_role("option", name="Support agent").click()
    expect(page.get_by_text("Nothing here yet")).to_be_visible()


def test_pages_work_by_keyboard_and_have_names_for_screen_readers(open_page: OpenPage, explorer: House) -> None:
    page = open_page()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.get_by_role("link", name="Research agent").focus()
    page.keyboard.press("Enter")
    page.get_by_role("link", name="papers").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="papers")).to_be_visible()
    page.get_by_role("button", name="Filter", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Value")).to_be_focused()
    page.keyboard.press("Escape")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, a[href], input, select, textarea')]"
        ".filter(e => e.offsetParent && !e.closest('.ag-root') && !(e.textContent.trim() || e.title || e.labels?.length"
        " || e.getAttribute('aria-label')))"
        ".map(e => e.outerHTML)"
    )
    assert unnamed == []
    assert page.locator("html").get_attribute("lang") == "en-US"
    assert page.get_by_role("main").count() == 1


def test_the_theme_is_chosen_and_kept(open_page: OpenPage, explorer: House) -> None:
    page = open_page(fresh=True)
    page.get_by_role("button", name="Theme: Auto").click()
    expect(page.locator("body.body--dark")).to_have_count(1)
    page.reload()
    expect(page.locator("body.body--dark")).to_have_count(1)
    expect(page.get_by_role("button", name="Theme: Dark")).to_be_visible()


def test_what_is_missing_is_told_on_a_page_of_its_own(open_page: OpenPage) -> None:
    page = open_page("/agent/research?table=nothing")
    expect(page.get_by_role("alert")).to_contain_text("There is no table 'nothing'")
    page = open_page("/agent/support?table=tickets")
    expect(page.get_by_text("No rows yet")).to_be_visible()
