"""What databases cost and what that means for a user's month. Pure: integers in, integers out; no I/O, no clock."""

from agentdb_mcp.costs.admission import Grant, Lines, Position, admit, state_of
from agentdb_mcp.costs.budget import period_of
from agentdb_mcp.costs.meter import Batch, SpanMeter
from agentdb_mcp.costs.pricing import (
    FOREVER_US,
    MICROCENTS_PER_CENT,
    Prices,
    affordable_us,
    compute_microcents,
    cost_microcents,
    month_microcents,
    storage_microcents,
)
from agentdb_mcp.costs.shares import to_cents
from agentdb_mcp.models import Activity, Quantities

__all__ = [
    "FOREVER_US",
    "MICROCENTS_PER_CENT",
    "Activity",
    "Batch",
    "Grant",
    "Lines",
    "Position",
    "Prices",
    "Quantities",
    "SpanMeter",
    "admit",
    "affordable_us",
    "compute_microcents",
    "cost_microcents",
    "month_microcents",
    "period_of",
    "state_of",
    "storage_microcents",
    "to_cents",
]
