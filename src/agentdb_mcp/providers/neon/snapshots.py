"""Checkpoints as Neon's snapshots: cheaper than branches, and none of them keeps a branch from being deleted.

A restore makes a branch of the snapshot, which then takes over the default branch's name and compute, and with it the
connection string; the branch that it replaced is deleted. Our branches have names that `tidy` knows.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.models import Checkpoint, Project
from agentdb_mcp.providers.neon.answers import project, understood
from agentdb_mcp.providers.neon.organization import Organization

RESTORED, REPLACED = "agentdb-restored-", "agentdb-replaced-"


async def create(organization: Organization, project_id: str, name: str, expires_at: datetime) -> Checkpoint:
    branch_id = await organization.default_branch(project_id)
    query = {"name": name, "expires_at": expires_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    path = f"/projects/{project_id}/branches/{branch_id}/snapshot"
    answer = await organization.api.call("POST", path, params=query)
    with understood():
        made, operations = _checkpoint(answer["snapshot"]), [*answer.get("operations", [])]
    await organization.api.finish(project_id, operations)
    # How large it is, Neon may know only later.
    return next((each for each in await listed(organization, project_id) if each.id == made.id), made)


async def listed(organization: Organization, project_id: str) -> list[Checkpoint]:
    answer = await organization.api.call_or_none("GET", f"/projects/{project_id}/snapshots")
    if answer is None:
        return []
    with understood():
        found = [_checkpoint(item) for item in answer["snapshots"] if item.get("manual", True)]
    return sorted(found, key=lambda each: each.created_at)  # to the second: within one, as Neon lists them


async def restore(organization: Organization, project_id: str, snapshot_id: str) -> Project:
    api = organization.api
    item = await organization.item(project_id)
    if item is None:
        raise ProvisioningFailed("Neon does not know this project.", hint="It may be deleted: make it anew.")
    replaced = await organization.default_branch(project_id)
    mark = secrets.token_hex(4)
    wanted = {"name": f"{RESTORED}{mark}", "target_branch_id": replaced, "finalize_restore": False}
    answer = await api.do(project_id, "POST", f"/projects/{project_id}/snapshots/{snapshot_id}/restore", wanted)
    with understood():
        branch_id = str(answer["branch"]["id"])
    path = f"/projects/{project_id}/branches/{branch_id}/finalize_restore"
    await api.do(project_id, "POST", path, {"name": f"{REPLACED}{mark}"})
    await _delete_branch(organization, project_id, replaced)
    with understood():
        return project(item, organization.kind, {"id": branch_id})


async def delete(organization: Organization, project_id: str, snapshot_id: str) -> None:
    answer = await organization.api.call_or_none("DELETE", f"/projects/{project_id}/snapshots/{snapshot_id}")
    await _finish(organization, project_id, answer)


async def tidy(organization: Organization, project_id: str) -> None:
    """Delete our branches but the default one, which a restore may have been about to rename."""
    answer = await organization.api.call_or_none("GET", f"/projects/{project_id}/branches")
    if answer is None:
        return
    with understood():
        left = [
            str(item["id"])
            for item in answer["branches"]
            if str(item["name"]).startswith((RESTORED, REPLACED)) and not item.get("default", item.get("primary"))
        ]
    for branch_id in left:
        await _delete_branch(organization, project_id, branch_id)


async def _delete_branch(organization: Organization, project_id: str, branch_id: str) -> None:
    answer = await organization.api.call_or_none("DELETE", f"/projects/{project_id}/branches/{branch_id}")
    await _finish(organization, project_id, answer)


async def _finish(organization: Organization, project_id: str, answer: dict[str, Any] | None) -> None:
    """Wait for the operations of an answer; None is of what was gone already."""
    if answer is not None:
        with understood():
            operations = [*answer.get("operations", [])]
        await organization.api.finish(project_id, operations)


def _checkpoint(item: dict[str, Any]) -> Checkpoint:
    """Neon says no size before it has measured."""
    expires = item.get("expires_at")
    return Checkpoint(
        id=str(item["id"]),
        name=str(item["name"]),
        created_at=datetime.fromisoformat(item["created_at"]),
        size_bytes=int(item.get("full_size") or item.get("diff_size") or 0),
        expires_at=datetime.fromisoformat(expires) if expires else None,
    )
