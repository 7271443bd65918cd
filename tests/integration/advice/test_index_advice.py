"""Advised indexes are real: created, the planner uses them, and they save what was promised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from advising import World, brief
from workloads import WORKLOADS

from agentdb_mcp.execution import Statement
from agentdb_mcp.models import Scope

# Costs below this say nothing: a page here or there.
LITTLE = 5.0


@pytest.mark.parametrize("name", WORKLOADS)
async def test_an_advised_index_is_used_when_it_is_made_and_saves_what_was_promised(
    world: World, name: str, record_property: Callable[[str, object], None]
) -> None:
    texts, least = WORKLOADS[name]
    untouched = await world.indexes()
    before = [await world.plan(text) for text in texts]
    advice = await world.advise(*texts)
    assert advice.method == world.method
    assert await world.indexes() == untouched
    for expected in least:
        assert any(expected.rstrip(")") in found for found in brief(advice)), brief(advice)
    names = [f"advised_{number}" for number in range(len(advice.recommendations))]
    blocks = [await _blocks(world, text) for text in texts]
    for made, one in zip(names, advice.recommendations, strict=True):
        await world.run(one.index.sql(made))
    try:
        after = [await world.plan(text) for text in texts]
        read = [await _blocks(world, text) for text in texts]
    finally:
        for made in names:
            await world.run(f"DROP INDEX {made}")
    for made, one in zip(names, advice.recommendations, strict=True):
        assert one.queries
        for number in one.queries:
            assert made in str(after[number - 1]), "the planner uses it"
    for asked, old, new in zip(advice.asked, before, after, strict=True):
        promised, kept = (asked.cost_before or 0) - (asked.cost_after or 0), old["Total Cost"] - new["Total Cost"]
        promise = f"{asked.cost_before:.0f} → {asked.cost_after:.1f}"
        record_property("promised, measured", f"{promise}, {old['Total Cost']:.0f} → {new['Total Cost']:.1f}")
        assert asked.cost_before == pytest.approx(old["Total Cost"])
        assert promised >= 0.1 * (asked.cost_before or 0)
        assert promised / 2 <= kept <= promised * 2
        assert new["Total Cost"] <= max(2 * (asked.cost_after or 0), LITTLE)
        assert (asked.cost_after or 0) <= max(2 * new["Total Cost"], LITTLE)
    for old_blocks, new_blocks in zip(blocks, read, strict=True):
        assert new_blocks < old_blocks, "fewer pages are read when it really runs"


async def _blocks(world: World, text: str) -> int:
    """The pages that the statement reads when it runs, in a transaction that is not kept."""
    explained = f"EXPLAIN (FORMAT JSON, ANALYZE, BUFFERS) {text}"
    answer = await world.application.queries.execute(
        world.tenant, Scope.AGENT, [Statement(explained)], transaction=True, keep=False
    )
    plan: dict[str, Any] = answer.results[0].rows[0][0][0]["Plan"]  # type: ignore[index]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
