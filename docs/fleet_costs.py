"""The table of docs/scaling.md: what fleets cost at the provider, by the price book in use."""

from __future__ import annotations

from pathlib import Path

from agentdb_mcp.costs.pricing import MICROCENTS_PER_DOLLAR, Prices, cost_microcents
from agentdb_mcp.models import Quantities
from agentdb_mcp.policy import load_policy

PAGE = Path(__file__).parent / "scaling.md"
BEGIN, END = "<!-- written by `make docs` -->", "<!-- until here -->"
FLEETS = (100, 1_000, 10_000, 100_000)
_HOUR_US = 3_600_000_000

# Assumptions, named in the page: hours awake in a month of 744, and gigabytes stored.
USES = (("rarely used", 2, 0.05), ("used on working days", 40, 0.2), ("never asleep", 744, 1.0))


def scaling_page() -> str:
    """The page with its table as the code computes it."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{_table()}\n{END}{rest.partition(END)[2]}"


def microcents(hours: int, gigabytes: float) -> int:
    """What one database costs a month that is awake for so long at the policy's largest compute."""
    policy = load_policy(None)
    used = Quantities(
        compute_mcu_us=policy.compute.max_mcu * hours * _HOUR_US,
        storage_byte_us=round(gigabytes * 1_000_000_000) * 744 * _HOUR_US,
    )
    return cost_microcents(used, Prices.of(policy.prices))


def _table() -> str:
    heads = " | ".join(f"{fleet:,} databases" for fleet in FLEETS)
    lines = [f"| each is | awake | stored | one database | {heads} |", "|---" * (4 + len(FLEETS)) + "|"]
    for name, hours, gigabytes in USES:
        each = microcents(hours, gigabytes)
        costs = " | ".join(f"${each * fleet / MICROCENTS_PER_DOLLAR:,.0f}" for fleet in FLEETS)
        lines.append(f"| {name} | {hours} h | {gigabytes:g} GB | ${each / MICROCENTS_PER_DOLLAR:.4f} | {costs} |")
    return "\n".join(lines)
