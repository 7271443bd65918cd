"""What the edges call: each service says what it does in the product's words and knows no protocol."""

from agentdb_mcp.services.analysis import Analysis
from agentdb_mcp.services.audit import Audit
from agentdb_mcp.services.browse import Browse
from agentdb_mcp.services.budgets import Budgets
from agentdb_mcp.services.checkpoints import Checkpoints
from agentdb_mcp.services.copying import Copied, Copying
from agentdb_mcp.services.databases import Databases, OpenDatabase
from agentdb_mcp.services.health import Health
from agentdb_mcp.services.held_rows import HeldRows
from agentdb_mcp.services.keys import Keys, KeysReport
from agentdb_mcp.services.lifecycle import Lifecycle
from agentdb_mcp.services.metering import Clock, Metering, utc_now
from agentdb_mcp.services.migration_trials import MigrationTrial, MigrationTrials
from agentdb_mcp.services.owners import Owners
from agentdb_mcp.services.pages import Page, Pages
from agentdb_mcp.services.pausing import Pausing
from agentdb_mcp.services.provisioning import Provisioning
from agentdb_mcp.services.queries import Answer, Queries
from agentdb_mcp.services.reconcile import Reconcile
from agentdb_mcp.services.sync import Sync, Synced
from agentdb_mcp.services.tiers import Tiers
from agentdb_mcp.services.tokens import IssuedToken, TokenIdentity, Tokens
from agentdb_mcp.services.usage import Usage
from agentdb_mcp.services.variables import Variables

__all__ = [
    "Analysis",
    "Answer",
    "Audit",
    "Browse",
    "Budgets",
    "Checkpoints",
    "Clock",
    "Copied",
    "Copying",
    "Databases",
    "Health",
    "HeldRows",
    "IssuedToken",
    "Keys",
    "KeysReport",
    "Lifecycle",
    "Metering",
    "MigrationTrial",
    "MigrationTrials",
    "OpenDatabase",
    "Owners",
    "Page",
    "Pages",
    "Pausing",
    "Provisioning",
    "Queries",
    "Reconcile",
    "Sync",
    "Synced",
    "Tiers",
    "TokenIdentity",
    "Tokens",
    "Usage",
    "Variables",
    "utc_now",
]
