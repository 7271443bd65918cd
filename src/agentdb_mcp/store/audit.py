"""`db_audit_log` and `db_audit_chain`: what callers did, in one chain of hashes a user."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from agentdb_mcp.store.audit_chain import AuditDecision, AuditEntry, Chain, Verified, Walk
from agentdb_mcp.store.control import ControlDatabase

# Entries that are read, or deleted by one transaction, at once.
PAGE = 1000
_CONTENT = (
    "user_id", "at", "source", "decision", "principal", "tool", "workspace_id", "scope", "database_id", "kinds",
    "objects", "code", "sqlstate", "duration_ms", "rows", "statement_hash",
    "request_id",
)  # fmt: skip
_COLUMNS = (*_CONTENT, "sequence", "previous_hash", "hash")
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM db_audit_log"
# Whoever hangs with chains locked lets others go on.
_BOUNDS = "SET LOCAL lock_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '15s'"
# One order for all servers; rows that are there are locked.
_LOCK = """
    INSERT INTO db_audit_chain AS c (user_id) SELECT each FROM unnest($1::text[]) AS each ORDER BY each COLLATE "C"
    ON CONFLICT (user_id) DO UPDATE SET sequence = c.sequence RETURNING c.*
"""
_CUT = """
    WITH oldest AS (
        SELECT sequence, hash, at FROM db_audit_log WHERE user_id = $1 ORDER BY sequence LIMIT $3
    ), cut AS (
        SELECT sequence, hash FROM oldest
         WHERE sequence < coalesce((SELECT min(sequence) FROM oldest WHERE at >= $2), 9223372036854775807)
         ORDER BY sequence DESC LIMIT 1
    )
    UPDATE db_audit_chain AS c SET anchor_sequence = cut.sequence, anchor_hash = cut.hash, anchored_at = now()
      FROM cut WHERE c.user_id = $1 AND c.anchor_sequence < cut.sequence RETURNING c.anchor_sequence
