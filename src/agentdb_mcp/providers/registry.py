"""Names → providers. An implementation is imported when it is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agentdb_mcp.models import Secret
from agentdb_mcp.providers.base import Provider


@asynccontextmanager
async def open_provider(
    kind: str, *, base_url: str, api_key: Secret, org_id: str | None, compute_cu: float
) -> AsyncIterator[Provider]:
    """Open the provider called `kind` for the time of the block."""
    if kind != "neon":
        raise ValueError(f"there is no provider {kind!r}")
    from agentdb_mcp.providers.neon import neon_provider

    async with neon_provider(base_url=base_url, api_key=api_key, org_id=org_id, compute_cu=compute_cu) as provider:
        yield provider
