"""Who looks: sessions of people, by a cookie that opens under the server's key alone.

A session is a token of its own, with the scope `explorer` and an end; the cookie holds it, and the token that it was
begun with, sealed. It ends by signing out, by the revocation of either token (in every process at once), when nothing
was done for a while, and in any case after half a day.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from agentdb_mcp.credentials.cipher import Cipher, DecryptionError
from agentdb_mcp.errors import NotAllowed, NotAuthenticated
from agentdb_mcp.models import Secret, Tenant, TokenScope
from agentdb_mcp.services import IssuedToken, TokenIdentity, Tokens
from agentdb_mcp.services.throttle import Throttle

COOKIE = "agentdb_explorer"
IDLE_S = 30 * 60
LONGEST_S = 12 * 3600
LINK_S = 120
LINK_NAME = "one-time link to the explorer"
# Sessions whose history is remembered; the cookie alone is enough for the rest.
MAX_KNOWN = 10_000
HISTORY = 50


@dataclass(frozen=True, slots=True)
class Ran:
    """A statement of this session's history."""

    at: datetime
    place: str
    sql: str
    outcome: str
    failed: bool


@dataclass(slots=True)
class Session:
    """`seen` and `began` are seconds since the epoch; the texts of tokens are never shown."""

    identity: TokenIdentity
    token: Secret
    parent: Secret | None
    began: float
    seen: float
    throttle: Throttle
    history: deque[Ran] = field(default_factory=lambda: deque(maxlen=HISTORY))
    ended: bool = False

    @property
    def id(self) -> str:
        return self.identity.token_id

    @property
    def tenant(self) -> Tenant:
        return self.identity.tenant

    @property
    def user_id(self) -> str:
        return self.identity.tenant.user_id or ""


class Sessions:
    """Opens, recognizes and ends sessions."""

    def __init__(self, tokens: Tokens, keys: Sequence[Secret], *, now: Callable[[], float] = time.time) -> None:
        self._tokens = tokens
        self._cipher = Cipher(list(keys) or [Secret(secrets.token_hex(32))])
        self._now = now
        self._known: OrderedDict[str, Session] = OrderedDict()

    async def link(self, user_id: str, workspace_id: str | None, *, seconds: int = LINK_S) -> IssuedToken:
        """What signs in once, within two minutes unless told. Raises NotFound."""
        return await self._tokens.issue(user_id, workspace_id, [TokenScope.EXPLORER], seconds, LINK_NAME)

    async def enter(self, link: str, *, source: str) -> Session:
        """Begin a session by a link, which ends it. Raises NotAuthenticated, RateLimited."""
        identity = await self._tokens.redeem(link, LINK_NAME, source=source)
        return await self._begin(identity, None)

    async def sign_in(self, presented: str, *, source: str) -> Session:
        """Begin a session by a token. Raises NotAuthenticated, NotAllowed for another scope, RateLimited."""
        identity = await self._tokens.authenticate(presented, source=source)
        if TokenScope.EXPLORER not in identity.scopes:
            raise NotAllowed("The token is not for the explorer.", hint="It takes a token with the scope explorer.")
        return await self._begin(identity, Secret(presented))

    async def sign_out(self, session: Session) -> None:
        """End it, in every process."""
        self._forget(session)
        await self._tokens.revoke(session.id)

    async def of(self, cookie: str | None) -> Session | None:
        """The session of a cookie, if it lasts."""
        session = self._opened(cookie)
        if session is None:
            return None
        try:
            await self.check(session)
        except NotAuthenticated:
            return None
        return session

    async def check(self, session: Session) -> None:
        """Raises NotAuthenticated once the session has ended, DatabaseUnavailable."""
        now = self._now()
        if session.ended or now - session.seen > IDLE_S or now - session.began > LONGEST_S:
            self._forget(session)
            raise NotAuthenticated("The session has ended.", hint="Sign in again.")
        try:
            await self._tokens.authenticate(session.token.reveal(), source=session.id)
            if session.parent is not None:
                await self._tokens.authenticate(session.parent.reveal(), source=session.id)
        except NotAuthenticated:
            self._forget(session)
            raise

    def touch(self, session: Session) -> None:
        """The person did something."""
        session.seen = self._now()

    def cookie(self, session: Session) -> str:
        """The session sealed, as it is now."""
        parent = session.parent.reveal() if session.parent is not None else None
        fields = [session.token.reveal(), parent, session.began, session.seen, _fields(session.identity)]
        return self._cipher.encrypt(Secret(json.dumps(fields))).replace(":", ".")

    async def _begin(self, identity: TokenIdentity, parent: Secret | None) -> Session:
        tenant = identity.tenant
        issued = await self._tokens.issue(
            tenant.user_id or "", tenant.workspace_id, [TokenScope.EXPLORER], LONGEST_S, "session of the explorer"
        )
        now = self._now()
        own = TokenIdentity(issued.id, tenant, frozenset(issued.scopes), issued.expires_at)
        return self._remember(Session(own, issued.token, parent, now, now, _throttle()))

    def _opened(self, cookie: str | None) -> Session | None:
        try:
            fields = json.loads(self._cipher.decrypt((cookie or "").replace(".", ":")).reveal())
            token, parent, began, seen, identity = fields
            session = Session(
                _identity(identity), Secret(token), Secret(parent) if parent else None, began, seen, _throttle()
            )
        except (DecryptionError, ValueError, TypeError, KeyError):
            return None
        known = self._known.get(session.id)
        if known is None:
            return self._remember(session)
        known.seen = max(known.seen, session.seen)
        return known

    def _remember(self, session: Session) -> Session:
        self._known[session.id] = session
        self._known.move_to_end(session.id)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return session

    def _forget(self, session: Session) -> None:
        session.ended = True
        self._known.pop(session.id, None)


def _throttle() -> Throttle:
    """A person's pace: pages read several things at once."""
    return Throttle(calls_per_window=120, window_s=10, concurrent_calls=8)


def _fields(identity: TokenIdentity) -> dict[str, str | None]:
    return {"id": identity.token_id, "user": identity.tenant.user_id, "workspace": identity.tenant.workspace_id}


def _identity(fields: dict[str, str | None]) -> TokenIdentity:
    tenant = Tenant(fields["user"], fields["workspace"])
    return TokenIdentity(str(fields["id"]), tenant, frozenset({TokenScope.EXPLORER}), None)


def utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
