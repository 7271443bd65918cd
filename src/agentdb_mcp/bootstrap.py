"""The one place that chooses implementations and wires them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from agentdb_mcp.costs import SpanMeter
from agentdb_mcp.credentials.cipher import Cipher
from agentdb_mcp.errors import ConfigurationError
from agentdb_mcp.execution import Pools, PoolSettings
from agentdb_mcp.logs import register_secret
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.policy import Policy, load_policy
from agentdb_mcp.providers import NeonConfig, PostgresConfig, Provider, open_provider
from agentdb_mcp.services import (
    Analysis,
    Audit,
    Budgets,
    Checkpoints,
    Clock,
    Copying,
    Databases,
    Health,
    HeldRows,
    Keys,
    Lifecycle,
    Metering,
    Owners,
    Pages,
    Pausing,
    Provisioning,
    Queries,
    Reconcile,
    Sync,
    Tiers,
    Tokens,
    Usage,
    Variables,
    utc_now,
)
from agentdb_mcp.services.databases import Control, plain_url
from agentdb_mcp.services.reconcile import SETTLED_S
from agentdb_mcp.services.recording import Recorder
from agentdb_mcp.services.spending import Spending
from agentdb_mcp.settings import Settings
from agentdb_mcp.store import (
    AuditStore,
    BudgetStore,
    ConnectionStrings,
    ControlDatabase,
    DatabaseStore,
    IdentityStore,
    LedgerStore,
    SimVariables,
    TokenStore,
)

if TYPE_CHECKING:
    from agentdb_mcp.mcp_server.tools import Operations


@dataclass(frozen=True, slots=True)
class Managed:
    """What there is with a control database only.

    Who checks tokens does so inside `async with tokens.following()`: else no connection listens for what is revoked.
    """

    control: ControlDatabase
    usage: Usage
    lifecycle: Lifecycle
    tokens: Tokens
    audit: Audit
    checkpoints: Checkpoints
    keys: Keys
    provider: Provider | None
    policy: Policy

    def reconcile(self, *, settled_s: float = SETTLED_S) -> Reconcile:
        """Raises ConfigurationError where there is no provider to compare with."""
        archived_keep_s = self.policy.sim.archived_keep_days * 86_400.0
        return Reconcile(self.lifecycle.provisioning, self._provider(), settled_s, archived_keep_s)

    def sync(self) -> Sync:
        """Raises ConfigurationError where there is no provider to ask."""
        usage = self.usage
        databases = self.lifecycle.databases
        return Sync(self.policy, self._provider(), databases, usage.ledger, usage.budgets, usage.pausing, usage.clock)

    def _provider(self) -> Provider:
        if self.provider is None:
            raise ConfigurationError("Nothing makes databases here.", hint="Set NEON_API_KEY or AGENTDB_PROVIDER_URL.")
        return self.provider


@dataclass(frozen=True, slots=True)
class Application:
    """All services of one process."""

    settings: Settings
    policy: Policy
    queries: Queries
    pages: Pages
    with_control: Managed | None = None

    @property
    def tenant(self) -> Tenant:
        """The tenant of a stdio server."""
        return Tenant(self.settings.user_id, self.settings.workspace_id)

    def operations(self, tenant: Tenant) -> Operations:
        """What the tenant's tools may do."""
        from agentdb_mcp.mcp_server.tools import Operations

        usage = self.with_control.usage if self.with_control else None
        checkpoints = self.with_control.checkpoints if self.with_control else None
        health, analysis = Health(self.queries, self.policy, usage), Analysis(self.queries, self.policy)
        copying = Copying(self.queries.calls)
        return Operations(
            tenant, self.queries, usage, self.policy, self.pages, health, analysis, copying, checkpoints=checkpoints
        )

    def managed(self) -> Managed:
        """Raises ConfigurationError where there is no control database."""
        if self.with_control is None:
            raise ConfigurationError(
                "AGENTDB_CONTROL_URL is missing.", hint="Set it to the postgresql:// URL of the platform's database."
            )
        return self.with_control


