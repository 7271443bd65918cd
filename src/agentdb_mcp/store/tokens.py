"""`agentdb_token`: API tokens by their hash. What ends or changes one is told to every server that listens.

The table's own trigger tells it, so that it is told too when the platform deletes a user.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from agentdb_mcp.errors import NotFound
from agentdb_mcp.models import TokenScope
from agentdb_mcp.store.control import ControlDatabase

CHANNEL = "agentdb_token"


@dataclass(frozen=True, slots=True)
class TokenRow:
    """Everything that is known of a token; its text is not."""

    id: str
    user_id: str
    workspace_id: str | None
    scopes: tuple[TokenScope, ...]
    name: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    def ended(self, now: datetime) -> str | None:
        """`revoked` or `expired`; None while the token is valid."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else None


class TokenStore:
    """Reads and writes of the table. All raise DatabaseUnavailable."""

    def __init__(self, control: ControlDatabase) -> None:
        self._control = control

    async def insert(
        self,
        token_hash: bytes,
        user_id: str,
        workspace_id: str | None,
        scopes: Sequence[TokenScope],
        *,
        name: str | None,
        created_at: datetime,
        expires_at: datetime | None,
    ) -> TokenRow:
        """Raises NotFound if the user, or the workspace as one of this user's, does not exist."""
        nobody = NotFound(f"There is no user {user_id}.", hint="Create it first.")
        nowhere = NotFound(f"User {user_id} has no workspace {workspace_id}.", hint="Create it first.")
        async with self._control.connection() as connection:
            if not await connection.fetchval('SELECT true FROM "user" WHERE id = $1', user_id):
                raise nobody
            if workspace_id is not None and not await connection.fetchval(
                "SELECT true FROM workspace WHERE id = $1 AND owner_id = $2", workspace_id, user_id
            ):
                raise nowhere
            try:
                row = await connection.fetchrow(
                    "INSERT INTO agentdb_token"
                    " (token_hash, user_id, workspace_id, scopes, name, created_at, expires_at)"
                    " VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING *",
                    token_hash,
                    user_id,
                    workspace_id,
                    list(scopes),
                    name,
                    created_at,
                    expires_at,
                )
            except asyncpg.ForeignKeyViolationError as error:  # deleted at the same moment
                raise (nowhere if "workspace" in (error.constraint_name or "") else nobody) from None
        return _row(row)

    async def find_by_hash(self, token_hash: bytes) -> TokenRow | None:
        """The token, whether it is valid or not."""
        async with self._control.connection() as connection:
            row = await connection.fetchrow("SELECT * FROM agentdb_token WHERE token_hash = $1", token_hash)
        return _row(row) if row is not None and hmac.compare_digest(row["token_hash"], token_hash) else None

    async def of_user(self, user_id: str) -> list[TokenRow]:
        """The newest first."""
        async with self._control.connection() as connection:
            rows = await connection.fetch(
                "SELECT * FROM agentdb_token WHERE user_id = $1 ORDER BY created_at DESC, id", user_id
            )
        return [_row(row) for row in rows]

    async def revoke(self, token_id: str, now: datetime, *, user_id: str | None = None) -> bool:
        """Whether there is such a token, of this user where one is given."""
        async with self._control.connection() as connection:
            found = await connection.fetchval(
                "UPDATE agentdb_token SET revoked_at = coalesce(revoked_at, $2)"
                " WHERE id = $1 AND user_id = coalesce($3, user_id) RETURNING true",
                token_id,
                now,
                user_id,
            )
        return found is not None

    async def delete_of(self, *, user_id: str | None = None, workspace_id: str | None = None) -> None:
        """Delete all tokens of a user, or all that are bound to a workspace."""
        async with self._control.connection() as connection:
            await connection.execute(
                "DELETE FROM agentdb_token WHERE user_id = $1 OR workspace_id = $2", user_id, workspace_id
            )

    async def redeem(self, token_hash: bytes, name: str, now: datetime) -> TokenRow | None:
        """End a valid token of that name and return it; None if it is none, or somebody else was first."""
        async with self._control.connection() as connection:
            row = await connection.fetchrow(
                "UPDATE agentdb_token SET revoked_at = $3 WHERE token_hash = $1 AND name = $2"
                " AND revoked_at IS NULL AND expires_at > $3 RETURNING *",
                token_hash,
                name,
                now,
            )
        return _row(row) if row is not None else None

    async def note_used(self, used: Mapping[str, datetime]) -> None:
        """When tokens were used last, by id; an older time than the known one changes nothing."""
        if not used:
            return
        async with self._control.transaction() as connection:
            await connection.execute(
                "SELECT FROM agentdb_token WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE", list(used)
            )
            await connection.execute(
                "UPDATE agentdb_token AS t SET last_used_at = greatest(t.last_used_at, u.at)"
                " FROM unnest($1::text[], $2::timestamptz[]) AS u (id, at) WHERE t.id = u.id",
                list(used),
                list(used.values()),
            )

    async def prune(self, before: datetime) -> None:
        """Delete tokens that expired or were revoked earlier."""
        async with self._control.connection() as connection:
            await connection.execute("DELETE FROM agentdb_token WHERE least(expires_at, revoked_at) < $1", before)

    async def changes(self, on_lost: Callable[[], None]) -> AsyncGenerator[str | None]:
        """Tokens that ended or changed, by id, as it happens; None when it begins to listen and may have missed some.

        `on_lost` is called at once, as often as it ceases to listen.
        """
        async with aclosing(self._control.listen(CHANNEL, on_lost=on_lost)) as notices:
            async for notice in notices:
                yield None if notice is None else notice.payload


def _row(row: asyncpg.Record) -> TokenRow:
    return TokenRow(
        row["id"],
        row["user_id"],
        row["workspace_id"],
        tuple(TokenScope(scope) for scope in row["scopes"]),
        row["name"],
        row["created_at"],
        row["expires_at"],
        row["revoked_at"],
        row["last_used_at"],
    )
