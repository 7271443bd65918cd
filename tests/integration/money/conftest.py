"""A local Neon API with a control port for each file. Helper modules are imported by their plain names."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentdb_mcp.local_stack import LocalStack, local_stack
from agentdb_mcp.providers.neon import api
from agentdb_mcp.providers.neon.limiter import RateLimiter

sys.path.insert(0, str(Path(__file__).parent))

from cloud import Cloud, cloud_on


@pytest.fixture(scope="module")
async def stack(anyio_backend: str) -> AsyncIterator[LocalStack]:
    async with local_stack(control=True) as running:
        yield running


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neon's rates are kept elsewhere; here they would only make tests wait."""
    monkeypatch.setattr(api, "general_limiter", lambda: RateLimiter(per_second=10_000, burst=10_000))
    monkeypatch.setattr(api, "consumption_limiter", lambda: RateLimiter(per_second=10_000, burst=10_000))


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    """A policy by which servers store and look at budgets all the time."""
    path = tmp_path / "quick.toml"
    path.write_text('name = "quick"\n[metering]\nflush_s = 0.1\n')
    return path


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A policy by which nothing happens in the background while a test runs."""
    path = tmp_path / "slow.toml"
    path.write_text('name = "slow"\n[metering]\nflush_s = 3600.0\n')
    return path


@pytest.fixture
async def cloud(stack: LocalStack, slow: Path) -> AsyncIterator[Cloud]:
    async with cloud_on(stack, slow) as cloud:
        yield cloud
