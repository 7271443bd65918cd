"""What a provider does for us. Names are the idempotency key: one live project for each."""

from __future__ import annotations

from typing import Protocol

from agentdb_mcp.models import Project, ProjectAccess, Scope


class Provider(Protocol):
    """Makes, finds and removes projects. Raises ProvisioningFailed with a sentence for its reader."""

    async def find(self, name: str) -> list[Project]:
        """Live projects with exactly this name, the oldest first."""
        ...

    async def create(self, name: str) -> Project:
        """Make a project and wait until it can be connected to.

        Not repeated after an unknown outcome: the caller finds by name first.
        """
        ...

    async def access(self, project: Project) -> ProjectAccess:
        """The admin's way in."""
        ...

    async def delete(self, project_id: str) -> None:
        """Remove the project; one that is gone already is a success."""
        ...

    async def check(self) -> None:
        """Whether the keys are accepted; for `doctor`."""
        ...


def project_name(scope: Scope, owner_id: str) -> str:
    """`agent-<workspace_id>` or `global-<user_id>`."""
    return f"{scope}-{owner_id}"
