"""What callers get: Neon's JSON shapes, with every field that its schema requires."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from agentdb_mcp.neon_emulator.bodies import Fields
from agentdb_mcp.neon_emulator.branches import CreatedBranch
from agentdb_mcp.neon_emulator.clock import after_month, month_of
from agentdb_mcp.neon_emulator.location import Address
from agentdb_mcp.neon_emulator.operations import status_at, updated_at
from agentdb_mcp.neon_emulator.projects import Created, Projects
from agentdb_mcp.neon_emulator.state import Branch, Database, Endpoint, Operation, Organization, Project, Role, Snapshot
from agentdb_mcp.neon_emulator.usage import Totals

PROVISIONER = "k8s-neonvm"
# Use is measured by project; the fields are required of branches too.
NO_USAGE = {
    "compute_time_seconds": 0,
    "active_time_seconds": 0,
    "cpu_used_sec": 0,
    "written_data_bytes": 0,
    "data_transfer_bytes": 0,
}


def timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _times(row: Project | Branch | Endpoint | Role | Database) -> Fields:
    return {"created_at": timestamp(row.created_at), "updated_at": timestamp(row.updated_at)}


class Answers:
    """Shapes that name the installation: its owner, its cluster, its clock."""

    def __init__(self, projects: Projects, address: Address) -> None:
        self._projects = projects
        self._computes = projects.computes
        self._clock = projects.clock
        self._address = address

    def project_item(self, project: Project) -> Fields:
        """A project as lists show it, without usage."""
        item = {
            "id": project.id,
            "platform_id": project.region_id.partition("-")[0],
            "region_id": project.region_id,
            "name": project.name,
            "provisioner": PROVISIONER,
            "default_endpoint_settings": project.endpoint_settings,
            "settings": project.settings,
            "pg_version": self._projects.cluster.version,
            "proxy_host": self._address.host,
            "branch_logical_size_limit": 0,
            "branch_logical_size_limit_bytes": 0,
            "store_passwords": True,
            "active_time": 0,
            "cpu_used_sec": 0,
            "creation_source": "api",
            "history_retention_seconds": project.history_retention_seconds,
            "owner_id": project.org_id,
            "org_id": project.org_id,
            **_times(project),
        }
        if project.deleted_at is not None:
            item["deleted_at"] = timestamp(project.deleted_at)
            item["recoverable_until"] = timestamp(self._projects.recoverable_until(project))
        return item

    def project(self, project: Project, used: Totals | None = None) -> Fields:
        """A project in full; its consumption period is the calendar month."""
        item = self.project_item(project)
        del item["active_time"]
        start = month_of(self._clock.now())
        period = {"consumption_period_start": timestamp(start), "consumption_period_end": timestamp(after_month(start))}
        return {**item, **_usage(used), **period}

    def created(self, created: Created) -> Fields:
        return {
            "project": self.project(created.project),
            "connection_uris": [self._connection(created.database, created.role, created.endpoint)],
            "roles": [self.role_with_password(created.role)],
            "databases": [self.database(created.database)],
            "operations": self.operations(created.operations),
            "branch": self.branch(created.branch),
            "endpoints": [self.endpoint(created.endpoint, created.project)],
        }

    def created_branch(self, created: CreatedBranch, project: Project) -> Fields:
        answer = {
            "branch": self.branch(created.branch),
            "endpoints": [self.endpoint(endpoint, project) for endpoint in created.endpoints],
            "roles": [self.role_with_password(role) for role in created.roles],
            "databases": [self.database(database) for database in created.databases],
            "operations": self.operations(created.operations),
        }
        if created.endpoints:
            roles = {role.name: role for role in created.roles}
            answer["connection_uris"] = [
                self._connection(database, roles[database.owner_name], created.endpoints[0])
                for database in created.databases
                if database.owner_name in roles
            ]
        return answer

    def _connection(self, database: Database, role: Role, endpoint: Endpoint) -> Fields:
        parameters = {
            "database": database.name,
            "password": role.password,
            "role": role.name,
            "host": self._address.uri_host(endpoint.id),
            "pooler_host": self._address.uri_host(endpoint.id, pooled=True),
            "port": self._address.port,
        }
        return {"connection_uri": self.uri(database.name, role, endpoint), "connection_parameters": parameters}

    def uri(self, database: str, role: Role, endpoint: Endpoint, *, pooled: bool = False) -> str:
        return self._address.project_uri(database, role.name, role.password, endpoint.id, pooled=pooled)

    def endpoint(self, endpoint: Endpoint, project: Project) -> Fields:
        fields = {
            "host": self._address.endpoint_host(endpoint.id),
            "id": endpoint.id,
            "project_id": endpoint.project_id,
            "branch_id": endpoint.branch_id,
            "region_id": project.region_id,
            "type": "read_write",
            "current_state": self._computes.state_of(endpoint),
            "last_active": timestamp(endpoint.last_active),
            "settings": {"pg_settings": {}},
            "pooler_enabled": False,
            "pooler_mode": "transaction",
            "disabled": False,
            "passwordless_access": False,
            "creation_source": "api",
            "proxy_host": self._address.host,
            "provisioner": PROVISIONER,
            **endpoint.settings,
            **_times(endpoint),
        }
        if fields["current_state"] == "init":
            fields["pending_state"] = "active"
        if endpoint.current_state == "idle":
            fields["suspended_at"] = fields["updated_at"]
        return fields

    @staticmethod
    def branch(branch: Branch) -> Fields:
        default = branch.parent_id is None
        fields: Fields = {
            "id": branch.id,
            "project_id": branch.project_id,
            "name": branch.name,
            "current_state": "ready",
            "state_changed_at": timestamp(branch.updated_at),
            "creation_source": "api",
            "primary": default,
            "default": default,
            "protected": False,
            **NO_USAGE,
            **_times(branch),
        }
        if branch.parent_id is not None:
            fields |= {"parent_id": branch.parent_id, "init_source": "parent-data"}
        return fields

    @staticmethod
    def snapshot(snapshot: Snapshot) -> Fields:
        fields: Fields = {
            "id": snapshot.id,
            "name": snapshot.name,
            "source_branch_id": snapshot.source_branch_id,
            "created_at": timestamp(snapshot.created_at),
            "manual": True,
            "full_size": snapshot.size_bytes,
        }
        if snapshot.expires_at is not None:
            fields["expires_at"] = timestamp(snapshot.expires_at)
        return fields

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

    def operation(self, operation: Operation) -> Fields:
        now = self._clock.now()
        changed = updated_at(operation, now)
        fields: dict[str, Any] = {
            "id": str(operation.id),
            "project_id": operation.project_id,
            "branch_id": operation.branch_id,
            "action": operation.action,
            "status": status_at(operation, now),
            "failures_count": 0,
            "total_duration_ms": int((changed - operation.created_at).total_seconds() * 1000),
            "created_at": timestamp(operation.created_at),
            "updated_at": timestamp(changed),
        }
        if operation.endpoint_id is not None:
            fields["endpoint_id"] = operation.endpoint_id
        return fields

    def operations(self, operations: Sequence[Operation]) -> list[Fields]:
        return [self.operation(operation) for operation in operations]

    def user(self) -> Fields:
        """The account behind the key."""
        return {
            "id": str(self._projects.installation.user_id),
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

    @staticmethod
    def organization(organization: Organization) -> Fields:
        made = timestamp(organization.created_at)
        return {
            "id": organization.id,
            "name": organization.name,
            "handle": organization.id,
            "plan": organization.plan,
            "managed_by": "console",
            "created_at": made,
            "updated_at": made,
        }


def _whole(seconds: float) -> int:
    """Rounded down; a sum over hours may miss what is less than a microsecond."""
    return int(seconds + 5e-7)


def _usage(used: Totals | None) -> Fields:
    if used is None:
        return {**NO_USAGE, "data_storage_bytes_hour": 0}
    return {
        "compute_time_seconds": _whole(used.compute_seconds),
        "active_time_seconds": _whole(used.active_seconds),
        "cpu_used_sec": _whole(used.compute_seconds),
        "written_data_bytes": 0,
        "data_transfer_bytes": used.sent_bytes,
        "data_storage_bytes_hour": int(used.byte_hours),
    }
