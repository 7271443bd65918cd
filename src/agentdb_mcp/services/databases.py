"""Which database a call is for: the first of environment, our row, Sim's variables; else it is made now."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlsplit

from agentdb_mcp.credentials.cipher import Cipher, DecryptionError, looks_encrypted
from agentdb_mcp.credentials.references import is_own_reference, is_own_token, is_unresolved
from agentdb_mcp.errors import ConfigurationError, DatabaseUnavailable, InvalidArgument, NotAllowed
from agentdb_mcp.logs import register_secret
from agentdb_mcp.models import AccessMode, DatabaseStatus, DatabaseTarget, Ownership, Scope, Secret, Tenant
from agentdb_mcp.providers import project_name
from agentdb_mcp.services.flights import Flights
from agentdb_mcp.services.owners import Owners
from agentdb_mcp.services.provisioning import Provisioning
from agentdb_mcp.services.variables import Variables
from agentdb_mcp.store import BudgetStore, DatabaseRow, DatabaseStore, IdentityStore, WorkspaceRow
from agentdb_mcp.store.identity import is_archived

VARIABLE = {Scope.AGENT: "AGENT_DB_URL", Scope.GLOBAL: "GLOBAL_DB_URL"}
# How long a database is used before its row, its owner or its variable is looked at again.
FRESH_S = 15.0
# Databases that are remembered, those that were asked for last: what is not is resolved when it is asked for again.
REMEMBERED = 5000
_GONE = {DatabaseStatus.DELETING, DatabaseStatus.DELETED}
_TENANTS_OPTIONS = {"channel_binding", "sslmode"}
# To the driver a path, also a percent-encoded one, is a Unix socket, and a comma parts several hosts.
_TENANTS_HOST = re.compile(r"[A-Za-z0-9._:-]+")
_SCHEMES = ("postgresql://", "postgres://")


@dataclass(frozen=True, slots=True)
class OpenDatabase:
    """A resolved database: how to reach it, and what it counts towards (no payer for what users brought)."""

    target: DatabaseTarget
    scope: Scope
    access_mode: AccessMode = AccessMode.UNRESTRICTED
    row_id: str | None = None
    payer: str | None = None
    fixed: bool = False  # given by the process's environment
    project_name: str | None = None
    checkpoint_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Control:
    """What there is only with a control database."""

    databases: DatabaseStore
    identity: IdentityStore
    budgets: BudgetStore
    owners: Owners
    variables: Variables
    provisioning: Provisioning
    # Raises BudgetExceeded for a user whose budget pays for no new database.
    check_payer: Callable[[str], Awaitable[None]]


@dataclass(slots=True)
class _Known:
    """A database that was resolved, and how long it is used before it is resolved again."""

    database: OpenDatabase
    fresh_until: float

    @property
    def fresh(self) -> bool:
        return self.database.fixed or time.monotonic() < self.fresh_until


class Databases:
    """Resolves and remembers databases by tenant and scope.

    `retired` is told the target's key of a database that turns out to be deleted, or replaced by another.
    """

    def __init__(
        self,
        urls: dict[Scope, Secret | None],
        cipher: Cipher | None,
        control: Control | None,
        retired: Callable[[str], None],
    ) -> None:
        self._urls = urls
        self._cipher = cipher
        self._control = control
        self._retired = retired
        self._known: dict[tuple[Tenant, Scope], _Known] = {}  # asked for longest ago first
        self._flights: Flights[tuple[Tenant, Scope]] = Flights()

    async def open(self, tenant: Tenant, scope: Scope) -> OpenDatabase:
        """The tenant's database. Raises DatabaseUnavailable, ProvisioningFailed, ConfigurationError, BudgetExceeded."""
        if (known := self._recall(tenant, scope)) is not None and known.fresh:
            return known.database
        async with self._flights.of((tenant, scope)):
            known = self._recall(tenant, scope)
            if known is None or not known.fresh:
                database = await self._again(known.database if known else None, tenant, scope)
                known = _Known(database, time.monotonic() + FRESH_S)
                self._known[tenant, scope] = known
                if len(self._known) > REMEMBERED:
                    del self._known[next(iter(self._known))]
        return known.database

    def _recall(self, tenant: Tenant, scope: Scope) -> _Known | None:
        if (known := self._known.pop((tenant, scope), None)) is not None:
            self._known[tenant, scope] = known
        return known

    async def _again(self, known: OpenDatabase | None, tenant: Tenant, scope: Scope) -> OpenDatabase:
        """Resolve; what is known already outlives a control database that is away."""
        try:
            found = await self._resolve(tenant, scope)
        except NotAllowed:  # nothing is known any more that an outage could bring back
            self._known.pop((tenant, scope), None)
            raise
        except DatabaseUnavailable as error:
            if known is None:
                raise
            if error.retryable:
                return known
            self._known.pop((tenant, scope), None)
            self._retired(known.target.key)
            raise
        if known is not None and known.target.key != found.target.key:
            self._retired(known.target.key)
        return found

    async def row_of(self, database: OpenDatabase) -> DatabaseRow | None:
        """The row of a managed database as it is now; None of one that was brought by its URL."""
        if self._control is None or database.project_name is None:
            return None
        return await self._control.databases.find(database.scope, database.project_name)

    def forget(self, tenant: Tenant, scope: Scope) -> None:
        """Resolve anew at the next call: the database did not answer."""
        if (known := self._known.get((tenant, scope))) is not None:
            known.fresh_until = 0.0

    async def _resolve(self, tenant: Tenant, scope: Scope) -> OpenDatabase:
        given = self._urls.get(scope)
        if given is not None and (url := self._plain_url(given.reveal(), VARIABLE[scope])) is not None:
            return replace(_plain(url, scope), fixed=True)
        if self._control is None:
            raise DatabaseUnavailable(
                f"There is no {scope} database here.",
                hint=f"Whoever runs the server: set {VARIABLE[scope]}, or AGENTDB_CONTROL_URL with a tenant.",
            )
        return await self._resolve_managed(tenant, scope, self._control)

    async def _resolve_managed(self, tenant: Tenant, scope: Scope, control: Control) -> OpenDatabase:
        user_id, owner_id = _owner(tenant, scope)
        row = await control.databases.find(scope, project_name(scope, owner_id))
        if row is None:
            await _check_owner(scope, user_id, owner_id, control)
            for variable in await control.variables.find(tenant, scope):
                if (url := self._plain_url(variable, VARIABLE[scope])) is not None:
                    _check_tenants_url(url, VARIABLE[scope])
                    return _plain(url, scope)
            await _declare(scope, user_id, owner_id, control)
        else:
            row = await _owned(row, user_id, control)
        if row is None or row.status is not DatabaseStatus.READY:
            if row is not None and row.status not in _GONE:  # nothing is made for a payer who cannot pay
                await control.check_payer(user_id)
            row = await control.provisioning.ensure(scope, owner_id)
            await control.variables.offer(scope, owner_id, user_id)
        return self._managed(row, scope)

    def _managed(self, row: DatabaseRow, scope: Scope) -> OpenDatabase:
        uri = self._decrypt(row.uri or "")
        register_secret(uri)
        target = DatabaseTarget(f"{row.id}:{row.generation}", uri, role=row.role_name, database_id=row.id)
        payer = row.user_id if row.ownership is Ownership.PLATFORM else None
        return OpenDatabase(
            target,
            scope,
            row.access_mode,
            row.id,
            payer,
            project_name=row.project_name,
            checkpoint_bytes=row.checkpoint_bytes,
        )

    def _plain_url(self, value: str, name: str) -> Secret | None:
        return plain_url(value, name, self._cipher)

    def _decrypt(self, stored: str) -> Secret:
        return _decrypt(stored, self._cipher)


