"""Sim Studio's encrypted variables: JSON objects in `workspace_environment` and `environment`.

One key is ours. It changes as Sim itself changes one, under the lock that Sim takes; every other byte stays.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

from agentdb_mcp.errors import Internal
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.store.control import ControlDatabase
from agentdb_mcp.store.json_text import remove_member, set_member

VARIABLES = {Scope.AGENT: "AGENT_DB_URL", Scope.GLOBAL: "GLOBAL_DB_URL"}
LOCK_TIMEOUT = "5s"
BATCH = 500

_TABLES = {Scope.AGENT: ("workspace_environment", "workspace_id"), Scope.GLOBAL: ("environment", "user_id")}
_OWNER_TABLES = {Scope.AGENT: "workspace", Scope.GLOBAL: '"user"'}

# Who lives, with the payer, the variables, and the state of the database.
_OWNERS = {
    Scope.AGENT: (
        "SELECT o.id, o.owner_id AS user_id, e.variables::text, d.status FROM workspace AS o"
        " LEFT JOIN workspace_database AS d ON d.workspace_id = o.id"
        " LEFT JOIN workspace_environment AS e ON e.workspace_id = o.id"
        " WHERE to_jsonb(o) ->> 'archived_at' IS NULL"
    ),
    Scope.GLOBAL: (
        'SELECT o.id, o.id AS user_id, e.variables::text, d.status FROM "user" AS o'
        " LEFT JOIN user_global_database AS d ON d.user_id = o.id"
        " LEFT JOIN environment AS e ON e.user_id = o.id WHERE true"
    ),
}


@dataclass(frozen=True, slots=True)
class VariableOwner:
    """A user or a workspace, who pays, the variable as stored (None: there is none), and is there a database."""

    id: str
    user_id: str
    stored: str | None
    ready: bool


class SimVariables:
    def __init__(self, control: ControlDatabase) -> None:
        self._control = control

    async def installed(self) -> bool:
        """Whether this is Sim's database."""
        async with self._control.connection() as connection:
            found = "SELECT to_regclass('environment') IS NOT NULL AND to_regclass('workspace_environment') IS NOT NULL"
            return bool(await connection.fetchval(found))

    async def find(self, tenant: Tenant, scope: Scope) -> list[str]:
        """The variable's values as stored (encrypted), the workspace's first; none where Sim's tables are missing."""
        found = []
        owners = {Scope.AGENT: tenant.workspace_id, Scope.GLOBAL: tenant.user_id}
        async with self._control.connection() as connection:
            for table_of, (table, column) in _TABLES.items():
                owner = owners[table_of]
                if owner is None or await connection.fetchval("SELECT to_regclass($1)", table) is None:
                    continue
                text = await connection.fetchval(f"SELECT variables::text FROM {table} WHERE {column} = $1", owner)
                value = _value(text, scope)
                if value is not None and value.strip():
                    found.append(value)
        return found

    async def read(self, scope: Scope, owner_id: str) -> str | None:
        """The variable as its owner's row has it, encrypted."""
        table, column = _TABLES[scope]
        async with self._control.connection() as connection:
            text = await connection.fetchval(f"SELECT variables::text FROM {table} WHERE {column} = $1", owner_id)
        return _value(text, scope)

    async def replace(self, scope: Scope, owner_id: str, stored: str | None, new: str | None) -> bool:
        """Put `new` (None: nothing) in the place of `stored` (None: nothing); whether it was still that.

        Raises DatabaseUnavailable where somebody keeps the lock.
        """
        table, column = _TABLES[scope]
        async with self._control.transaction() as connection:
            await connection.execute("SELECT set_config('lock_timeout', $1, true)", LOCK_TIMEOUT)
            # Sim's own lock of a workspace's variables, and of a user's where it changes one of them.
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", owner_id)
            if new is not None:
                await connection.execute(
                    f"INSERT INTO {table} (id, {column}, variables) SELECT gen_random_uuid()::text, $1::text, '{{}}'"
                    f" WHERE EXISTS (SELECT FROM {_OWNER_TABLES[scope]} WHERE id = $1)"
                    f" ON CONFLICT ({column}) DO NOTHING",
                    owner_id,
                )
            text = await connection.fetchval(
                f"SELECT variables::text FROM {table} WHERE {column} = $1 FOR UPDATE", owner_id
            )
            if text is None or _value(text, scope) != stored:
                return text is None and stored == new
            name, text = VARIABLES[scope], "{}" if text.strip() == "null" else text
            try:
                changed = remove_member(text, name) if new is None else set_member(text, name, new)
            except ValueError:
                raise Internal(f"The variables in {table} are not a JSON object.") from None
            await connection.execute(
                f"UPDATE {table} SET variables = $2::json, updated_at = now() WHERE {column} = $1", owner_id, changed
            )
        return True

    async def owners(self, scope: Scope) -> AsyncIterator[VariableOwner]:
        """Who lives and has a ready database, or has the variable and not a database that was deleted."""
        after = ""
        while True:
            async with self._control.connection() as connection:
                rows = await connection.fetch(
                    f"{_OWNERS[scope]} AND o.id > $1 AND (d.status = 'ready'"
                    " OR d.status IS NULL AND strpos(e.variables::text, $2) > 0) ORDER BY o.id LIMIT $3",
                    after,
                    VARIABLES[scope],
                    BATCH,
                )
            for row in rows:
                ready = row["status"] is not None
                yield VariableOwner(row["id"], row["user_id"], _value(row["variables"], scope), ready)
            if len(rows) < BATCH:
                return
            after = rows[-1]["id"]

    async def sample(self) -> str | None:
        """Some value that Sim encrypted, if there is one."""
        async with self._control.connection() as connection:
            rows = await connection.fetch(
                "(SELECT variables::text FROM workspace_environment LIMIT 20)"
                " UNION ALL (SELECT variables::text FROM environment LIMIT 20)"
            )
        for row in rows:
            for value in _object(row["variables"]).values():
                if isinstance(value, str) and value:
                    return value
        return None


def _object(text: str | None) -> dict[str, object]:
    read = json.loads(text) if text else None
    return read if isinstance(read, dict) else {}


def _value(text: str | None, scope: Scope) -> str | None:
    value = _object(text).get(VARIABLES[scope])
    return value if isinstance(value, str) else None
