"""API tokens: opaque text whose hash alone is kept, for one user and maybe one of the user's workspaces.

A token that is in use is remembered for a minute, so that a call asks the control database for nothing. Notices of the
table end that at once in every process, and without them nothing is taken from memory.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import anyio

from agentdb_mcp.errors import AgentDBError, DatabaseUnavailable, InvalidArgument, NotAuthenticated, NotFound
from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import Secret, Tenant, TokenScope
from agentdb_mcp.services.failed_tries import FailedTries
from agentdb_mcp.services.metering import Clock
from agentdb_mcp.store import TokenRow, TokenStore

log = get_logger(__name__)

PREFIX = "adb_"
MAX_EXPIRES_IN_S = 10 * 365 * 86_400
MAX_NAME = 200
# How long a token is taken from memory, and how many are.
FRESH_S = 60.0
MAX_KNOWN = 10_000
FLUSH_S = 60.0
# Tokens that are looked up at once: the rest of the connections is for other work.
LOOKUPS = 2
LOOKUP_TIMEOUT_S = 10.0
# Tokens that ended longer ago are forgotten.
KEPT = timedelta(days=30)

_TOKEN = re.compile(r"adb_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class TokenIdentity:
    """Whose call it is, and what it may be about."""

    token_id: str
    tenant: Tenant
    scopes: frozenset[TokenScope]
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """The one time that a token's text is to be had."""

    id: str
    token: Secret
    user_id: str
    workspace_id: str | None
    scopes: tuple[TokenScope, ...]
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Known:
    """A token that was valid when it was looked up; that counts until `fresh_until`, while the epoch lasts."""

    identity: TokenIdentity
    epoch: int
    fresh_until: float


