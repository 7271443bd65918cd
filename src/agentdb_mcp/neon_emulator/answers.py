"""What callers get: Neon's JSON shapes, with every field that its schema requires."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from agentdb_mcp.neon_emulator.bodies import Fields
from agentdb_mcp.neon_emulator.projects import Created, Projects
from agentdb_mcp.neon_emulator.state import Branch, Database, Endpoint, Operation, Project, Role

PROVISIONER = "k8s-neonvm"
# Consumption is not measured here; the fields are required.
NO_USAGE = {
    "compute_time_seconds": 0,
    "active_time_seconds": 0,
    "cpu_used_sec": 0,
    "written_data_bytes": 0,
    "data_transfer_bytes": 0,
}


def timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _times(row: Project | Branch | Endpoint | Role | Database | Operation) -> Fields:
    return {"created_at": timestamp(row.created_at), "updated_at": timestamp(row.updated_at)}


class Answers:
    """Shapes that name the installation: its organization, its owner, its cluster."""

    def __init__(self, projects: Projects) -> None:
        self._installation = projects.installation
        self._cluster = projects.cluster
        self._location = projects.cluster.location

    def project_item(self, project: Project) -> Fields:
        """A project as lists show it, without usage."""
        return {
            "id": project.id,
            "platform_id": project.region_id.partition("-")[0],
            "region_id": project.region_id,
            "name": project.name,
            "provisioner": PROVISIONER,
            "default_endpoint_settings": project.endpoint_settings,
            "settings": project.settings,
            "pg_version": self._cluster.version,
            "proxy_host": self._location.host,
            "branch_logical_size_limit": 0,
            "branch_logical_size_limit_bytes": 0,
            "store_passwords": True,
            "active_time": 0,
            "cpu_used_sec": 0,
            "creation_source": "api",
            "history_retention_seconds": project.history_retention_seconds,
            "owner_id": self._installation.org_id,
            "org_id": self._installation.org_id,
            **_times(project),
        }

    def project(self, project: Project) -> Fields:
        """A project in full; its consumption period is the calendar month."""
        item = self.project_item(project)
        del item["active_time"]
        start = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        end = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
        period = {"consumption_period_start": timestamp(start), "consumption_period_end": timestamp(end)}
        return {**item, **NO_USAGE, "data_storage_bytes_hour": 0, **period}

    def created(self, created: Created) -> Fields:
        role, database, location = created.role, created.database, self._location
        connection = {
            "connection_uri": location.project_uri(database.name, role.name, role.password),
            "connection_parameters": {
                "database": database.name,
                "password": role.password,
                "role": role.name,
                "host": location.host,
                # There is no pooler here: what asks for one gets the server itself.
                "pooler_host": location.host,
                "port": location.port,
            },
        }
        return {
            "project": self.project(created.project),
            "connection_uris": [connection],
            "roles": [self.role_with_password(role)],
            "databases": [self.database(database)],
            "operations": self.operations(created.operations),
            "branch": self.branch(created.branch),
            "endpoints": [self.endpoint(created.endpoint, created.project)],
        }

    def endpoint(self, endpoint: Endpoint, project: Project) -> Fields:
        return {
            "host": self._location.endpoint_host(endpoint.id),
            "id": endpoint.id,
            "project_id": endpoint.project_id,
            "branch_id": endpoint.branch_id,
            "region_id": project.region_id,
            "type": "read_write",
            "current_state": endpoint.current_state,
            "settings": {"pg_settings": {}},
            "pooler_enabled": False,
            "pooler_mode": "transaction",
            "disabled": False,
            "passwordless_access": False,
            "creation_source": "api",
            "proxy_host": self._location.host,
            "provisioner": PROVISIONER,
            **endpoint.settings,
            **_times(endpoint),
        }

    @staticmethod
    def branch(branch: Branch) -> Fields:
        return {
            "id": branch.id,
            "project_id": branch.project_id,
            "name": branch.name,
            "current_state": "ready",
            "state_changed_at": timestamp(branch.updated_at),
            "creation_source": "api",
            "primary": True,
            "default": True,
            "protected": False,
            **NO_USAGE,
            **_times(branch),
        }

    @staticmethod
    def role(role: Role) -> Fields:
        return {"branch_id": role.branch_id, "name": role.name, "protected": False, **_times(role)}

    @classmethod
    def role_with_password(cls, role: Role) -> Fields:
        return {**cls.role(role), "password": role.password}

    @staticmethod
    def database(database: Database) -> Fields:
        return {
            "id": database.id,
            "branch_id": database.branch_id,
            "name": database.name,
            "owner_name": database.owner_name,
            **_times(database),
        }

    @staticmethod
    def operation(operation: Operation) -> Fields:
        took = operation.updated_at - operation.created_at
        fields: dict[str, Any] = {
            "id": str(operation.id),
            "project_id": operation.project_id,
            "branch_id": operation.branch_id,
            "action": operation.action,
            "status": operation.status,
            "failures_count": 0,
            "total_duration_ms": int(took.total_seconds() * 1000),
            **_times(operation),
        }
        if operation.endpoint_id is not None:
            fields["endpoint_id"] = operation.endpoint_id
        return fields

    @classmethod
    def operations(cls, operations: Sequence[Operation]) -> list[Fields]:
        return [cls.operation(operation) for operation in operations]

    def user(self) -> Fields:
        """The account behind the key."""
        return {
            "id": str(self._installation.user_id),
            "email": "owner@localhost.localdomain",
            "login": "owner",
            "name": "Owner",
            "last_name": "",
            "image": "",
            "plan": "agent",
            "auth_accounts": [],
            "active_seconds_limit": 0,
            "projects_limit": 0,
            "branches_limit": 0,
            "max_autoscaling_limit": 0,
        }

    def organization(self) -> Fields:
        made = timestamp(self._installation.created_at)
        return {
            "id": self._installation.org_id,
            "name": "Local",
            "handle": self._installation.org_id,
            "plan": "agent",
            "managed_by": "console",
            "created_at": made,
            "updated_at": made,
        }
