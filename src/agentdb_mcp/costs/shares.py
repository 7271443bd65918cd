"""Rounding parts so that they add up to the rounded whole."""

from __future__ import annotations

from collections.abc import Sequence

from agentdb_mcp.costs.pricing import MICROCENTS_PER_CENT


def to_cents(microcents: Sequence[int]) -> list[int]:
    """Each share in whole cents. The total is that of all micro-cents, rounded down, as totals are stored and shown.

    Shares are rounded down; what is left of the total goes to the largest remainders, first ones first.
    """
    cents = [share // MICROCENTS_PER_CENT for share in microcents]
    left = sum(microcents) // MICROCENTS_PER_CENT - sum(cents)
    by_remainder = sorted(range(len(cents)), key=lambda index: -(microcents[index] % MICROCENTS_PER_CENT))
    for index in by_remainder[:left]:
        cents[index] += 1
    return cents
