"""Neon as a provider: one organization, or a free and a paid one.

With two, a project is looked for where it is at each call: another process may have moved it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.models import Checkpoint, Consumption, Project, ProjectAccess, ProjectSettings, Secret
from agentdb_mcp.providers.neon import answers, snapshots
from agentdb_mcp.providers.neon.api import NeonApi, neon_api
from agentdb_mcp.providers.neon.consumption import consumption
from agentdb_mcp.providers.neon.organization import Organization
from agentdb_mcp.settings import NeonOrganization


def _utc_now() -> datetime:
    return datetime.now(UTC)


class NeonProvider:
    """The first organization is where projects go that are not said to be paid for."""

    copies_whole = False

    def __init__(self, organizations: Sequence[Organization], clock: Callable[[], datetime] = _utc_now) -> None:
        self._organizations = tuple(organizations)
        self._clock = clock

    async def find(self, name: str) -> list[Project]:
        return [project for project in await self._list(name) if project.name == name]

    async def projects(self, prefix: str) -> list[Project]:
        return [project for project in await self._list(prefix) if project.name.startswith(prefix)]

    async def create(self, name: str, settings: ProjectSettings | None = None) -> Project:
        settings = settings or ProjectSettings()
        return await self._for(settings.paid).create(name, settings)

    async def get(self, project_id: str) -> Project | None:
        found = await self._found(project_id)
        if found is None:
            return None
        organization, item = found
        with answers.understood():
            return answers.project(item, organization.kind)

    async def configure(self, project_id: str, settings: ProjectSettings) -> None:
        await (await self._of(project_id)).configure(project_id, settings)

    async def pause(self, project_id: str) -> None:
        await (await self._of(project_id)).pause(project_id)

    async def resume(self, project_id: str) -> None:
        await (await self._of(project_id)).resume(project_id)

    async def access(self, project: Project, pooled: bool = False) -> ProjectAccess:
        return await (await self._of(project.id)).access(project.id, project.branch_id, pooled)

    async def reset_password(self, project: Project) -> ProjectAccess:
        return await (await self._of(project.id)).reset_password(project.id, project.branch_id)

    async def delete(self, project_id: str) -> None:
        await (await self._of(project_id)).delete(project_id)

    async def recover(self, project_id: str) -> Project:
        """Neon keeps a deleted project for seven days."""
        for organization in self._organizations:
            if (recovered := await organization.recover(project_id)) is not None:
                return recovered
        raise ProvisioningFailed(
            "Neon cannot recover this project.", hint="It keeps a deleted project for seven days: make a new one."
        )

    async def checkpoint(self, project_id: str, name: str, expires_at: datetime) -> Checkpoint:
        return await snapshots.create(await self._of(project_id), project_id, name, expires_at)

    async def checkpoints(self, project_id: str) -> list[Checkpoint]:
        return await snapshots.listed(await self._of(project_id), project_id)

    async def restore(self, project_id: str, checkpoint_id: str) -> Project:
        return await snapshots.restore(await self._of(project_id), project_id, checkpoint_id)

    async def drop_checkpoint(self, project_id: str, checkpoint_id: str) -> None:
        await snapshots.delete(await self._of(project_id), project_id, checkpoint_id)

    async def tidy(self, project_id: str) -> None:
        await snapshots.tidy(await self._of(project_id), project_id)

    async def consumption(self, project_ids: Sequence[str], since: datetime, until: datetime) -> list[Consumption]:
        """By the hour for a week back, by the day for two months before that, by the month before those."""
        return await consumption(self._organizations, project_ids, since, until, self._clock())

    async def move(self, project_id: str, paid: bool) -> None:
        """With one organization there is nowhere to go. Neon transfers with a key of both organizations only."""
        to, source = self._for(paid), await self._of(project_id)
        if to is source:
            return
        if source.org_id is None or to.org_id is None:
            raise ProvisioningFailed(
                "Projects move between organizations that are named.",
                hint="Whoever runs the platform: set NEON_ORG_ID.",
            )
        await source.transfer(project_id, to.org_id)

    async def check(self) -> None:
        for organization in self._organizations:
            await organization.api.call("GET", "/projects", params=organization.query | {"limit": 1})

    def _for(self, paid: bool | None) -> Organization:
        kinds = {organization.kind: organization for organization in self._organizations}
        first = self._organizations[0]
        return first if paid is None else kinds.get("paid" if paid else "free", first)

    async def _of(self, project_id: str) -> Organization:
        """Where the project is; one that nobody knows is asked for in the first, which says so."""
        if len(self._organizations) == 1:
            return self._organizations[0]
        found = await self._found(project_id)
        return found[0] if found else self._organizations[0]

    async def _found(self, project_id: str) -> tuple[Organization, dict[str, Any]] | None:
        for organization in self._organizations:
            if (item := await organization.item(project_id)) is not None:
                # One key may see several organizations.
                homes = [each for each in self._organizations if each.org_id and each.org_id == item.get("org_id")]
                return (homes or [organization])[0], item
        return None

    async def _list(self, text: str) -> list[Project]:
        found = [project for organization in self._organizations for project in await organization.search(text)]
        return sorted(found, key=lambda project: project.created_at or "")


@asynccontextmanager
async def neon_provider(
    *,
    base_url: str,
    organizations: Sequence[NeonOrganization],
    compute_cu: float,
    clock: Callable[[], datetime] = _utc_now,
) -> AsyncIterator[NeonProvider]:
    """The provider with an HTTP client for each key; they are closed at the end of the block.

    `clock` is what the reach of Neon's consumption history is counted by.
    """
    async with AsyncExitStack() as stack:
        apis: dict[Secret, NeonApi] = {}
        for each in organizations:
            if each.api_key not in apis:
                apis[each.api_key] = await stack.enter_async_context(neon_api(base_url, each.api_key))
        yield NeonProvider(
            [Organization(apis[each.api_key], each.kind, each.org_id, compute_cu) for each in organizations], clock
        )