def plain_url(value: str, name: str, cipher: Cipher | None) -> Secret | None:
    """The URL in a variable, plain or encrypted; None for a reference or a token, which count as missing.

    Raises ConfigurationError that names the variable, never its value.
    """
    value = value.strip()
    if not value or is_own_reference(value) or is_own_token(value) or is_unresolved(value):
        return None
    if looks_encrypted(value):
        try:
            return plain_url(_decrypt(value, cipher).reveal(), name, cipher)
        except DecryptionError as error:
            raise ConfigurationError(f"{name}: {error.message}", hint=error.hint) from None
    if not value.startswith(_SCHEMES) or not _has_readable_parts(value):
        raise ConfigurationError(
            f"{name} is neither a postgresql:// URL, an encrypted one, nor a reference.",
            hint=f"Whoever runs the server: set {name} to one of these, or leave it out. In a URL, percent-encode"
            " special characters of the user and the password.",
        )
    return Secret(value)


def _has_readable_parts(url: str) -> bool:
    """Whether a driver can tell host and port; its own complaint would quote a part of the password."""
    try:
        parts = urlsplit(url)
        return not parts.fragment and (parts.port is None or parts.port > 0)
    except ValueError:
        return "," in url  # several hosts


def _check_tenants_url(url: Secret, name: str) -> None:
    """A URL that a tenant wrote brings its own host and login: nothing of the server's account, files or sockets."""
    parts = urlsplit(url.reveal())
    complete = parts.username and parts.password and _TENANTS_HOST.fullmatch(parts.hostname or "")
    if not complete or parse_qs(parts.query, keep_blank_values=True).keys() - _TENANTS_OPTIONS:
        raise ConfigurationError(
            f"{name} must name one host, a user and a password, and no option"
            f" but {', '.join(sorted(_TENANTS_OPTIONS))}.",
            hint="Change the variable, or leave it out to have a database made.",
        )


