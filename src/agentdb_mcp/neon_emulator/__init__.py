"""A local server that speaks Neon's API v2 on top of one real Postgres cluster.

It imports nothing of agentdb_mcp outside this package, so it cannot share the mistakes of the client that it tests.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import anyio
import asyncpg

from agentdb_mcp.neon_emulator import state
from agentdb_mcp.neon_emulator.answers import Answers
from agentdb_mcp.neon_emulator.app import PREFIX, Doorway, build_app
from agentdb_mcp.neon_emulator.behaviour import Behaviour, NewOrganization
from agentdb_mcp.neon_emulator.claim import Claim, claimed
from agentdb_mcp.neon_emulator.clock import Clock
from agentdb_mcp.neon_emulator.cluster import open_cluster
from agentdb_mcp.neon_emulator.computes import Computes
from agentdb_mcp.neon_emulator.control import build_control
from agentdb_mcp.neon_emulator.errors import CLUSTER_ERRORS, ClusterUnavailableError
from agentdb_mcp.neon_emulator.faults import Faults, RateLimit
from agentdb_mcp.neon_emulator.location import SESSION, Address, Location, locate, names_lead_to
from agentdb_mcp.neon_emulator.naming import quoted
from agentdb_mcp.neon_emulator.operations import Operations
from agentdb_mcp.neon_emulator.projects import Projects
from agentdb_mcp.neon_emulator.proxy import Upstream, serve_proxy
from agentdb_mcp.neon_emulator.serving import serve
from agentdb_mcp.neon_emulator.settling import settle
from agentdb_mcp.neon_emulator.state import Installation, install, prepare_connection
from agentdb_mcp.neon_emulator.tasks import task_group
from agentdb_mcp.neon_emulator.usage import Usage

__all__ = ["Behaviour", "ClusterUnavailableError", "Emulator", "NewOrganization", "OrganizationKey", "neon_emulator"]

POOL_SIZE = 8
CLOSE_TIMEOUT_S = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OrganizationKey:
    """A key that opens one organization only."""

    id: str
    name: str
    plan: str
    api_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Emulator:
    """A running emulator; paths such as `/projects` follow `base_url`. `api_key` opens every organization."""

    base_url: str
    api_key: str = field(repr=False)
    org_id: str
    organizations: tuple[OrganizationKey, ...] = ()
    control_url: str | None = None


@asynccontextmanager
async def neon_emulator(
    postgres_uri: str,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    api_key: str | None = None,
    proxy: bool = True,
    control: bool = False,
    behaviour: Behaviour | None = None,
) -> AsyncIterator[Emulator]:
    """Serve Neon's API for the time of the block, on the cluster whose superuser's URI is given.

    What it knows lives in the cluster's database `neon_emulator`: a later run on the same cluster finds every project
    and, unless one is given, the same API key. One emulator a cluster at a time: the next one waits
    a little for the former's end. Raises ClusterUnavailableError.

    Projects' URIs lead through a proxy, which lets computes sleep and wake, enforces quotas and measures. Without it
    (`proxy=False`) they lead to the cluster itself: faster, and nothing of that happens. `control` opens a second
    port, without a key, for the clock and for faults (control.py).
    """
    location = locate(postgres_uri)
    behaviour = behaviour or Behaviour()
    if location.sslmode not in (None, "disable", "allow", "prefer"):
        proxy = False  # it speaks to the cluster without TLS
    async with AsyncExitStack() as stack:
        await _make_own_database(location)
        claim = await stack.enter_async_context(claimed(location))
        pool = await stack.enter_async_context(_state_pool(location))
        installation = await install(pool, behaviour.organizations)
        projects = await _projects(installation, claim, pool, location, behaviour, proxied=proxy)
        await projects.recover_all()
        address = Address(location.host, location.port, location.sslmode, proxied=False, named=False)
        await stack.enter_async_context(_passing_time(projects))
        if proxy:
            upstream = Upstream(location.host, location.port, projects.computes)
            proxy_port = await stack.enter_async_context(serve_proxy(upstream, host, installation.proxy_port))
            named = behaviour.named_hosts if behaviour.named_hosts is not None else await names_lead_to(host)
            # The next run takes the same one where it can, so that URIs given out go on working.
            await pool.execute("UPDATE installation SET proxy_port = $1", proxy_port)
            address = Address(host, proxy_port, None, proxied=True, named=named)
        organizations = (await state.organizations(pool))[: len(behaviour.organizations)]
        key, faults = api_key or installation.api_key, Faults()
        limit = RateLimit(projects.clock, behaviour.requests_per_minute)
        app = build_app(projects, Answers(projects, address), Doorway(key, organizations, faults, limit))
        shown = f"[{host}]" if ":" in host else host
        control_url = None
        if control:
            control_app = build_control(projects, faults, limit)
            control_url = f"http://{shown}:{await stack.enter_async_context(serve(control_app, host, 0))}"
        actual_port = await stack.enter_async_context(serve(app, host, port))
        keys = tuple(OrganizationKey(found.id, found.name, found.plan, found.api_key) for found in organizations)
        yield Emulator(f"http://{shown}:{actual_port}{PREFIX}", key, installation.org_id, keys, control_url)


async def _projects(
    installation: Installation,
    claim: Claim,
    pool: asyncpg.Pool,
    location: Location,
    behaviour: Behaviour,
    *,
    proxied: bool,
) -> Projects:
    clock, cluster = Clock(behaviour.start_at), await open_cluster(pool, location)
    operations = Operations(pool, clock, behaviour.operation_seconds)
    usage = Usage(pool, clock)
    computes = Computes(pool, cluster, clock, behaviour, operations, usage, proxied)
    return Projects(installation, claim, cluster, computes)


@asynccontextmanager
async def _passing_time(projects: Projects) -> AsyncIterator[None]:
    """Look now and then at what has fallen due; once more at the end, so that what was used is written down."""
    behaviour, clock = projects.computes.behaviour, projects.clock

    async def tick() -> None:
        sized = clock.now()
        while True:
            await anyio.sleep(behaviour.tick_seconds)
            sizes = clock.now() - sized >= timedelta(seconds=behaviour.size_sample_seconds)
            sized = clock.now() if sizes else sized
            await look(sizes=sizes)

    async def look(*, sizes: bool) -> None:
        try:
            await settle(projects.computes, sizes=sizes)
            await projects.purge()
        except CLUSTER_ERRORS as error:
            logger.warning("looking at what has fallen due failed (%s)", type(error).__name__)

    async with task_group() as group:
        group.start_soon(tick)
        try:
            yield
        finally:
            group.cancel_scope.cancel()
    with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_TIMEOUT_S):
        await look(sizes=False)


async def _keep(_connection: asyncpg.Connection) -> None:
    """Our sessions hold no state between uses, and asking for a reset would double the way of short statements."""


async def _make_own_database(location: Location) -> None:
    """Unless it is there."""
    try:
        connection = await location.connect("postgres")
    except (*CLUSTER_ERRORS, ValueError) as error:
        raise ClusterUnavailableError(type(error).__name__) from None
    try:
        name = location.own_database
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name):
            await connection.execute(f"CREATE DATABASE {quoted(name)} TEMPLATE template0 ENCODING 'UTF8'")
    finally:
        await connection.close()


@asynccontextmanager
async def _state_pool(location: Location) -> AsyncIterator[asyncpg.Pool]:
    """Connections to the emulator's own database."""
    pool = await asyncpg.create_pool(
        location.superuser_uri,
        database=location.own_database,
        min_size=1,
        max_size=POOL_SIZE,
        server_settings=SESSION,
        init=prepare_connection,
        reset=_keep,
    )
    try:
        yield pool
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_TIMEOUT_S):
            await pool.close()
        pool.terminate()
