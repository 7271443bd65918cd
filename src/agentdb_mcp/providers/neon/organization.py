"""One organization's projects: one method a call of Neon's."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from typing import Any

from agentdb_mcp.models import Project, ProjectAccess, ProjectSettings, Quota, Secret
from agentdb_mcp.providers.neon.answers import project, understood
from agentdb_mcp.providers.neon.api import DONE, FAILED, PAGE, NeonApi

MIN_CU = 0.25
# What Neon does unasked.
SUSPEND_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Organization:
    """An account that projects are in: `kind` is default, free or paid."""

    api: NeonApi
    kind: str
    org_id: str | None
    compute_cu: float

    @property
    def query(self) -> dict[str, Any]:
        return {"org_id": self.org_id} if self.org_id else {}

    async def search(self, text: str) -> list[Project]:
        """Projects whose name or id has the text in it."""
        query = self.query | {"limit": PAGE} | ({"search": text} if text else {})
        found = []
        async for item in self.api.pages("/projects", "projects", query):
            with understood():
                found.append(project(item, self.kind))
        return found

    async def create(self, name: str, settings: ProjectSettings) -> Project:
        endpoint: dict[str, Any] = {
            "autoscaling_limit_min_cu": MIN_CU,
            "autoscaling_limit_max_cu": self.compute_cu,
        } | _endpoint(settings)
        wanted: dict[str, Any] = {
            "name": name,
            # Opaque: on a cluster that projects share, its catalogs list every database and role to everyone.
            "branch": {"database_name": f"d_{secrets.token_hex(8)}", "role_name": f"o_{secrets.token_hex(8)}"},
            "default_endpoint_settings": endpoint,
        } | self.query
        if quota := _quota(settings.quota):
            wanted["settings"] = {"quota": quota}
        answer = await self.api.call("POST", "/projects", json={"project": wanted})
        with understood():
            created = project(answer["project"], self.kind, answer.get("branch"))
            operations = [*answer.get("operations", [])]
        await self.api.finish(created.id, operations)
        return created

    async def item(self, project_id: str) -> dict[str, Any] | None:
        """The project as Neon describes it, or None."""
        answer = await self.api.call_or_none("GET", f"/projects/{project_id}")
        if answer is None:
            return None
        with understood():
            return dict(answer["project"])

    async def configure(self, project_id: str, settings: ProjectSettings) -> None:
        """The project's settings hold for endpoints to come; those that exist are told as well."""
        endpoint, quota = _endpoint(settings), _quota(settings.quota)
        change: dict[str, Any] = {"default_endpoint_settings": endpoint} if endpoint else {}
        if quota:
            change["settings"] = {"quota": quota}
        if not change:
            return
        await self.api.do(project_id, "PATCH", f"/projects/{project_id}", {"project": change})
        if endpoint:
            for item in await self._endpoints(project_id):
                path = f"/projects/{project_id}/endpoints/{item['id']}"
                await self.api.do(project_id, "PATCH", path, {"endpoint": endpoint})

    async def pause(self, project_id: str) -> None:
        """A quota of a second, which keeps computes from waking, and the end of those that run.

        0 would mean unlimited. Other caps are left alone, so `resume` need not know them.
        """
        await self.configure(project_id, ProjectSettings(quota=Quota(active_time_seconds=1)))
        for item in await self._endpoints(project_id):
            if item.get("current_state") != "idle":
                await self.api.do(project_id, "POST", f"/projects/{project_id}/endpoints/{item['id']}/suspend")

    async def resume(self, project_id: str) -> None:
        await self.configure(project_id, ProjectSettings(quota=Quota(active_time_seconds=0)))

    async def access(self, project_id: str, branch_id: str | None, pooled: bool) -> ProjectAccess:
        branch_id = branch_id or await self.default_branch(project_id)
        operations = await self.api.call("GET", f"/projects/{project_id}/operations")
        with understood():  # what failed once is history; what runs is waited for
            running = [item for item in operations["operations"] if item["status"] not in DONE | FAILED]
        await self.api.finish(project_id, running)
        name, owner = await self._database(project_id, branch_id)
        query = {"database_name": name, "role_name": owner, "pooled": "true" if pooled else "false"}
        answer = await self.api.call("GET", f"/projects/{project_id}/connection_uri", params=query)
        with understood():
            return ProjectAccess(Secret(str(answer["uri"])), name, owner)

    async def reset_password(self, project_id: str, branch_id: str | None) -> ProjectAccess:
        branch_id = branch_id or await self.default_branch(project_id)
        _, owner = await self._database(project_id, branch_id)
        path = f"/projects/{project_id}/branches/{branch_id}/roles/{owner}/reset_password"
        await self.api.do(project_id, "POST", path)
        return await self.access(project_id, branch_id, pooled=False)

    async def delete(self, project_id: str) -> None:
        await self.api.call_or_none("DELETE", f"/projects/{project_id}")

    async def recover(self, project_id: str) -> Project | None:
        """None where this organization does not know it."""
        answer = await self.api.call_or_none("POST", f"/projects/{project_id}/recover")
        if answer is None:
            return None
        with understood():
            recovered = project(answer["project"], self.kind)
            operations = [*answer.get("operations", [])]
        await self.api.finish(project_id, operations)
        return recovered

    async def transfer(self, project_id: str, to_org_id: str) -> None:
        path = f"/organizations/{self.org_id}/projects/transfer"
        await self.api.call("POST", path, json={"project_ids": [project_id], "destination_org_id": to_org_id})

    async def default_branch(self, project_id: str) -> str:
        answer = await self.api.call("GET", f"/projects/{project_id}/branches")
        with understood():
            defaults = [item["id"] for item in answer["branches"] if item.get("default", item.get("primary"))]
            return str(defaults[0])

    async def _database(self, project_id: str, branch_id: str) -> tuple[str, str]:
        """The database that was made with the project, and its owner."""
        listed = await self.api.call("GET", f"/projects/{project_id}/branches/{branch_id}/databases")
        with understood():
            first = listed["databases"][0]
            return str(first["name"]), str(first["owner_name"])

    async def _endpoints(self, project_id: str) -> list[dict[str, Any]]:
        answer = await self.api.call("GET", f"/projects/{project_id}/endpoints")
        with understood():
            return [{"id": item["id"], "current_state": item.get("current_state")} for item in answer["endpoints"]]


def _endpoint(settings: ProjectSettings) -> dict[str, Any]:
    """Only what is set: Neon's free plan refuses a suspend timeout, even the one that it keeps unasked."""
    timeout_s = settings.suspend_timeout_s
    told = settings.paid is not False and timeout_s != SUSPEND_TIMEOUT_S
    named = {
        "autoscaling_limit_min_cu": settings.min_cu,
        "autoscaling_limit_max_cu": settings.max_cu,
        "suspend_timeout_seconds": timeout_s if told else None,
    }
    return {name: value for name, value in named.items() if value is not None}


def _quota(quota: Quota) -> dict[str, int]:
    return {name: value for name, value in asdict(quota).items() if value is not None}
