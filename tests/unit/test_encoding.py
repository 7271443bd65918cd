"""JSON as it goes over the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdb_mcp.mcp_server.encoding import compact, lines

scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text() | st.sampled_from(["],[", "[", "]\n["])
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


@given(st.lists(st.lists(values, max_size=4), max_size=6))
def test_lines_are_each_list_by_itself(rows: list[list[object]]) -> None:
    assert lines(rows) == "\n".join(compact(row) for row in rows)


@pytest.mark.parametrize("value", ["],[", [[], []], ["x],[", [1]]])
def test_what_looks_like_the_gap_between_two_breaks_no_line(value: object) -> None:
    assert lines([[value], [value]]).split("\n") == [compact([value])] * 2
