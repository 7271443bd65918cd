"""What callers may send: JSON bodies, checked and typed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, NoReturn

from starlette.requests import Request

from agentdb_mcp.neon_emulator.errors import ApiError, bad_request
from agentdb_mcp.neon_emulator.naming import ID, NAME_BYTES, RESERVED_ROLES

Fields = dict[str, Any]

BODY_BYTES = 1_000_000
TEXT_MAX = 256
QUOTAS = (
    "active_time_seconds",
    "compute_time_seconds",
    "written_data_bytes",
    "data_transfer_bytes",
    "logical_size_bytes",
)
SMALLEST_CU, LARGEST_CU = 0.25, 56.0
NEVER_SUSPEND, DEFAULT_SUSPEND, SHORTEST_SUSPEND, LONGEST_SUSPEND = -1, 0, 60, 604_800
LONGEST_HISTORY = 2_592_000
INT64_MAX = 2**63 - 1
TRANSFERRED_MOST = 400


@dataclass(frozen=True, slots=True)
class NewProject:
    """The body of `POST /projects`; None where the caller leaves the choice to us."""

    name: str | None
    org_id: str | None
    region_id: str | None
    branch_name: str | None
    role_name: str | None
    database_name: str | None
    history_retention_seconds: int | None
    endpoint_settings: Fields
    settings: Fields


@dataclass(frozen=True, slots=True)
class ProjectChange:
    """The body of `PATCH /projects/{id}`; None or empty where nothing is to change."""

    name: str | None
    history_retention_seconds: int | None
    endpoint_settings: Fields
    settings: Fields


@dataclass(frozen=True, slots=True)
class NewBranch:
    """The body of `POST …/branches`; `endpoints` are the settings of the computes asked for."""

    name: str | None
    parent_id: str | None
    endpoints: list[Fields]


@dataclass(frozen=True, slots=True)
class Restore:
    """The body of `POST …/restore`, to the head of another branch."""

    source_branch_id: str
    preserve_under_name: str | None


@dataclass(frozen=True, slots=True)
class SnapshotRestore:
    """The body of `POST …/snapshots/{id}/restore`."""

    name: str | None
    target_branch_id: str | None
    finalize: bool


@dataclass(frozen=True, slots=True)
class Transfer:
    destination_org_id: str
    project_ids: list[str]


def new_branch(body: Fields) -> NewBranch:
    branch = _object(body, "branch")
    endpoints = body.get("endpoints") or []
    if not isinstance(endpoints, list) or not all(isinstance(endpoint, dict) for endpoint in endpoints):
        raise bad_request("`endpoints` must be a list of objects")
    if len(endpoints) > 1:
        raise bad_request("a branch has at most one endpoint here")
    return NewBranch(
        name=_text(branch, "name"),
        parent_id=_identifier(branch, "parent_id"),
        endpoints=[_compute_settings(endpoint) for endpoint in endpoints],
    )


def restore(body: Fields) -> Restore:
    """Points in time are refused: there is no history behind a branch here, only its head."""
    source = _needed(_identifier(body, "source_branch_id"), "source_branch_id")
    for key in ("source_lsn", "source_timestamp"):
        if _text(body, key) is not None:
            raise bad_request(f"`{key}` cannot be given here: only the head of another branch can be restored from")
    return Restore(source, _text(body, "preserve_under_name"))


def snapshot_restore(body: Fields) -> SnapshotRestore:
    finalize = body.get("finalize_restore")
    if finalize is not None and not isinstance(finalize, bool):
        raise bad_request("`finalize_restore` must be true or false")
    return SnapshotRestore(_text(body, "name"), _identifier(body, "target_branch_id"), bool(finalize))


def finalize_name(body: Fields) -> str | None:
    return _text(body, "name")


def new_role(body: Fields) -> str:
    return _needed(_role_name(_object(body, "role"), "name"), "role.name")


def new_database(body: Fields) -> tuple[str, str]:
    """Its name and its owner's."""
    database = _object(body, "database")
    name, owner = _postgres_name(database, "name"), _postgres_name(database, "owner_name")
    return _needed(name, "database.name"), _needed(owner, "database.owner_name")


def endpoint_change(body: Fields) -> Fields:
    return _compute_settings(_object(body, "endpoint"))


def transfer(body: Fields) -> Transfer:
    identifiers = body.get("project_ids")
    if not isinstance(identifiers, list) or not 1 <= len(identifiers) <= TRANSFERRED_MOST:
        raise bad_request(f"`project_ids` must be a list of 1 to {TRANSFERRED_MOST} identifiers")
    checked = [_identifier({"project_ids": item}, "project_ids") for item in identifiers]
    return Transfer(
        _needed(_identifier(body, "destination_org_id"), "destination_org_id"), [item for item in checked if item]
    )


def _needed(value: str | None, key: str) -> str:
    if value is None:
        raise bad_request(f"`{key}` is required")
    return value


