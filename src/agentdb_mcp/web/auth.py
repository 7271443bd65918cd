"""Who calls: the platform's backend by its service key, or the holder of a token. Never by an argument."""

import hashlib
import hmac
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from fastapi import Request
from starlette.requests import HTTPConnection

from agentdb_mcp.errors import NotAllowed, NotAuthenticated, NotFound
from agentdb_mcp.models import Secret, Tenant, TokenScope
from agentdb_mcp.services import TokenIdentity, Tokens

_UNKNOWN = "There is no valid credential with this request."
_HINT = "Send `Authorization: Bearer …` with a token that is neither expired nor revoked."
_CALLER = "agentdb_mcp.caller"


@dataclass(frozen=True, slots=True)
class Caller:
    """The platform (`token` is None), or whoever holds the token."""

    token: TokenIdentity | None

    def user(self, user_id: str) -> None:
        """Raises NotFound where a token is another user's: that there is such a user is nobody's business."""
        if self.token is not None and self.token.tenant.user_id != user_id:
            raise no_such_user(user_id)

    def tenant(self, workspace_id: str) -> Tenant:
        """The tenant of a workspace's route. Raises NotFound where the token is bound to another workspace."""
        bound = self.token.tenant if self.token is not None else Tenant()
        if bound.workspace_id not in (None, workspace_id):
            raise no_such_workspace(workspace_id)
        return Tenant(bound.user_id, workspace_id)


def no_such_user(user_id: str) -> NotFound:
    return NotFound(f"There is no user {user_id[:80]}, or none of this caller's.")


def no_such_workspace(workspace_id: str) -> NotFound:
    return NotFound(f"There is no workspace {workspace_id[:80]}, or none of this caller's.")


@dataclass(frozen=True, slots=True)
class Authenticator:
    tokens: Tokens
    service_key: Secret | None

    async def caller(self, connection: HTTPConnection) -> Caller:
        """Raises NotAuthenticated, or RateLimited after too many failures from one address."""
        internal = connection.headers.getlist("x-internal-api-key")
        authorization = [each.partition(" ") for each in connection.headers.getlist("authorization")]
        bearer = [credential.strip() for scheme, _, credential in authorization if scheme.lower() == "bearer"]
        given = {*internal, *bearer}
        presented = given.pop() if len(given) == 1 else ""  # of several a proxy may have looked at another one
        if not presented:
            raise NotAuthenticated(_UNKNOWN, hint=_HINT)
        if self._is_service(presented):
            return Caller(None)
        identity = await self.tokens.authenticate(presented, source=_source(connection))
        if internal:
            raise NotAuthenticated(_UNKNOWN, hint="x-internal-api-key takes the service key alone.")
        return Caller(identity)

    async def token(self, connection: HTTPConnection, *scopes: TokenScope) -> TokenIdentity:
        """The caller's token with one of the scopes. Raises NotAuthenticated, NotAllowed."""
        caller = await self.caller(connection)
        return _with_scope(caller, scopes)

    def _is_service(self, presented: str) -> bool:
        key = self.service_key
        return key is not None and hmac.compare_digest(_digest(presented), _digest(key.reveal()))


def _digest(text: str) -> bytes:
    """Of one length for any text: how long a comparison takes says nothing of the key."""
    return hashlib.sha256(text.encode()).digest()


def _source(connection: HTTPConnection) -> str:
    """The client's address; of IPv6 the network, since whoever has one address there has all of its /64."""
    host = connection.client.host if connection.client else ""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return str(int(address) >> 64) if isinstance(address, IPv6Address) else host


def _with_scope(caller: Caller, scopes: tuple[TokenScope, ...]) -> TokenIdentity:
    if caller.token is None:
        raise NotAllowed("This is for a user's token, not for the service key.", hint="POST /api/tokens makes one.")
    if not caller.token.scopes.intersection(scopes):
        wanted = " or ".join(scopes)
        raise NotAllowed("The token may not do this.", hint=f"It takes a token with the scope {wanted}.")
    return caller.token


@dataclass(frozen=True, slots=True)
class Allowed:
    """Who may call a route: the platform's backend by the service key, a token with one of the scopes, or both.

    FastAPI's dependency, whose value is the Caller; asked once a request.
    """

    service: bool = False
    scopes: tuple[TokenScope, ...] = ()

    async def __call__(self, request: Request) -> Caller:
        if _CALLER not in request.scope:
            request.scope[_CALLER] = self._checked(await authenticator(request).caller(request))
        found: Caller = request.scope[_CALLER]
        return found

    def _checked(self, caller: Caller) -> Caller:
        if caller.token is None and self.service:
            return caller
        if not self.scopes:
            raise NotAllowed("This is for the platform's backend.", hint="It takes the service key.")
        _with_scope(caller, self.scopes)
        return caller


def service() -> Allowed:
    """The platform's backend alone."""
    return Allowed(service=True)


def token(*scopes: TokenScope) -> Allowed:
    """The holder of a token with one of the scopes; not the service key."""
    return Allowed(scopes=scopes)


def service_or_token(*scopes: TokenScope) -> Allowed:
    """The platform's backend, or the holder of a token with one of the scopes."""
    return Allowed(service=True, scopes=scopes)


def authenticator(request: Request) -> Authenticator:
    found: Authenticator = request.app.state.serving.authenticator
    return found
