from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agentdb_mcp.execution import Pools, PoolSettings, layout
from agentdb_mcp.models import DatabaseTarget, Secret


@pytest.fixture
async def pools() -> AsyncIterator[Pools]:
    pools = Pools(PoolSettings(size=4, grace_s=1.0))
    yield pools
    await pools.close()


@pytest.fixture
async def agent_database(project_uri: Secret) -> DatabaseTarget:
    """A platform database with the agent's sealed role."""
    role = layout.new_role_name()
    await layout.install(project_uri, role, connection_limit=8)
    return DatabaseTarget("agent", project_uri, role=role)
