"""Rounding parts so that they add up to the rounded whole."""

from __future__ import annotations

from collections.abc import Sequence

from agentdb_mcp.costs.pricing import MICROCENTS_PER_CENT, apportion


def to_cents(microcents: Sequence[int]) -> list[int]:
    """Each share in whole cents. The total is that of all micro-cents, rounded down, as totals are stored and shown."""
    return apportion(microcents, MICROCENTS_PER_CENT, sum(microcents) // MICROCENTS_PER_CENT)
