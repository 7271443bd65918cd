"""One stack with a control port, and one server over real HTTP, for all files of a process. Tests differ by their user.

Helper modules are imported by their plain names.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from agentdb_mcp.local_stack import LocalStack, local_stack
from agentdb_mcp.providers.neon import api
from agentdb_mcp.providers.neon.limiter import RateLimiter

sys.path.insert(0, str(Path(__file__).parent))

from platform_side import SERVICE_KEY, UNLIMITED, Owner, Platform, platform_on


@pytest.fixture(scope="session")
async def stack(anyio_backend: str) -> AsyncIterator[LocalStack]:
    async with local_stack(control=True) as running:
        yield running


@pytest.fixture(scope="session", autouse=True)
def unhurried() -> AsyncIterator[None]:
    """Neon's rate is kept elsewhere; here it would only make tests wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "general_limiter", lambda: RateLimiter(per_second=10_000, burst=10_000))
        yield


@pytest.fixture(scope="session")
async def environ(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    policy = tmp_path_factory.mktemp("policy") / "unlimited.toml"
    policy.write_text(UNLIMITED)
    return stack.environ() | {
        "AGENTDB_SERVICE_KEY": SERVICE_KEY,
        "AGENTDB_POLICY": str(policy),
        "AGENTDB_TRUSTED_PROXIES": "127.0.0.1",
    }


@pytest.fixture(scope="session")
async def platform(environ: dict[str, str]) -> AsyncIterator[Platform]:
    """The platform's backend at a server whose policy limits no calls."""
    async with platform_on(environ) as platform:
        yield platform


@pytest.fixture
async def neon(stack: LocalStack) -> AsyncIterator[httpx.AsyncClient]:
    """The control port of the local Neon API; faults end with the test."""
    assert stack.emulator.control_url is not None
    async with httpx.AsyncClient(base_url=stack.emulator.control_url) as client:
        yield client
        await client.delete("/faults")


@pytest.fixture(scope="module")
async def owner(platform: Platform) -> Owner:
    return await platform.register()


@pytest.fixture(scope="module")
async def explorer(platform: Platform, owner: Owner) -> AsyncIterator[httpx.AsyncClient]:
    async with platform.holder(owner) as holding:
        yield holding
