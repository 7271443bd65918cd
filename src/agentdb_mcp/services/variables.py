"""Sim's variables `AGENT_DB_URL` and `GLOBAL_DB_URL`: a reference or a token of ours, never a connection string.

What a user put there is not ours and stays. What is ours and does not fit its owner, like a token that came with a copy
of another workspace's variables, is replaced.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from agentdb_mcp.credentials.cipher import Cipher, DecryptionError, looks_encrypted
from agentdb_mcp.credentials.references import AGENT_REFERENCE, GLOBAL_REFERENCE, is_own_reference, is_own_token
from agentdb_mcp.errors import AgentDBError, DatabaseUnavailable
from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import Scope, Secret, Tenant, TokenScope
from agentdb_mcp.policy import SimRules
from agentdb_mcp.services.metering import Clock
from agentdb_mcp.services.tokens import Tokens
from agentdb_mcp.store import SimVariables, TokenRow, TokenStore
from agentdb_mcp.store.sim_variables import VARIABLES

log = get_logger(__name__)

REFERENCES = {Scope.AGENT: AGENT_REFERENCE, Scope.GLOBAL: GLOBAL_REFERENCE}
ATTEMPTS = 3


class _State(Enum):
    """What a variable holds."""

    NOTHING = "nothing"
    FITS = "fits"
    STALE = "stale"  # ours, and not what should be there
    THEIRS = "theirs"


@dataclass(frozen=True, slots=True)
class _Variable:
    """A variable as it is stored, what that is, and the token in it if it is one that we know."""

    stored: str | None
    state: _State
    token: TokenRow | None = None


@dataclass(frozen=True, slots=True)
class Variables:
    """Writes nothing where there are no tables of Sim's, or no `cipher` with Sim's key."""

    store: SimVariables
    cipher: Cipher | None
    rules: SimRules
    tokens: Tokens
    known: TokenStore
    clock: Clock

    async def find(self, tenant: Tenant, scope: Scope) -> list[str]:
        """What stands there for the tenant, as stored; the workspace's first."""
        return await self.store.find(tenant, scope)

    async def write(self, scope: Scope, owner_id: str, user_id: str) -> bool:
        """Put there what belongs there, unless it is there or the user has something else; whether that was done.

        `owner_id` is the workspace's (agent) or the user's (global), `user_id` who a token is for. Raises
        DatabaseUnavailable, NotFound.
        """
        if self.cipher is None or not await self.store.installed():
            return False
        for _ in range(ATTEMPTS):
            variable = await self._look(scope, owner_id, user_id)
            if variable.state in {_State.FITS, _State.THEIRS}:
                return False
            if await self._put(scope, owner_id, user_id, variable, self.cipher):
                log.info("variable written", variable=VARIABLES[scope], stale=variable.state is _State.STALE)
                return True
        raise _keeps_changing(scope)

    async def offer(self, scope: Scope, owner_id: str, user_id: str) -> None:
        """Write, if that can be done; the job does it later where it cannot."""
        try:
            await self.write(scope, owner_id, user_id)
        except AgentDBError as error:
            log.warning("variable not written", variable=VARIABLES[scope], code=error.code)

    async def remove(self, scope: Scope, owner_id: str) -> None:
        """Take away what is ours, and end its token. Raises DatabaseUnavailable."""
        if self.cipher is None or not await self.store.installed():
            return
        for _ in range(ATTEMPTS):
            variable = await self._look(scope, owner_id, None)
            if variable.state is not _State.STALE:
                return
            if await self.store.replace(scope, owner_id, variable.stored, None):
                await self._end(scope, owner_id, variable.token)
                return
        raise _keeps_changing(scope)

    async def follow(self) -> None:
        """Write what is missing and replace what does not fit, everywhere. Raises the first error, after all else."""
        if self.cipher is None or not await self.store.installed():
            return
        errors: list[AgentDBError] = []
        for scope in Scope:
            async for owner in self.store.owners(scope):
                try:
                    variable = await self._judge(scope, owner.id, owner.user_id, owner.stored)
                    if variable.state is _State.STALE or (variable.state is _State.NOTHING and owner.ready):
                        await self.write(scope, owner.id, owner.user_id)
                except AgentDBError as error:
                    log.warning("variable not written", variable=VARIABLES[scope], code=error.code)
                    errors.append(error)
        if errors:
            raise errors[0]

    async def _put(self, scope: Scope, owner_id: str, user_id: str, old: _Variable, cipher: Cipher) -> bool:
        """Whether the variable still was what it was; a token that was made in vain ends."""
        if self.rules.variables == "reference":
            value = Secret(REFERENCES[scope])
            done = await self.store.replace(scope, owner_id, old.stored, cipher.encrypt(value))
        else:
            workspace_id = owner_id if scope is Scope.AGENT else None
            lifetime_s = self.rules.token_days * 86_400
            issued = await self.tokens.issue(user_id, workspace_id, [TokenScope.MCP], lifetime_s, VARIABLES[scope])
            done = False
            try:
                done = await self.store.replace(scope, owner_id, old.stored, cipher.encrypt(issued.token))
            finally:
                if not done:
                    await self.tokens.revoke(issued.id)
        if done:
            await self._end(scope, owner_id, old.token)
        return done

    async def _end(self, scope: Scope, owner_id: str, token: TokenRow | None) -> None:
        """End a token that was this owner's; one that was copied from elsewhere is still in use there."""
        if token is not None and owner_id == (token.workspace_id if scope is Scope.AGENT else token.user_id):
            await self.tokens.revoke(token.id)

    async def _look(self, scope: Scope, owner_id: str, user_id: str | None) -> _Variable:
        return await self._judge(scope, owner_id, user_id, await self.store.read(scope, owner_id))

    async def _judge(self, scope: Scope, owner_id: str, user_id: str | None, stored: str | None) -> _Variable:
        """What the stored text is; without a user nothing fits."""
        if stored is None or not stored.strip():
            return _Variable(stored, _State.NOTHING)
        text = self._opened(stored)
        if text is not None and is_own_token(text):
            token = await self.known.find_by_hash(hashlib.sha256(text.strip().encode()).digest())
            fits = user_id is not None and self._fits(token, scope, owner_id, user_id)
            return _Variable(stored, _State.FITS if fits else _State.STALE, token)
        if text is None or not is_own_reference(text):
            return _Variable(stored, _State.THEIRS)
        wanted = self.rules.variables == "reference" and text.strip() == REFERENCES[scope]
        fits = user_id is not None and wanted and looks_encrypted(stored)
        return _Variable(stored, _State.FITS if fits else _State.STALE)

    def _fits(self, token: TokenRow | None, scope: Scope, owner_id: str, user_id: str) -> bool:
        """Whether the token is this owner's, and will be valid for a while."""
        if self.rules.variables != "token" or token is None or token.revoked_at is not None:
            return False
        bound_to = (user_id, owner_id if scope is Scope.AGENT else None)
        renew_at = self.clock() + timedelta(days=self.rules.token_days) / 2
        lasts = token.expires_at is None or token.expires_at > renew_at
        return (token.user_id, token.workspace_id) == bound_to and TokenScope.MCP in token.scopes and lasts

    def _opened(self, stored: str) -> str | None:
        """None for what Sim's key does not open: it is nothing that we wrote."""
        if not looks_encrypted(stored):
            return stored
        try:
            return self.cipher.decrypt(stored).reveal() if self.cipher is not None else None
        except DecryptionError:
            return None


def _keeps_changing(scope: Scope) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"{VARIABLES[scope]} is being changed by somebody else.", hint="Try again.", retryable=True
    )
