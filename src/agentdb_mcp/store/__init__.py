"""The control database: the platform's own Postgres with our tables. One file a table."""

from agentdb_mcp.store.audit import AuditStore
from agentdb_mcp.store.audit_chain import AuditDecision, AuditEntry, Broken, Chain, Verified
from agentdb_mcp.store.budgets import BudgetRow, BudgetStore, PeriodFigures
from agentdb_mcp.store.connection_strings import ConnectionStrings, StoredString
from agentdb_mcp.store.control import ControlDatabase
from agentdb_mcp.store.database_rows import BilledDatabase, Claim, DatabaseRow, Inventory
from agentdb_mcp.store.databases import DatabaseStore, OwnerUnknown
from agentdb_mcp.store.identity import IdentityStore, WorkspaceRow, no_such_user
from agentdb_mcp.store.ledger import DatabaseUsage, Drift, LedgerStore, MeteredHour, SettledHour
from agentdb_mcp.store.sim_variables import SimVariables
from agentdb_mcp.store.tokens import TokenRow, TokenStore

__all__ = [
    "AuditDecision",
    "AuditEntry",
    "AuditStore",
    "BilledDatabase",
    "Broken",
    "BudgetRow",
    "BudgetStore",
    "Chain",
    "Claim",
    "ConnectionStrings",
    "ControlDatabase",
    "DatabaseRow",
    "DatabaseStore",
    "DatabaseUsage",
    "Drift",
    "IdentityStore",
    "Inventory",
    "LedgerStore",
    "MeteredHour",
    "OwnerUnknown",
    "PeriodFigures",
    "SettledHour",
    "SimVariables",
    "StoredString",
    "TokenRow",
    "TokenStore",
    "Verified",
    "WorkspaceRow",
    "no_such_user",
]
