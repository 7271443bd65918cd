"""How the local Neon API tells what was used."""

from __future__ import annotations

import pytest

from agentdb_mcp.neon_emulator.answers import _usage
from agentdb_mcp.neon_emulator.usage import Totals


@pytest.mark.parametrize(
    ("hours", "told"),
    [
        pytest.param([0.1] * 10, 1, id="hours that add up to a second, but not as floats"),
        pytest.param([3599.999999], 3599, id="a microsecond less"),
        pytest.param([0.9], 0, id="a part of a second"),
    ],
)
def test_seconds_are_whole_ones_that_passed(hours: list[float], told: int) -> None:
    fields = _usage(Totals(compute_seconds=sum(hours), active_seconds=sum(hours)))
    assert [fields[name] for name in ("compute_time_seconds", "active_time_seconds", "cpu_used_sec")] == [told] * 3