class Tokens:
    """Issues, revokes and checks tokens. All of it raises DatabaseUnavailable."""

    def __init__(self, store: TokenStore, clock: Clock, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._failed = FailedTries(clock=monotonic)
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._hashes: dict[str, bytes] = {}  # of what is known, by id
        self._listening = False
        # Rises with every notice: what was read before one is not remembered after it.
        self._notices = 0
        self._epoch = 0  # rises whenever notices may have been missed
        self._lookups = anyio.CapacityLimiter(LOOKUPS)
        self._used: dict[str, datetime] = {}

    # --- issuing and revoking ---------------------------------------------------------------------------------------

    async def issue(
        self,
        user_id: str,
        workspace_id: str | None,
        scopes: Collection[TokenScope],
        expires_in_s: int | None,
        name: str | None = None,
    ) -> IssuedToken:
        """A new token, valid for 1 s to 10 years or, with None, until it is revoked.

        Raises NotFound if there is no such user, or the workspace is not one of this user's, and InvalidArgument.
        """
        if not scopes:
            raise InvalidArgument("A token needs a scope.", hint=f"Give one of {', '.join(TokenScope)}.")
        if TokenScope.ADMIN in scopes and workspace_id is not None:
            raise InvalidArgument(
                "A token with the scope admin is its user's, not one workspace's.", hint="Leave the workspace out."
            )
        if expires_in_s is not None and not 1 <= expires_in_s <= MAX_EXPIRES_IN_S:
            raise InvalidArgument(f"A token is valid for 1 to {MAX_EXPIRES_IN_S} seconds, not for {expires_in_s}.")
        if name is not None and (len(name) > MAX_NAME or not name.isprintable()):
            raise InvalidArgument(f"A token's name has at most {MAX_NAME} characters, all of them printable.")
        if not _is_text(user_id) or not _is_text(workspace_id or ""):
            raise NotFound("There is no such user or workspace.")
        token = Secret(PREFIX + secrets.token_urlsafe(32))
        now = self._clock()
        row = await self._store.insert(
            _hash(token.reveal()),
            user_id,
            workspace_id,
            sorted(set(scopes), key=list(TokenScope).index),
            name=name,
            created_at=now,
            expires_at=None if expires_in_s is None else now + timedelta(seconds=expires_in_s),
        )
        return IssuedToken(row.id, token, row.user_id, row.workspace_id, row.scopes, row.expires_at)

    async def revoke(self, token_id: str, *, user_id: str | None = None) -> bool:
        """End a token now, in every process; whether there is such a token (of this user, where one is given)."""
        if not _is_text(token_id) or not _is_text(user_id or ""):
            return False
        found = await self._store.revoke(token_id, self._clock(), user_id=user_id)
        if found:
            self._forget(token_id)
        return found

    async def of_user(self, user_id: str) -> list[TokenRow]:
        """The newest first; those that ended up to a month ago are among them."""
        return await self._store.of_user(user_id) if _is_text(user_id) else []

    async def prune(self) -> None:
        """Delete what ended more than a month ago."""
        await self._store.prune(self._clock() - KEPT)

    # --- checking ---------------------------------------------------------------------------------------------------

    async def authenticate(self, presented: str, *, source: str = "") -> TokenIdentity:
        """Whose token it is. That a bound workspace still is the user's, `Databases.open` checks.

        Raises NotAuthenticated, the same for what is unknown, expired or revoked; RateLimited where too many such tries
        came from the `source` (a client's address), unless the token was valid before; and DatabaseUnavailable.
        """
        token_hash = _hash(presented) if _TOKEN.fullmatch(presented) else None
        identity = self._remembered(token_hash)
        if identity is None:
            identity = await self._look_up(token_hash, source)
        now = self._clock()
        if identity.expires_at is not None and identity.expires_at <= now:
            self._forget(identity.token_id)
            raise self._refused(source)
        self._used[identity.token_id] = now
        return identity

    async def redeem(self, presented: str, name: str, *, source: str = "") -> TokenIdentity:
        """Whose token of that name it was: it works once, whichever process is asked. Raises as `authenticate` does."""
        self._failed.check(source)
        row = None
        if _TOKEN.fullmatch(presented):
            row = await self._store.redeem(_hash(presented), name, self._clock())
        if row is None:
            raise self._refused(source)
        self._forget(row.id)
        return _identity(row)

    def _remembered(self, token_hash: bytes | None) -> TokenIdentity | None:
        """None for what has to be looked up."""
        known = self._known.get(token_hash) if token_hash is not None else None
        if known is None or not self._listening or known.epoch != self._epoch:
            return None
        return known.identity if self._monotonic() < known.fresh_until else None

    async def _look_up(self, token_hash: bytes | None, source: str) -> TokenIdentity:
        """One that was valid before may be looked up, whatever else comes from its source."""
        if token_hash is None:
            self._failed.check(source)
            raise self._refused(source)
        try:
            with anyio.fail_after(LOOKUP_TIMEOUT_S):
                async with self._lookups:
                    if (identity := self._remembered(token_hash)) is not None:  # looked up by another call meanwhile
                        return identity
                    if token_hash not in self._known:
                        self._failed.check(source)
                    identity = await self._read(token_hash)
        except (TimeoutError, DatabaseUnavailable) as error:
            log.warning("token not checked", error=type(error).__name__)
            raise DatabaseUnavailable(
                "Tokens cannot be checked now.", hint="Try again in a few seconds.", retryable=True
            ) from None
        if identity is None:
            raise self._refused(source)
        return identity

    def _refused(self, source: str) -> NotAuthenticated:
        self._failed.note(source)
        return NotAuthenticated("The token is not valid.", hint="Ask whoever runs the platform for a new one.")

    async def _read(self, token_hash: bytes) -> TokenIdentity | None:
        """The valid token as the control database has it, remembered if nothing changed meanwhile."""
        began = self._notices, self._epoch, self._listening
        row = await self._store.find_by_hash(token_hash)
        if row is None or row.ended(self._clock()):
            self._drop(token_hash)
            return None
        identity = _identity(row)
        if began == (self._notices, self._epoch, self._listening):
            self._known[token_hash] = _Known(identity, self._epoch, self._monotonic() + FRESH_S)
            self._known.move_to_end(token_hash)
            self._hashes[row.id] = token_hash
            if len(self._known) > MAX_KNOWN:
                self._drop(next(iter(self._known)))
        return identity

    def _forget(self, token_id: str) -> None:
        self._notices += 1
        if (token_hash := self._hashes.get(token_id)) is not None:
            self._drop(token_hash)

    def _drop(self, token_hash: bytes) -> None:
        if (known := self._known.pop(token_hash, None)) is not None:
            del self._hashes[known.identity.token_id]

    # --- in the background ------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """For the time of the block, follow what other processes revoke; at the end, store when tokens were used last.

        Who checks tokens runs inside of it. Outside, every check asks the control database.
        """
        try:
            async with anyio.create_task_group() as background:
                background.start_soon(self.keep)
                yield
                background.cancel_scope.cancel()
        finally:
            with anyio.move_on_after(5, shield=True):
                await self.flush()

    async def keep(self) -> None:
        """Follow notices, and store once a minute when tokens were used last, until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._keep_flushing)
            try:
                async with aclosing(self._store.changes(self._lost)) as changes:
                    async for token_id in changes:
                        if token_id is None:
                            self._epoch += 1
                            self._listening = True
                        else:
                            self._forget(token_id)
            finally:
                self._lost()

    async def _keep_flushing(self) -> None:
        while True:
            await anyio.sleep(FLUSH_S)
            await self.flush()

    def _lost(self) -> None:
        self._listening = False

    async def flush(self) -> None:
        """Store when tokens were used last, if that can be done."""
        used, self._used = self._used, {}
        try:
            await self._store.note_used(used)
            used = {}
        except AgentDBError as error:
            log.warning("last use of tokens not stored yet", code=error.code)
        finally:
            self._used = used | self._used


def _identity(row: TokenRow) -> TokenIdentity:
    return TokenIdentity(row.id, Tenant(row.user_id, row.workspace_id), frozenset(row.scopes), row.expires_at)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _is_text(value: str) -> bool:
    """Whether the control database could have it."""
    return "\0" not in value and not any("\ud800" <= sign <= "\udfff" for sign in value)
