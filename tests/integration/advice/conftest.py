"""Databases full of data, for each file. Helper modules are imported by their plain names."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentdb_mcp.bootstrap import Application
from agentdb_mcp.models import Tenant

sys.path.insert(0, str(Path(__file__).parent))

from advising import World, hypopg_or_skip, world_with_hypopg
from workloads import TABLES


@pytest.fixture(scope="module")
async def built(application: Application) -> World:
    """A database of the platform, where there is no hypopg."""
    world = World(application, Tenant("advised", "workspace"), "build")
    await world.run(*TABLES)
    return world


@pytest.fixture(scope="module")
async def hypothetical(anyio_backend: str) -> AsyncIterator[World]:
    async with world_with_hypopg(TABLES, hypopg_or_skip()) as world:
        yield world


@pytest.fixture(scope="module", params=["built", "hypothetical"])
def world(request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(request.param)
    return found
