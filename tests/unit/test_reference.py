"""What is written about the tools, the settings and the policy is what they are."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentdb_mcp.mcp_server.tools import TOOLS
from agentdb_mcp.policy import Policy
from agentdb_mcp.policy.sections import Section
from agentdb_mcp.settings import Settings
from agentdb_mcp.settings_help import VARIABLES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    for name in [name for name in sys.modules if name == "docs" or name.startswith("docs.")]:
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module("docs.reference")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def test_the_pages_are_what_make_docs_writes_today(reference: Any) -> None:
    assert page("tools.md") == reference.tools_page(), "run `make docs`"
    assert page("configuration.md") == reference.configuration_page(), "run `make docs`"
    assert page("scaling.md") == reference.scaling_page(), "run `make docs`"


def test_the_costs_of_fleets_are_hours_and_gigabytes_at_the_price_book(reference: Any) -> None:
    fleet = importlib.import_module("docs.fleet_costs")
    # 40 h × 0.25 CU × $0.106 + 0.2 GB × $0.35
    assert fleet.microcents(40, 0.2) == 113 * 1_000_000
    assert "| 40 h | 0.2 GB | $1.1300 | $113 | $1,130 | $11,300 | $113,000 |" in page("scaling.md")


def test_every_tool_and_every_argument_is_on_it() -> None:
    for tool in TOOLS:
        assert f"## `{tool.name}`" in page("tools.md")
        for argument in tool.arguments.model_fields:
            assert f"| `{argument}` |" in page("tools.md")


def test_the_variables_that_are_told_of_are_those_that_are_read() -> None:
    source = (ROOT / "src/agentdb_mcp/settings.py").read_text("utf-8")
    read = set(re.findall(r'"((?:(?:AGENTDB|NEON|AGENT|GLOBAL|OTEL)_[A-Z_]+|ENCRYPTION_KEY))"', source))
    assert {each.name for each in VARIABLES} == read
    told = {each.field for each in VARIABLES} | {"log_level"}
    assert told - {None} == set(Settings.__dataclass_fields__)


def keys(model: type[Section]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from keys(field.annotation)
        elif name != "version" and "Mapping" not in str(field.annotation):
            yield name


def test_every_key_of_a_policy_is_on_the_page_and_every_row_says_what_it_means() -> None:
    text = page("configuration.md")
    assert {key for key in keys(Policy) if f"\n| `{key}` | " not in text} == set()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [line for line in rows if line.endswith("|  |")] == []
