"""Which provider, from its configuration. An implementation is imported when it is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from agentdb_mcp.models import Secret
from agentdb_mcp.providers.base import Provider
from agentdb_mcp.settings import NeonOrganization


@dataclass(frozen=True, slots=True)
class NeonConfig:
    """One organization, or a free and a paid one; `compute_cu` is the most that a project grows to."""

    base_url: str
    organizations: tuple[NeonOrganization, ...]
    compute_cu: float


@dataclass(frozen=True, slots=True)
class PostgresConfig:
    """A cluster, by the URI of a login that may make databases and roles."""

    admin_uri: Secret


@asynccontextmanager
async def open_provider(
    config: NeonConfig | PostgresConfig, clock: Callable[[], datetime] | None = None
) -> AsyncIterator[Provider]:
    """Open the provider for the time of the block; the machine's clock, if none is given."""
    if isinstance(config, PostgresConfig):
        from agentdb_mcp.providers.postgres import PostgresProvider

        yield PostgresProvider(config.admin_uri)
        return
    from agentdb_mcp.providers.neon import neon_provider

    async with neon_provider(
        base_url=config.base_url,
        organizations=config.organizations,
        compute_cu=config.compute_cu,
        clock=clock or (lambda: datetime.now(UTC)),
    ) as provider:
        yield provider