def new_project(body: Fields) -> NewProject:
    project = _project(body)
    branch = _object(project, "branch")
    # Neon echoes the version asked for; this cluster has only its own, and answers with that one.
    _whole(project, "pg_version", 14, 18)
    return NewProject(
        name=_text(project, "name"),
        org_id=_identifier(project, "org_id"),
        region_id=_identifier(project, "region_id"),
        branch_name=_text(branch, "name"),
        role_name=_role_name(branch),
        database_name=_postgres_name(branch, "database_name"),
        history_retention_seconds=_whole(project, "history_retention_seconds", 0, LONGEST_HISTORY),
        endpoint_settings=_endpoint_settings(project),
        settings=_settings(project),
    )


def project_change(body: Fields) -> ProjectChange:
    project = _project(body)
    return ProjectChange(
        name=_text(project, "name"),
        history_retention_seconds=_whole(project, "history_retention_seconds", 0, LONGEST_HISTORY),
        endpoint_settings=_endpoint_settings(project),
        settings=_settings(project),
    )


async def json_body(request: Request, *, optional: bool = False) -> Fields:
    """The body as an object."""
    body = await json_value(request, empty={} if optional else None)
    if not isinstance(body, dict):
        raise bad_request("the request body must be a JSON object")
    return body


async def json_value(request: Request, *, empty: Fields | None = None, most: int = BODY_BYTES) -> object:
    """The body, without the characters that Postgres cannot store; `empty` where there is none."""
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > most:
            raise ApiError(413, "the request body is too large")
    if empty is not None and not raw:
        return empty
    try:
        body: object = json.loads(bytes(raw), parse_constant=_refuse_constant)
        _check_characters(body)
    except (ValueError, RecursionError):
        raise bad_request("the request body is not valid JSON") from None
    return body


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError


def _check_characters(value: object) -> None:
    if isinstance(value, str):
        value.encode()  # a lone surrogate raises a ValueError
        if "\x00" in value:
            raise ValueError
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check_characters(key)
            _check_characters(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_characters(inner)
    elif isinstance(value, float) and not math.isfinite(value):  # 1e999
        raise ValueError


def _project(body: Fields) -> Fields:
    if not isinstance(body.get("project"), dict):
        raise bad_request("`project` is required and must be an object")
    return _object(body, "project")


def _object(fields: Fields, key: str) -> Fields:
    value = fields.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad_request(f"`{key}` must be an object")
    return value


def _text(fields: Fields, key: str) -> str | None:
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= TEXT_MAX:
        raise bad_request(f"`{key}` must be a string of 1 to {TEXT_MAX} characters")
    return value


def _identifier(fields: Fields, key: str) -> str | None:
    value = _text(fields, key)
    if value is not None and not ID.fullmatch(value):
        raise bad_request(f"`{key}` must match ^{ID.pattern}$")
    return value


def _postgres_name(fields: Fields, key: str) -> str | None:
    value = _text(fields, key)
    if value is not None and len(value.encode()) > NAME_BYTES:
        raise bad_request(f"`{key}` must be at most {NAME_BYTES} bytes long")
    return value


def _role_name(fields: Fields, key: str = "role_name") -> str | None:
    value = _postgres_name(fields, key)
    if value is not None and (value in RESERVED_ROLES or value.startswith("pg_")):
        raise bad_request(f"`{key}` is reserved")
    return value


def _whole(fields: Fields, key: str, least: int, most: int) -> int | None:
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise bad_request(f"`{key}` must be an integer from {least} to {most}")
    return value


def _compute_units(fields: Fields, key: str) -> float | None:
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not SMALLEST_CU <= value <= LARGEST_CU:
        raise bad_request(f"`{key}` must be a number from {SMALLEST_CU} to {LARGEST_CU}")
    return value


def _endpoint_settings(project: Fields) -> Fields:
    """`default_endpoint_settings`, only what was sent."""
    return _compute_settings(_object(project, "default_endpoint_settings"))


def _compute_settings(given: Fields) -> Fields:
    least, most = _compute_units(given, "autoscaling_limit_min_cu"), _compute_units(given, "autoscaling_limit_max_cu")
    if least is not None and most is not None and least > most:
        raise bad_request("`autoscaling_limit_min_cu` must not exceed `autoscaling_limit_max_cu`")
    suspend = _whole(given, "suspend_timeout_seconds", NEVER_SUSPEND, LONGEST_SUSPEND)
    if suspend is not None and DEFAULT_SUSPEND < suspend < SHORTEST_SUSPEND:
        raise bad_request(f"`suspend_timeout_seconds` must be -1, 0 or at least {SHORTEST_SUSPEND}")
    checked = {
        "autoscaling_limit_min_cu": least,
        "autoscaling_limit_max_cu": most,
        "suspend_timeout_seconds": suspend,
    }
    return {key: value for key, value in checked.items() if value is not None}


def _settings(project: Fields) -> Fields:
    """`settings`, only what was sent; of it we act on the quota alone and keep the rest."""
    given = _object(project, "settings")
    quota = _object(given, "quota")
    checked = {key: _whole(quota, key, 0, INT64_MAX) for key in QUOTAS}
    kept = {key: value for key, value in given.items() if key != "quota" and value is not None}
    if limits := {key: value for key, value in checked.items() if value is not None}:
        kept["quota"] = limits
    return kept
