"""Rows of the catalog and of statistics → findings. Pure: no I/O, no clock."""

from agentdb_mcp.advice.health.activity import (
    Slot,
    Standby,
    Transaction,
    hit_rate,
    judge_buffers,
    judge_connections,
    judge_growth,
    judge_replication,
    judge_transactions,
)
from agentdb_mcp.advice.health.findings import Cents, Finding, Severity, Thresholds, sorted_findings
from agentdb_mcp.advice.health.indexes import ForeignKey, Index, judge_foreign_keys, judge_indexes
from agentdb_mcp.advice.health.tables import (
    Sequence,
    Table,
    Unchecked,
    judge_constraints,
    judge_sequences,
    judge_tables,
)

__all__ = [
    "Cents",
    "Finding",
    "ForeignKey",
    "Index",
    "Sequence",
    "Severity",
    "Slot",
    "Standby",
    "Table",
    "Thresholds",
    "Transaction",
    "Unchecked",
    "hit_rate",
    "judge_buffers",
    "judge_connections",
    "judge_constraints",
    "judge_foreign_keys",
    "judge_growth",
    "judge_indexes",
    "judge_replication",
    "judge_sequences",
    "judge_tables",
    "judge_transactions",
    "sorted_findings",
]
