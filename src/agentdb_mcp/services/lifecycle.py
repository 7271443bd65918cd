"""Users and workspaces come and go, and their databases with them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import DatabaseStatus, Scope
from agentdb_mcp.providers import project_name
from agentdb_mcp.services.owners import Owners
from agentdb_mcp.services.provisioning import Provisioning
from agentdb_mcp.services.usage import check_tier
from agentdb_mcp.services.variables import Variables
from agentdb_mcp.store import BudgetStore, DatabaseRow, DatabaseStore, IdentityStore, OwnerUnknown, TokenStore

log = get_logger(__name__)

ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """Idempotent: creating what exists returns it, deleting what is gone is done already."""

    identity: IdentityStore
    databases: DatabaseStore
    budgets: BudgetStore
    tokens: TokenStore
    provisioning: Provisioning
    variables: Variables
    owners: Owners
    tiers: Collection[str]

    async def create_user(self, user_id: str, tier: str = "free") -> DatabaseRow:
        """Register the user with a global database, all or nothing."""
        check_tier(tier, self.tiers)
        made = await self.identity.ensure_user(user_id)
        wrote = False
        try:
            await self.budgets.ensure(user_id, tier)
            wrote = await self.variables.write(Scope.GLOBAL, user_id, user_id)
            return await self._create(Scope.GLOBAL, user_id, user_id)
        except AgentDBError:
            if wrote:
                await self._unwrite(Scope.GLOBAL, user_id)
            if made:
                await self._undo(Scope.GLOBAL, user_id)
                await self.identity.remove_user(user_id)
            raise

    async def create_workspace(self, workspace_id: str, user_id: str, name: str) -> DatabaseRow:
        """Create the workspace with its database, all or nothing."""
        for _ in range(ATTEMPTS):
            try:
                return await self._create_workspace(workspace_id, user_id, name)
            except OwnerUnknown as error:  # deleted at the same moment: begin anew
                last = error
        raise last

    async def _create_workspace(self, workspace_id: str, user_id: str, name: str) -> DatabaseRow:
        await self.identity.require_user(user_id)
        made = await self.identity.ensure_workspace(workspace_id, name, user_id)
        wrote = False
        try:
            await self.budgets.ensure(user_id)
            wrote = await self.variables.write(Scope.AGENT, workspace_id, user_id)
            return await self._create(Scope.AGENT, workspace_id, user_id)
        except AgentDBError:
            if wrote:
                await self._unwrite(Scope.AGENT, workspace_id)
            if made:
                await self._undo(Scope.AGENT, workspace_id)
                await self.identity.remove_workspace(workspace_id)
            raise

    async def database(self, scope: Scope, owner_id: str) -> DatabaseRow | None:
        """The row of a user's global or a workspace's database; None if it was never declared."""
        return await self.databases.find(scope, project_name(scope, owner_id))

    async def begin_to_delete_workspace(self, workspace_id: str) -> DatabaseRow | None:
        """End the workspace's tokens and its database's use at once; None if nothing is left to remove."""
        await self.tokens.delete_of(workspace_id=workspace_id)
        return await self._begin_to_delete(await self.database(Scope.AGENT, workspace_id))

    async def begin_to_delete_user(self, user_id: str) -> bool:
        """End the user's tokens and mark what `delete_user` removes; whether anything is left to remove."""
        await self.tokens.delete_of(user_id=user_id)
        rows = [row for row in await self._theirs(user_id) if not await self._goes_on(row, user_id)]
        for row in rows:
            await self._begin_to_delete(row)
        return bool(rows) or (await self.identity.has_user(user_id) and not await self.identity.is_platforms())

    async def _begin_to_delete(self, row: DatabaseRow | None) -> DatabaseRow | None:
        if row is None or row.status is DatabaseStatus.DELETED:
            return None
        await self.databases.tombstone(row)
        return replace(row, status=DatabaseStatus.DELETING)

    async def delete_workspace(self, workspace_id: str) -> None:
        """Remove the tokens that are bound to the workspace and its database, then the workspace."""
        await self.tokens.delete_of(workspace_id=workspace_id)
        row = await self.databases.find(Scope.AGENT, project_name(Scope.AGENT, workspace_id))
        if row is not None:
            await self.provisioning.remove(row)
        await self.identity.remove_workspace(workspace_id)

    async def delete_user(self, user_id: str) -> None:
        """Remove the user's tokens and databases, agents' first, then the workspaces and the user.

        The database of a workspace that goes on, with this owner or with another one, goes on with it.
        """
        await self.tokens.delete_of(user_id=user_id)
        for row in await self._theirs(user_id):
            if await self._goes_on(row, user_id):
                continue
            await self.provisioning.remove(row)
            if row.scope is Scope.AGENT and row.owner_id is not None:
                await self.identity.remove_workspace(row.owner_id)
        await self.identity.remove_user(user_id)

    async def _theirs(self, user_id: str) -> list[DatabaseRow]:
        """The user's databases that are not deleted, agents' first.

        Where the platform deleted the user already, the row of the global one does not name the user any more.
        """
        last = await self.databases.find(Scope.GLOBAL, project_name(Scope.GLOBAL, user_id))
        agents = [row for row in reversed(await self.databases.of_user(user_id)) if row.scope is Scope.AGENT]
        return [row for row in [*agents, *([last] if last else [])] if row.status is not DatabaseStatus.DELETED]

    async def _goes_on(self, row: DatabaseRow, user_id: str) -> bool:
        """Whether its workspace was handed over, or still is there on a platform that may hand it over."""
        if row.scope is Scope.GLOBAL or row.owner_id is None or row.status is DatabaseStatus.DELETING:
            return False
        workspace = await self.identity.workspace(row.owner_id)
        if workspace is None or workspace.archived:
            return False
        if workspace.owner_id != user_id:
            await self.owners.hand_over(row, workspace.owner_id)
            return True
        return await self.identity.is_platforms()

    async def _create(self, scope: Scope, owner_id: str, user_id: str) -> DatabaseRow:
        name = project_name(scope, owner_id)
        known = await self.databases.find(scope, name)
        if known is not None and known.status is DatabaseStatus.DELETING:
            await self.provisioning.remove(known)  # what was begun is finished first
        await self.databases.declare(scope, owner_id, user_id=user_id, project_name=name, revive=True)
        return await self.provisioning.ensure(scope, owner_id)

    async def _unwrite(self, scope: Scope, owner_id: str) -> None:
        try:
            await self.variables.remove(scope, owner_id)
        except AgentDBError as error:  # it is a reference to what will be made on first use
            log.debug("undo left a variable", scope=str(scope), code=error.code)

    async def _undo(self, scope: Scope, owner_id: str) -> None:
        row = await self.databases.find(scope, project_name(scope, owner_id))
        if row is None:
            return
        try:
            await self.provisioning.remove(row)
        except AgentDBError as error:  # the tombstone is written: reconcile removes what is left
            log.debug("undo left a tombstone", project=row.project_name, code=error.code)
