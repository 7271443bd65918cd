"""Calls on snapshots."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request

from agentdb_mcp.neon_emulator import bodies, parameters, state
from agentdb_mcp.neon_emulator.answers import Answers
from agentdb_mcp.neon_emulator.bodies import Fields
from agentdb_mcp.neon_emulator.errors import bad_request, not_found
from agentdb_mcp.neon_emulator.lookups import Lookups
from agentdb_mcp.neon_emulator.projects import Projects
from agentdb_mcp.neon_emulator.snapshots import Snapshots
from agentdb_mcp.neon_emulator.state import Branch, Snapshot


class SnapshotHandlers(Lookups):
    """Answers are bodies; the status is the route's."""

    def __init__(self, projects: Projects, answers: Answers) -> None:
        super().__init__(projects, answers)
        self._snapshots = Snapshots(projects)

    async def list_snapshots(self, request: Request) -> Fields:
        found = await self._snapshots.of(await self._project(request))
        return {"snapshots": [self._answers.snapshot(snapshot) for snapshot in found]}

    async def create_snapshot(self, request: Request) -> Fields:
        """Points in time are refused: there is no history behind a branch here, only its head."""
        query = request.query_params
        for key in ("lsn", "timestamp"):
            if parameters.query_text(query, key) is not None:
                raise bad_request(f"`{key}` cannot be given here: only the head of a branch can be kept")
        expires_at = _moment(parameters.query_text(query, "expires_at"))
        if expires_at is not None and expires_at <= self._projects.clock.now():
            raise bad_request("`expires_at` must be in the future")
        project, branch = await self._project(request), await self._branch(request)
        plan = self._organization(request, project.org_id).plan
        snapshot, operations = await self._snapshots.create(
            project, branch, plan, parameters.query_text(query, "name"), expires_at
        )
        return {"snapshot": self._answers.snapshot(snapshot), "operations": self._answers.operations(operations)}

    async def delete_snapshot(self, request: Request) -> Fields:
        operations = await self._snapshots.delete(await self._snapshot(request))
        return {"operations": self._answers.operations(operations)}

    async def restore_snapshot(self, request: Request) -> Fields:
        wanted = bodies.snapshot_restore(await bodies.json_body(request, optional=True))
        snapshot = await self._snapshot(request)
        target = await self._target(request, wanted.target_branch_id)
        branch, operations = await self._snapshots.restore(snapshot, target, wanted.name, finalize=wanted.finalize)
        return {"branch": self._answers.branch(branch), "operations": self._answers.operations(operations)}

    async def finalize_restore(self, request: Request) -> Fields:
        name = bodies.finalize_name(await bodies.json_body(request, optional=True))
        operations = await self._snapshots.finalize(await self._branch(request), name)
        return {"operations": self._answers.operations(operations)}

    async def _snapshot(self, request: Request) -> Snapshot:
        for snapshot in await self._snapshots.of(await self._project(request)):
            if snapshot.id == request.path_params["snapshot_id"]:
                return snapshot
        raise not_found("snapshot")

    async def _target(self, request: Request, branch_id: str | None) -> Branch:
        """The branch named, or the default one: it is what snapshots are made of."""
        for branch in await state.of_project(self._pool, Branch, (await self._project(request)).id):
            if branch.id == branch_id or (branch_id is None and branch.parent_id is None):
                if branch.parent_id is not None:
                    raise bad_request("only the default branch can be restored to here")
                return branch
        raise not_found("target branch")


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise bad_request("`expires_at` must be a time as RFC 3339 writes it") from None
    return moment.replace(tzinfo=moment.tzinfo or UTC)
