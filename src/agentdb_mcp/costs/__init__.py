"""What databases cost and what that means for a user's month. Pure: integers in, integers out; no I/O, no clock."""

from agentdb_mcp.costs.budget import current_period_start, period_end, state_of
from agentdb_mcp.costs.meter import Meter
from agentdb_mcp.costs.pricing import MICROCENTS_PER_CENT, compute_microcents

__all__ = ["MICROCENTS_PER_CENT", "Meter", "compute_microcents", "current_period_start", "period_end", "state_of"]