@asynccontextmanager
async def open_application(
    settings: Settings, *, migrate: bool = True, clock: Clock = utc_now
) -> AsyncIterator[Application]:
    """Build the services; opens no connection. At the end everything is flushed and closed.

    `clock` is what periods and metering go by.
    """
    policy = _policy(settings)
    cipher = _cipher(settings)
    urls = {Scope.AGENT: settings.agent_db_url, Scope.GLOBAL: settings.global_db_url}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_traces(settings))
        limits = policy.limits
        pools = Pools(PoolSettings(size=limits.pool_size, max_connections=limits.max_connections, idle_s=limits.idle_s))
        stack.push_async_callback(_shielded, pools.close)
        if settings.control_url is None:
            queries = Queries(policy, Databases(urls, cipher, None, pools.forget), pools, None)
            yield Application(settings, policy, queries, _pages(queries, policy))
            return
        register_secret(settings.control_url)
        control = ControlDatabase(settings.control_url, migrate=migrate)
        stack.push_async_callback(_shielded, control.close)
        provider = await stack.enter_async_context(_provider(settings, policy, clock))
        identity, databases, budgets = IdentityStore(control), DatabaseStore(control), BudgetStore(control)
        usage = _usage(policy, control, databases, budgets, identity, provider, clock)
        stack.push_async_callback(_shielded, usage.budgets.flush)
        audit = Audit(AuditStore(control), clock, policy.metering.flush_s, policy.audit.keep_days)
        stack.push_async_callback(_shielded, audit.drain)
        background = await stack.enter_async_context(anyio.create_task_group())
        background.start_soon(usage.budgets.keep, usage.pausing.follow)
        background.start_soon(usage.budgets.keep_listening)
        background.start_soon(usage.budgets.keep_telling)
        background.start_soon(audit.keep)
        stack.callback(background.cancel_scope.cancel)
        stored_tokens, owners = TokenStore(control), Owners(databases, budgets, usage.tiers)
        tokens = Tokens(stored_tokens, clock)
        variables = Variables(SimVariables(control), _sim_cipher(settings), policy.sim, tokens, stored_tokens, clock)
        limit = policy.limits.connection_limit
        provisioning = Provisioning(databases, provider, cipher, limit, usage.tiers.settings, variables)
        lifecycle = Lifecycle(
            identity, databases, budgets, stored_tokens, provisioning, variables, owners, policy.tiers
        )
        spending = Spending(usage.budgets, usage.budgets.metering, usage.pausing)
        rows = Control(databases, identity, budgets, owners, variables, provisioning, spending.check_new)
        keys = Keys(ConnectionStrings(control), cipher)
        resolver = Databases(urls, cipher, rows, pools.forget)
        queries = Queries(policy, resolver, pools, spending, Recorder(audit, _statement_key(settings)))
        checkpoints = Checkpoints(policy, queries.calls, resolver, provisioning, spending, audit.store, pools, clock)
        managed = Managed(control, usage, lifecycle, tokens, audit, checkpoints, keys, provider, policy)
        yield Application(settings, policy, queries, _pages(queries, policy), managed)


def _pages(queries: Queries, policy: Policy) -> Pages:
    return Pages(queries, HeldRows(policy.limits), policy.limits)


def _statement_key(settings: Settings) -> bytes:
    """What hashes of statements in the audit log are keyed with, the same on every server; empty without a key."""
    if not settings.encryption_keys:
        return b""
    return hashlib.sha256(b"agentdb audit " + settings.encryption_keys[0].reveal().encode()).digest()


async def _shielded(close: object) -> None:
    """Closing goes on when we are being cancelled, but not for ever."""
    with anyio.CancelScope(shield=True), anyio.move_on_after(5, shield=True):
        await close()  # type: ignore[operator]


@asynccontextmanager
async def _traces(settings: Settings) -> AsyncIterator[None]:
    """Spans go where the settings say; without, nothing of OpenTelemetry's SDK is loaded."""
    if settings.otel_endpoint is None:
        yield
        return
    try:
        from agentdb_mcp.telemetry.otel import exporting
    except ImportError:
        raise ConfigurationError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, and OpenTelemetry's SDK is not installed.",
            hint="Install agentdb-mcp[otel], or set OTEL_SDK_DISABLED=true.",
        ) from None
    async with exporting(settings.otel_endpoint, {name: value.reveal() for name, value in settings.otel_headers}):
        yield


