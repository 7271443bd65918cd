"""Helper modules of this folder are imported by their plain names."""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import stamina

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.models import Scope
from agentdb_mcp.providers import Provider, project_name

sys.path.insert(0, str(Path(__file__).parent))

from implementations import IMPLEMENTATIONS, Service, connections_left


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
async def service(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> AsyncIterator[Service]:
    async with IMPLEMENTATIONS[request.param](postgres) as running:
        yield running


@pytest.fixture
async def provider(service: Service, superuser: asyncpg.Connection) -> AsyncIterator[Provider]:
    async with service.connect(None) as provider:
        yield provider
    assert await connections_left(superuser) == []


@pytest.fixture
def name() -> str:
    return project_name(Scope.AGENT, secrets.token_hex(8))


@pytest.fixture
def without_pauses() -> Iterator[None]:
    """Repetitions follow each other at once; their number stays what it is."""
    with stamina.set_testing(True, attempts=100, cap=True):
        yield
