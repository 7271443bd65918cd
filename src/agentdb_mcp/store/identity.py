"""`"user"` and `workspace`: the platform's own tables, or the minimal ones that we made on an empty database."""

from __future__ import annotations

from dataclasses import dataclass

from agentdb_mcp.errors import InvalidArgument, NotAllowed
from agentdb_mcp.store.control import ControlDatabase

# By way of JSON: platforms differ in whether a workspace has the column, and of which type. NULL: it is not archived.
ARCHIVED_AT = "(to_jsonb(o) ->> 'archived_at')::timestamptz"


@dataclass(frozen=True, slots=True)
class WorkspaceRow:
    id: str
    name: str
    owner_id: str
    archived: bool = False


class IdentityStore:
    """Who exists. Rows are written only where the tables are ours."""

    def __init__(self, control: ControlDatabase) -> None:
        self._control = control

    async def ensure_user(self, user_id: str) -> bool:
        """Make the user where the table is ours; whether it was made. Raises InvalidArgument if it must exist first."""
        async with self._control.connection() as connection:
            if await connection.fetchval('SELECT true FROM "user" WHERE id = $1', user_id):
                return False
            if not await connection.fetchval("SELECT obj_description('\"user\"'::regclass) = 'agentdb-mcp'"):
                raise no_such_user(user_id)
            done = await connection.execute('INSERT INTO "user" (id) VALUES ($1) ON CONFLICT DO NOTHING', user_id)
            return bool(done == "INSERT 0 1")

    async def has_user(self, user_id: str) -> bool:
        async with self._control.connection() as connection:
            return bool(await connection.fetchval('SELECT true FROM "user" WHERE id = $1', user_id))

    async def require_user(self, user_id: str) -> None:
        """Raises InvalidArgument if the user is not known."""
        if not await self.has_user(user_id):
            raise no_such_user(user_id)

    async def ensure_workspace(self, workspace_id: str, name: str, owner_id: str) -> bool:
        """Make the workspace where the table is ours; whether it was made. Another owner's is NotAllowed."""
        async with self._control.connection() as connection:
            row = await connection.fetchrow(
                f"SELECT owner_id, {ARCHIVED_AT} IS NOT NULL AS archived FROM workspace AS o WHERE id = $1",
                workspace_id,
            )
            owner = row["owner_id"] if row else None
            if owner is None:
                if not await connection.fetchval("SELECT obj_description('workspace'::regclass) = 'agentdb-mcp'"):
                    raise InvalidArgument(
                        f"There is no workspace {workspace_id}.",
                        hint="The platform creates workspaces; create it there first.",
                    )
                done = await connection.execute(
                    "INSERT INTO workspace (id, name, owner_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                    workspace_id,
                    name,
                    owner_id,
                )
                if done == "INSERT 0 1":
                    return True
                owner = await connection.fetchval("SELECT owner_id FROM workspace WHERE id = $1", workspace_id)
        if owner != owner_id:
            raise NotAllowed(f"Workspace {workspace_id} belongs to another user.")
        if row and row["archived"]:
            raise is_archived()
        return False

    async def workspace(self, workspace_id: str) -> WorkspaceRow | None:
        async with self._control.connection() as connection:
            row = await connection.fetchrow(
                f"SELECT id, name, owner_id, {ARCHIVED_AT} IS NOT NULL AS archived FROM workspace AS o WHERE id = $1",
                workspace_id,
            )
        return WorkspaceRow(row["id"], row["name"], row["owner_id"], row["archived"]) if row else None

    async def is_platforms(self) -> bool:
        """Whether the tables are the platform's, which makes and deletes their rows."""
        async with self._control.connection() as connection:
            return bool(
                await connection.fetchval("SELECT obj_description('\"user\"'::regclass) IS DISTINCT FROM 'agentdb-mcp'")
            )

    async def names_of_workspaces(self, user_id: str) -> dict[str, str]:
        async with self._control.connection() as connection:
            rows = await connection.fetch("SELECT id, name FROM workspace WHERE owner_id = $1", user_id)
        return {row["id"]: row["name"] for row in rows}

    async def remove_workspace(self, workspace_id: str) -> None:
        """Remove the row where the table is ours, unless a database was declared for it again meanwhile."""
        async with self._control.transaction() as connection:
            await connection.execute("SELECT FROM workspace WHERE id = $1 FOR UPDATE", workspace_id)
            await connection.execute(
                "DELETE FROM workspace AS w WHERE id = $1 AND obj_description('workspace'::regclass) = 'agentdb-mcp'"
                " AND NOT EXISTS (SELECT FROM workspace_database AS d WHERE d.workspace_id = w.id"
                "                 AND d.status NOT IN ('deleting', 'deleted'))",
                workspace_id,
            )

    async def remove_user(self, user_id: str) -> None:
        """Remove the row where the table is ours."""
        async with self._control.connection() as connection:
            await connection.execute(
                "DELETE FROM \"user\" WHERE id = $1 AND obj_description('\"user\"'::regclass) = 'agentdb-mcp'", user_id
            )


def is_archived() -> NotAllowed:
    return NotAllowed(
        "The workspace is archived.",
        hint="Its database is kept for a while: whoever runs the platform can restore the workspace.",
    )


def no_such_user(user_id: str) -> InvalidArgument:
    return InvalidArgument(
        f"There is no user {user_id}.", hint="Create it first, with `users create` or on the platform."
    )