@asynccontextmanager
async def _provider(settings: Settings, policy: Policy, clock: Clock) -> AsyncIterator[Provider | None]:
    config: NeonConfig | PostgresConfig
    if settings.provider_url is not None:
        register_secret(settings.provider_url)
        config = PostgresConfig(settings.provider_url)
    elif settings.neon:
        config = NeonConfig(settings.neon_api_host, settings.neon, float(policy.compute.max_cu))
    else:
        yield None
        return
    async with open_provider(config, clock) as provider:
        yield provider


def _policy(settings: Settings) -> Policy:
    compute, storage = settings.compute_price, settings.storage_price
    try:
        policy = load_policy(settings.policy_path)
    except ConfigurationError as error:
        raise ConfigurationError(f"AGENTDB_POLICY: {error.message}", hint=error.hint) from None
    return policy.with_prices(
        compute=None if compute is None else str(compute), storage=None if storage is None else str(storage)
    )


def _usage(
    policy: Policy,
    control: ControlDatabase,
    databases: DatabaseStore,
    store: BudgetStore,
    identity: IdentityStore,
    provider: Provider | None,
    clock: Clock,
) -> Usage:
    ledger = LedgerStore(control)
    meter: SpanMeter[str] = SpanMeter(policy.compute.suspend_timeout_s * 1_000_000)
    metering = Metering(meter, ledger, clock, policy.metering.size_sample_s)
    budgets = Budgets(policy, metering, ledger, store)
    pausing = Pausing(provider, databases, store, budgets)
    tiers = Tiers(policy, provider, databases, store)
    return Usage(policy, budgets, store, ledger, identity, pausing, tiers, clock)


def _cipher(settings: Settings) -> Cipher | None:
    others = [key for key in (settings.neon_connection_encryption_key, settings.sim_encryption_key) if key]
    if not settings.encryption_keys and not others:
        return None
    return Cipher(settings.encryption_keys, also_decrypt=others)


def _sim_cipher(settings: Settings) -> Cipher | None:
    """For what Sim is to read: with Sim's key and no other."""
    key = settings.sim_encryption_key
    return Cipher([key], setting="ENCRYPTION_KEY", also_setting="ENCRYPTION_KEY") if key else None


def check_serve(settings: Settings, fixed_scope: Scope | None) -> None:
    """Whether a stdio server has anything to serve. Raises ConfigurationError naming what is missing."""
    if settings.control_url is not None:
        if settings.user_id is None:
            raise ConfigurationError(
                "AGENTDB_USER_ID is missing.", hint="With AGENTDB_CONTROL_URL a stdio server serves one user."
            )
        if settings.workspace_id is None and fixed_scope is Scope.AGENT:
            raise ConfigurationError("AGENTDB_WORKSPACE_ID is missing.", hint="`--scope agent` serves one workspace.")
    elif not _given_urls(settings):
        raise ConfigurationError(
            "There is no database to serve: AGENT_DB_URL and GLOBAL_DB_URL are missing or unresolved.",
            hint="Set one of them to a postgresql:// URL, or AGENTDB_CONTROL_URL, AGENTDB_USER_ID and"
            " AGENTDB_WORKSPACE_ID to have databases made on first use.",
        )


def check_many_tenants(settings: Settings) -> None:
    """Raises ConfigurationError where the environment names a database, which every tenant would get as its own."""
    for name in _given_urls(settings):
        raise ConfigurationError(
            f"{name} names one tenant's database, and over HTTP there are many tenants.",
            hint=f"Leave {name} out, or serve that tenant over stdio.",
        )


def _given_urls(settings: Settings) -> list[str]:
    """Which variables of the environment name a database."""
    cipher = _cipher(settings)
    given = {"AGENT_DB_URL": settings.agent_db_url, "GLOBAL_DB_URL": settings.global_db_url}
    return [name for name, value in given.items() if value and plain_url(value.reveal(), name, cipher)]
