"""Sim Studio's encrypted variables: `workspace_environment` first, then `environment`. Read only."""

from __future__ import annotations

import json

from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.store.control import ControlDatabase

VARIABLES = {Scope.AGENT: "AGENT_DB_URL", Scope.GLOBAL: "GLOBAL_DB_URL"}


class SimVariables:
    def __init__(self, control: ControlDatabase) -> None:
        self._control = control

    async def find(self, tenant: Tenant, scope: Scope) -> list[str]:
        """The variable's values as stored (encrypted), the workspace's first; none where Sim's tables are missing."""
        found = []
        async with self._control.connection() as connection:
            for table, column, owner in (
                ("workspace_environment", "workspace_id", tenant.workspace_id),
                ("environment", "user_id", tenant.user_id),
            ):
                if owner is None or await connection.fetchval("SELECT to_regclass($1)", table) is None:
                    continue
                text = await connection.fetchval(f"SELECT variables::text FROM {table} WHERE {column} = $1", owner)
                variables = json.loads(text) if text else None
                value = variables.get(VARIABLES[scope]) if isinstance(variables, dict) else None
                if isinstance(value, str) and value.strip():
                    found.append(value)
        return found
