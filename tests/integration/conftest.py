from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.execution import Pools, PoolSettings, layout
from agentdb_mcp.local_stack import LocalStack, local_stack
from agentdb_mcp.models import DatabaseTarget, Secret
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store.control import create_database


@pytest.fixture(scope="module")
async def stack(anyio_backend: str) -> AsyncIterator[LocalStack]:
    async with local_stack() as running:
        yield running


@pytest.fixture(scope="module")
async def environ(stack: LocalStack) -> dict[str, str]:
    """Settings with a control database of this file's own; tests differ by their user."""
    name = f"control_{secrets.token_hex(6)}"
    await create_database(stack.postgres.uri(), name)
    return stack.environ() | {"AGENTDB_CONTROL_URL": stack.postgres.uri(name).reveal()}


@pytest.fixture(scope="module")
async def application(environ: dict[str, str]) -> AsyncIterator[Application]:
    async with open_application(load_settings(environ)) as application:
        yield application


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
