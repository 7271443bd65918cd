"""What the edges call: each service says what it does in the product's words and knows no protocol."""

from agentdb_mcp.services.databases import Databases, OpenDatabase
from agentdb_mcp.services.lifecycle import Lifecycle
from agentdb_mcp.services.provisioning import Provisioning
from agentdb_mcp.services.queries import Answer, Queries
from agentdb_mcp.services.reconcile import Reconcile
from agentdb_mcp.services.usage import Usage

__all__ = ["Answer", "Databases", "Lifecycle", "OpenDatabase", "Provisioning", "Queries", "Reconcile", "Usage"]
