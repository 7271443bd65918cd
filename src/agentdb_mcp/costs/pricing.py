"""Usage × price, in whole micro-cents (1 cent = 1,000,000)."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

MICROCENTS_PER_CENT = 1_000_000
MICROCENTS_PER_DOLLAR = 100 * MICROCENTS_PER_CENT
_MICROSECONDS_PER_HOUR = 3_600_000_000


def compute_microcents(active_us: int, compute_cu: Decimal, dollars_per_cu_hour: Decimal) -> int:
    """Compute that ran for `active_us` microseconds at `compute_cu` units: CU-hours × rate (facts: neon §2)."""
    dollars = Decimal(active_us) * compute_cu * dollars_per_cu_hour / _MICROSECONDS_PER_HOUR
    return int((dollars * MICROCENTS_PER_DOLLAR).to_integral_value(ROUND_HALF_EVEN))
