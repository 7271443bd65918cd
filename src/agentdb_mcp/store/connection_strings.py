"""The encrypted connection strings of both database tables, for who writes them anew under another key."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from agentdb_mcp.store.control import ControlDatabase
from agentdb_mcp.store.databases import DATABASE_TABLES


@dataclass(frozen=True, slots=True)
class StoredString:
    """One row's connection string as it is stored."""

    table: str
    row_id: str
    stored: str


class ConnectionStrings:
    """Batches in the order of ids; what changes meanwhile is left to whoever changed it."""

    def __init__(self, control: ControlDatabase) -> None:
        self._control = control

    async def batches(self, size: int) -> AsyncGenerator[list[StoredString]]:
        """All that there are, `size` at a time; no transaction stays open in between."""
        for table in DATABASE_TABLES:
            last = ""
            while batch := await self._after(table, last, size):
                yield batch
                last = batch[-1].row_id

    async def _after(self, table: str, last: str, size: int) -> list[StoredString]:
        async with self._control.connection() as connection:
            rows = await connection.fetch(
                f"SELECT id, neon_connection_uri FROM {table} WHERE neon_connection_uri IS NOT NULL AND id > $1"
                " ORDER BY id LIMIT $2",
                last,
                size,
            )
        return [StoredString(table, row["id"], row["neon_connection_uri"]) for row in rows]

    async def replace(self, changes: Sequence[tuple[StoredString, str]]) -> int:
        """Store the new texts, all or none; a row that holds another text by now keeps it. Returns how many changed."""
        changed = 0
        async with self._control.transaction() as connection:
            for old, new in changes:
                tag = await connection.execute(
                    f"UPDATE {old.table} SET neon_connection_uri = $3 WHERE id = $1 AND neon_connection_uri = $2",
                    old.row_id,
                    old.stored,
                    new,
                )
                changed += tag == "UPDATE 1"
        return changed