"""


class AuditStore:
    """All raise DatabaseUnavailable."""

    def __init__(self, control: ControlDatabase) -> None:
        self._control = control

    async def append(self, batch: UUID, entries: Sequence[AuditEntry]) -> None:
        """Put the entries at the ends of their users' chains, all or nothing; a batch that is there stays as it is."""
        if not entries:
            return
        async with self._control.transaction() as connection:
            await connection.execute(_BOUNDS)
            chains = await self._locked(connection, sorted({entry.user_id for entry in entries}))
            if await _is_stored(connection, batch, entries[0]):
                return
            rows = []
            for entry in entries:
                chain = chains[entry.user_id]
                place = chain.sequence + 1, chain.hash
                digest = entry.hash_at(*place)
                chains[entry.user_id] = Chain(entry.user_id, place[0], digest)
                rows.append((*(getattr(entry, column) for column in _CONTENT), *place, digest, batch))
            await connection.copy_records_to_table("db_audit_log", records=rows, columns=(*_COLUMNS, "batch"))
            await connection.execute(
                "UPDATE db_audit_chain AS c SET sequence = n.sequence, hash = n.hash"
                " FROM unnest($1::text[], $2::bigint[], $3::bytea[]) AS n (user_id, sequence, hash)"
                " WHERE c.user_id = n.user_id",
                list(chains),
                [chain.sequence for chain in chains.values()],
                [chain.hash for chain in chains.values()],
            )

    async def entries(
        self,
        user_id: str,
        *,
        workspace_id: str | None = None,
        scope: str | None = None,
        decision: AuditDecision | None = None,
        before: int | None = None,
        limit: int = 100,
        without: tuple[str, str] | None = None,
    ) -> list[AuditEntry]:
        """A page of the user's entries, the newest first, with sequences below `before`; not of a (source, tool)."""
        async with self._control.connection() as connection:
            rows = await connection.fetch(
                f"{_SELECT} WHERE user_id = $1 AND sequence < coalesce($2::bigint, 9223372036854775807)"
                " AND ($3::text IS NULL OR workspace_id = $3) AND ($4::text IS NULL OR scope = $4)"
                " AND ($5::text IS NULL OR decision = $5)"
                " AND ($7::text IS NULL OR source <> $7 OR tool IS DISTINCT FROM $8) ORDER BY sequence DESC LIMIT $6",
                user_id,
                before,
                workspace_id,
                scope,
                decision,
                limit,
                *(without or (None, None)),
            )
        return [_entry(row) for row in rows]

    async def between(
        self, user_id: str, since: datetime | None = None, until: datetime | None = None
    ) -> AsyncIterator[AuditEntry]:
        """Of calls that began at `since` or later and before `until`, in the order of the chain, page by page."""
        last = 0
        while True:
            async with self._control.connection() as connection:
                rows = await connection.fetch(
                    f"{_SELECT} WHERE user_id = $1 AND sequence > $2 AND at >= coalesce($3, '-infinity'::timestamptz)"
                    " AND at < coalesce($4, 'infinity'::timestamptz) ORDER BY sequence LIMIT $5",
                    user_id,
                    last,
                    since,
                    until,
                    PAGE,
                )
            for row in rows:
                yield _entry(row)
            if len(rows) < PAGE:
                return
            last = rows[-1]["sequence"]

    async def count_writing(self, user_id: str, database_id: str, since: datetime) -> int:
        """Calls on the database since then that were let write, up to a page of them."""
        async with self._control.connection() as connection:
            count = await connection.fetchval(
                "SELECT count(*) FROM (SELECT FROM db_audit_log WHERE user_id = $1 AND at >= $2 AND database_id = $3"
                " AND decision = 'allowed' AND kinds && ARRAY['write', 'schema', 'reclaim', 'unknown']"
                " LIMIT $4) AS found",
                user_id,
                since,
                database_id,
                PAGE,
            )
        return int(count)

    async def users(self) -> list[str]:
        """Everybody who has a chain, or entries without one."""
        async with self._control.connection() as connection:
            rows = await connection.fetch(
                "SELECT user_id FROM db_audit_chain UNION SELECT user_id FROM db_audit_log ORDER BY 1"
            )
        return [row["user_id"] for row in rows]

    async def verify(self, user_id: str) -> Verified:
        """Walk the user's chain as it is at one moment, up to the first entry that is broken."""
        async with (
            self._control.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            row = await connection.fetchrow("SELECT * FROM db_audit_chain WHERE user_id = $1", user_id)
            chain = _chain(row) if row is not None else Chain(user_id)
            walk = Walk(chain)
            entries = connection.cursor(f"{_SELECT} WHERE user_id = $1 ORDER BY sequence", user_id, prefetch=PAGE)
            async for each in entries:
                if (broken := walk.step(_entry(each))) is not None:
                    return Verified(chain, walk.entries, broken)
        return Verified(chain, walk.entries, walk.end())

    async def prune(self, before: datetime) -> int:
        """Delete each chain's entries up to the first one that began at `before` or later; how many.

        What is kept begins at the anchor. Chains of users that are gone are forgotten once they are empty.
        """
        async with self._control.connection() as connection:
            rows = await connection.fetch(
                "SELECT user_id FROM db_audit_chain AS c WHERE anchor_sequence < sequence AND $1 >"
                " (SELECT at FROM db_audit_log AS l WHERE l.user_id = c.user_id ORDER BY l.sequence LIMIT 1)",
                before,
            )
        deleted = 0
        for row in rows:
            while count := await self._prune_some(row["user_id"], before):
                deleted += count
        async with self._control.connection() as connection:
            await connection.execute(
                "DELETE FROM db_audit_chain AS c WHERE anchor_sequence = sequence"
                ' AND NOT EXISTS (SELECT FROM "user" AS u WHERE u.id = c.user_id)'
            )
        return deleted

    async def _prune_some(self, user_id: str, before: datetime) -> int:
        async with self._control.transaction() as connection:
            await connection.execute(_BOUNDS)
            anchor = await connection.fetchval(_CUT, user_id, before, PAGE)
            if anchor is None:
                return 0
            tag = await connection.execute(
                "DELETE FROM db_audit_log WHERE user_id = $1 AND sequence <= $2", user_id, anchor
            )
        return int(tag.split()[-1])

    async def _locked(self, connection: asyncpg.Connection, users: Sequence[str]) -> dict[str, Chain]:
        """The chains, begun where there is none, that nobody else appends to until the transaction ends."""
        return {row["user_id"]: _chain(row) for row in await connection.fetch(_LOCK, list(users))}


async def _is_stored(connection: asyncpg.Connection, batch: UUID, first: AuditEntry) -> bool:
    """Whether an attempt whose answer was lost did store the batch."""
    found = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM db_audit_log WHERE user_id = $1 AND at = $2 AND batch = $3)",
        first.user_id,
        first.at,
        batch,
    )
    return bool(found)


def _chain(row: asyncpg.Record) -> Chain:
    return Chain(row["user_id"], row["sequence"], row["hash"], row["anchor_sequence"], row["anchor_hash"])


def _entry(row: asyncpg.Record) -> AuditEntry:
    fields = dict(row.items())
    fields |= {"kinds": tuple(fields["kinds"]), "objects": tuple(fields["objects"])}
    fields["decision"] = AuditDecision(fields["decision"])
    return AuditEntry(**fields)
