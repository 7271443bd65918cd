"""What is written about the tools is what they are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from agentdb_mcp.mcp_server.tools import TOOLS

ROOT = Path(__file__).parents[2]


def test_the_page_on_tools_is_what_make_docs_writes_today() -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    assert (ROOT / "docs" / "tools.md").read_text("utf-8") == reference.tools_page(), "run `make docs`"


def test_every_tool_and_every_argument_is_on_it() -> None:
    page = (ROOT / "docs" / "tools.md").read_text("utf-8")
    for tool in TOOLS:
        assert f"## `{tool.name}`" in page
        for argument in tool.arguments.model_fields:
            assert f"| `{argument}` |" in page
