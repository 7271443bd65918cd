"""What the pages say of each other, and of the errors, is there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from agentdb_mcp import doctor, errors

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TROUBLESHOOTING = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
CODES = {each.code for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, errors.AgentDBError)}


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_relative_link_of_a_page_is_dead(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_the_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [page.name for page in PAGES[2:] if f"(docs/{page.name})" not in readme] == []


def test_every_code_has_a_section_and_none_is_invented() -> None:
    sections = re.findall(r"^## `(\w+)`$", TROUBLESHOOTING, re.MULTILINE)
    assert sorted(sections) == sorted(CODES)


def test_every_quoted_message_is_said_somewhere() -> None:
    """Up to the first number or name, which the program fills in."""
    source = " ".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    for message in re.findall(r'"([A-Z][^"…]{12,}\.)"', TROUBLESHOOTING.replace("\n", " ")):
        words = re.split(r"\d[\d,]*|agent database", message)
        assert all(part.strip() in source for part in words), message


def test_everything_that_doctor_checks_is_told_of() -> None:
    source = inspect.getsource(doctor)
    checks = set(re.findall(r'(?:Finding\(\s*|check(?:, \w+)? = )"([a-z ]+)"', source)) - {"job "}
    assert len(checks) >= 7
    assert {check for check in checks if f"`{check}`" not in TROUBLESHOOTING} == set()
