"""What the overview and the activity say of states that are not the usual one."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect
from tests.browser.conftest import PHONE, Keep, OpenPage
from tests.browser.house import House

from agentdb_mcp.costs import MICROCENTS_PER_CENT
from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.services.throttle import Throttle

CREATE = {"method": "POST", "path": "/projects"}
SECRET = "postgresql://owner:hunter2@db.example.com/main"


@pytest.fixture(autouse=True)
def healed(explorer: House) -> Iterator[None]:
    yield
    explorer.heal()


def test_a_database_that_could_not_be_made_is_shown_as_failed_with_the_reason(
    open_page: OpenPage, explorer: House, keep: Keep
) -> None:
    explorer.fail(**CREATE, status=400, message=f"refused for {SECRET}")
    with pytest.raises(ProvisioningFailed):
        explorer.sql("SELECT 1", workspace="unlucky")
    page = open_page()
    row = page.get_by_role("row", name="unlucky")
    expect(row).to_contain_text("failed")
    expect(row).to_contain_text("The provider of databases did not make it. Opening it tries again.")
    assert "hunter2" not in page.content()
    keep(page, "failed")
    row.get_by_role("link").click()
    expect(page.get_by_role("alert")).to_contain_text("This did not work")
    assert "hunter2" not in page.content()
    keep(page, "failed-opened")
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    page.goto(f"{explorer.url}/explorer/agent/unlucky?table=notes")
    expect(page.get_by_role("alert")).to_contain_text("This did not work")
    keep(page, "failed-opened-390")
    page.goto(f"{explorer.url}/explorer/agent/unlucky")
    explorer.heal()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("No tables yet").first).to_be_visible()
    page.goto(f"{explorer.url}/explorer/")
    expect(page.get_by_role("row", name="unlucky")).to_contain_text(re.compile("connected|suspended"))
    expect(page.get_by_text("Opening it tries again")).to_have_count(0)


def test_a_database_that_is_being_made_is_shown_as_provisioning(
    open_page: OpenPage, explorer: House, keep: Keep
) -> None:
    explorer.fail(**CREATE, delay_before=600, times=1)
    lifecycle = explorer.application.managed().lifecycle
    making = explorer.portal.start_task_soon(lifecycle.create_workspace, "slow", "ada", "Slow agent")
    page = open_page()
    row = page.get_by_role("row", name="Slow agent")
    while not row.count() or "provisioning" not in row.inner_text():
        page.reload()
        expect(page.get_by_role("table")).to_be_visible()
    expect(row).not_to_contain_text("Opening it tries again")
    keep(page, "provisioning")
    making.cancel()
    while "provisioning" in row.inner_text():
        page.reload()
        expect(page.get_by_role("table")).to_be_visible()
    expect(row).to_contain_text("failed")
    expect(row).to_contain_text("The server ended while it was being made.")


def test_a_budget_that_is_nearly_used_up_is_told(open_page: OpenPage, explorer: House, keep: Keep) -> None:
    usage = explorer.application.managed().usage
    explorer.sql("SELECT 1", workspace="shop", user="bob")
    report = explorer.call(usage.report, "bob")
    spent = report.used_microcents + report.committed_microcents
    explorer.call(usage.set_tier, "bob", "free", -(-spent * 100 // (95 * MICROCENTS_PER_CENT)))
    page = open_page(user="bob")
    expect(page.get_by_role("alert")).to_contain_text("The budget is nearly used up")
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        keep(page, f"warning-{theme}")


def test_what_pages_read_is_left_out_of_the_activity_unless_it_is_asked_for(
    open_page: OpenPage, explorer: House, keep: Keep
) -> None:
    page = open_page("/agent/support?table=tickets")
    expect(page.get_by_text("No rows yet")).to_be_visible()
    explorer.sql("SELECT 1 FROM tickets", workspace="support")
    page.goto(f"{explorer.url}/explorer/agent/support/sql")
    page.locator(".cm-content").click()
    page.keyboard.insert_text("SELECT 2 FROM tickets")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("0 rows")).to_be_visible()
    explorer.call(explorer.application.managed().audit.flush)
    page.goto(f"{explorer.url}/explorer/activity")
    page.get_by_label("Agent", exact=True).click()
    page.get_by_role("option", name="Support agent").click()
    rows = page.get_by_role("table").locator("tbody tr")
    here = rows.filter(has_text="a person, here")
    expect(here).to_have_count(1)
    expect(here).to_contain_text("tickets")
    expect(rows.filter(has_text="agent, by MCP").first).to_contain_text("tickets")
    keep(page, "activity-of-an-agent")
    page.get_by_role("checkbox", name="with what these pages read").click()
    expect(here).to_have_count(5)  # the tables twice, the table's columns, its rows, and the statement


def test_who_asks_too_often_is_told_on_the_page(open_page: OpenPage, explorer: House) -> None:
    page = open_page(fresh=True)
    expect(page.get_by_role("table")).to_be_visible()
    [session] = [each for each in explorer.explorer.sessions._known.values() if each.user_id == "ada"][-1:]
    session.throttle = Throttle(calls_per_window=1, window_s=60, concurrent_calls=8)
    answer = page.goto(f"{explorer.url}/explorer/agent/research")
    assert answer is not None
    assert answer.status == 200
    expect(page.get_by_role("alert")).to_contain_text("More than 1 calls in 60 s.Wait a few seconds")
