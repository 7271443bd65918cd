"""`--expires-in`: days, hours, minutes or seconds, and nothing that could be read in two ways."""

from __future__ import annotations

import pytest
import typer

from agentdb_mcp.cli_tokens import seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30d", 2_592_000), ("12h", 43_200), ("90m", 5400), ("45s", 45), ("3600", 3600), ("007", 7), ("0", 0)],
)
def test_a_duration_is_read(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "d", "-1d", "+5", "1.5h", "1d12h", "30 d", " 30d", "30d\n", "3e3", "1_000", "30D", "1y", "٣d", "9" * 13],
)
def test_anything_else_is_refused_by_what_was_given(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no duration"):
        seconds_of(text)
