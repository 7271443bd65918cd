"""What a provider does for us. Names are the idempotency key: one live project for each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from agentdb_mcp.models import Checkpoint, Consumption, Project, ProjectAccess, ProjectSettings, Scope


class Provider(Protocol):
    """Makes, finds, changes and removes projects. Raises ProvisioningFailed with a sentence for its reader."""

    @property
    def copies_whole(self) -> bool:
        """Whether a checkpoint is a copy of the whole database, which ends its sessions and takes time by its size."""
        ...

    async def find(self, name: str) -> list[Project]:
        """Live projects with exactly this name, the oldest first."""
        ...

    async def projects(self, prefix: str) -> list[Project]:
        """All live projects whose names begin so, in every account, the oldest first."""
        ...

    async def create(self, name: str, settings: ProjectSettings | None = None) -> Project:
        """Make a project and wait until it can be connected to.

        Not repeated after an unknown outcome: the caller finds by name first.
        """
        ...

    async def get(self, project_id: str) -> Project | None:
        """The live project, or None."""
        ...

    async def configure(self, project_id: str, settings: ProjectSettings) -> None:
        """Change what the settings name. `paid` changes nothing here; `move` does."""
        ...

    async def pause(self, project_id: str) -> None:
        """End the project's connections and let nobody in until `resume`; safe to repeat."""
        ...

    async def resume(self, project_id: str) -> None:
        """Let in again what `pause` locked out; safe to repeat."""
        ...

    async def access(self, project: Project, pooled: bool = False) -> ProjectAccess:
        """The admin's way in: direct, or through the provider's pooler where it has one."""
        ...

    async def reset_password(self, project: Project) -> ProjectAccess:
        """Give the admin a new password, end its connections, and return the new way in."""
        ...

    async def delete(self, project_id: str) -> None:
        """Remove the project; one that is gone already is a success."""
        ...

    async def recover(self, project_id: str) -> Project:
        """Bring a deleted project back, where the provider keeps it for a while."""
        ...

    async def checkpoint(self, project_id: str, name: str, expires_at: datetime) -> Checkpoint:
        """Keep the project's data as it is now, where no login reaches it."""
        ...

    async def checkpoints(self, project_id: str) -> list[Checkpoint]:
        """What is kept, the oldest first."""
        ...

    async def restore(self, project_id: str, checkpoint_id: str) -> Project:
        """Put back what a checkpoint kept, under the same connection string; connections end.

        What was there is gone afterwards. The checkpoint stays.
        """
        ...

    async def drop_checkpoint(self, project_id: str, checkpoint_id: str) -> None:
        """Forget a checkpoint; one that is gone already is a success."""
        ...

    async def tidy(self, project_id: str) -> None:
        """Remove what checkpoints, restores and copies left that were interrupted. Not while one of them runs."""
        ...

    async def consumption(self, project_ids: Sequence[str], since: datetime, until: datetime) -> list[Consumption]:
        """What these projects used, span by span in the provider's own steps; deleted projects included."""
        ...

    async def move(self, project_id: str, paid: bool) -> None:
        """Put the project into the paid or the free account, where there are two."""
        ...

    async def check(self) -> None:
        """Whether the keys are accepted; for `doctor`."""
        ...


def project_name(scope: Scope, owner_id: str) -> str:
    """`agent-<workspace_id>` or `global-<user_id>`."""
    return f"{scope}-{owner_id}"
