"""`policies/*.toml` → typed, validated rules: tiers, budget, prices, limits, what may run in which state.

A file states what differs from the shipped `default.toml`; everything else is taken from there.
"""

from agentdb_mcp.policy.files import default_path, load_policy
from agentdb_mcp.policy.rules import Policy
from agentdb_mcp.policy.sections import (
    AnalysisRules,
    LimitRules,
    PriceBook,
    SimRules,
    StateRules,
    UnknownRule,
    to_microcents,
)

__all__ = [
    "AnalysisRules",
    "LimitRules",
    "Policy",
    "PriceBook",
    "SimRules",
    "StateRules",
    "UnknownRule",
    "default_path",
    "load_policy",
    "to_microcents",
]