def _decrypt(stored: str, cipher: Cipher | None) -> Secret:
    if cipher is None:
        raise ConfigurationError(
            "A connection string is encrypted and there is no key.",
            hint="Whoever runs the server: set AGENTDB_ENCRYPTION_KEYS, or ENCRYPTION_KEY for Sim's variables.",
        )
    return cipher.decrypt(stored)


async def _declare(scope: Scope, user_id: str, owner_id: str, control: Control) -> None:
    """Write down that the database should exist, unless its user was deleted or cannot pay for it."""
    of_user = await control.databases.find(Scope.GLOBAL, project_name(Scope.GLOBAL, user_id))
    if of_user is not None and of_user.status in _GONE:
        raise DatabaseUnavailable("The user was deleted.", hint="Whoever runs the platform can create it anew.")
    await control.identity.ensure_user(user_id)
    if scope is Scope.AGENT:
        await control.identity.ensure_workspace(owner_id, owner_id, user_id)
    await control.budgets.ensure(user_id)
    await control.check_payer(user_id)
    name = project_name(scope, owner_id)
    await control.databases.declare(scope, owner_id, user_id=user_id, project_name=name)


async def _check_owner(scope: Scope, user_id: str, owner_id: str, control: Control) -> None:
    workspace = await control.identity.workspace(owner_id) if scope is Scope.AGENT else None
    if workspace is not None:
        _check_workspace(workspace, user_id)


def _check_workspace(workspace: WorkspaceRow | None, user_id: str) -> None:
    if workspace is None or workspace.owner_id != user_id:
        raise NotAllowed("This workspace belongs to another user.")
    if workspace.archived:
        raise is_archived()


async def _owned(row: DatabaseRow, user_id: str, control: Control) -> DatabaseRow:
    """The row if the user may use and pays for it; a workspace that changed hands changes its payer."""
    if row.scope is Scope.GLOBAL or row.status in _GONE:
        return row
    _check_workspace(await control.identity.workspace(row.owner_id or ""), user_id)
    return row if row.user_id == user_id else await control.owners.hand_over(row, user_id)


def _plain(url: Secret, scope: Scope) -> OpenDatabase:
    register_secret(url)
    return OpenDatabase(DatabaseTarget(f"url:{scope}:{hash(url)}", url), scope)


def _owner(tenant: Tenant, scope: Scope) -> tuple[str, str]:
    """(user, owner of the database) of a managed call."""
    if tenant.user_id is None:
        raise InvalidArgument(
            "The server does not know whose call this is.", hint="Whoever runs the server: set AGENTDB_USER_ID."
        )
    if scope is Scope.GLOBAL:
        return tenant.user_id, tenant.user_id
    if tenant.workspace_id is None:
        raise InvalidArgument(
            "The server does not know which workspace this call is for.",
            hint="Use database='global', or whoever runs the server: set AGENTDB_WORKSPACE_ID.",
        )
    return tenant.user_id, tenant.workspace_id
