"""The consumption history: what was used, by hour, day or month, as it stood when it was last published."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from starlette.datastructures import QueryParams

from agentdb_mcp.neon_emulator import parameters
from agentdb_mcp.neon_emulator.bodies import Fields
from agentdb_mcp.neon_emulator.clock import HOUR, after_month, hour_of, month_of
from agentdb_mcp.neon_emulator.computes import Computes
from agentdb_mcp.neon_emulator.errors import ApiError, bad_request, not_found
from agentdb_mcp.neon_emulator.naming import ID
from agentdb_mcp.neon_emulator.settling import settle
from agentdb_mcp.neon_emulator.state import Organization, Project, select

DAY = timedelta(days=1)
EARLIEST = datetime(2024, 3, 1, tzinfo=UTC)
PROJECTS_MOST, PAGE_DEFAULT, PAGE_MOST = 100, 10, 100
# A metric and its column.
COLUMNS = {
    "compute_unit_seconds": "compute_seconds",
    "root_branch_bytes_month": "root_byte_hours",
    "child_branch_bytes_month": "child_byte_hours",
    "public_network_transfer_bytes": "sent_bytes",
    "extra_branches_month": "extra_branch_hours",
    "instant_restore_bytes_month": "restore_byte_hours",
    "snapshot_storage_bytes_month": "snapshot_byte_hours",
    "private_network_transfer_bytes": "private_sent_bytes",
}
# Left out where there is none of it, as some are at Neon.
SOMETIMES = frozenset({"instant_restore_bytes_month", "private_network_transfer_bytes", "snapshot_storage_bytes_month"})


@dataclass(frozen=True, slots=True)
class Granularity:
    start: Callable[[datetime], datetime]
    following: Callable[[datetime], datetime]
    unit: str
    reach: timedelta


GRANULARITIES = {
    "hourly": Granularity(hour_of, lambda start: start + HOUR, "hour", timedelta(hours=168)),
    "daily": Granularity(lambda m: hour_of(m).replace(hour=0), lambda start: start + DAY, "day", timedelta(days=60)),
    "monthly": Granularity(month_of, after_month, "month", timedelta(days=366)),
}


@dataclass(frozen=True, slots=True)
class Question:
    granularity: Granularity
    start: datetime
    end: datetime
    metrics: list[str]
    project_ids: list[str] | None
    limit: int
    cursor: str | None


def read_question(query: QueryParams, now: datetime) -> Question:
    granularity = GRANULARITIES.get(parameters.query_required(query, "granularity"))
    if granularity is None:
        raise bad_request("`granularity` must be hourly, daily or monthly")
    start, end = granularity.start(_moment(query, "from")), _ceiling(granularity, _moment(query, "to"))
    if not EARLIEST <= start < end or start < granularity.start(now - granularity.reach):
        raise ApiError(406, "the range of `from` and `to` is not valid for this granularity")
    metrics = _listed(query, "metrics")
    if not metrics:
        raise bad_request("`metrics` is required")
    if unknown := set(metrics) - set(COLUMNS):
        raise bad_request(f"{len(unknown)} of `metrics` are not supported")
    identifiers = _listed(query, "project_ids")
    if len(identifiers) > PROJECTS_MOST or not all(ID.fullmatch(identifier) for identifier in identifiers):
        raise bad_request(f"`project_ids` must be at most {PROJECTS_MOST} identifiers")
    limit = parameters.query_limit(query, PAGE_DEFAULT, PAGE_MOST)
    cursor = parameters.query_identifier(query, "cursor")
    return Question(granularity, start, end, metrics, identifiers or None, limit, cursor)


def _moment(query: Mapping[str, str], key: str) -> datetime:
    try:
        moment = datetime.fromisoformat(parameters.query_required(query, key).replace(" ", "+"))
    except ValueError:
        raise bad_request(f"`{key}` must be a date and time such as 2026-01-31T00:00:00Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def _ceiling(granularity: Granularity, moment: datetime) -> datetime:
    start = granularity.start(moment)
    return start if start == moment else granularity.following(start)


def _listed(query: QueryParams, key: str) -> list[str]:
    """Repeated or joined by commas."""
    return [item for value in query.getlist(key) for item in value.split(",") if item]


async def history(computes: Computes, organization: Organization, question: Question) -> Fields:
    await _publish_if_due(computes)
    page = await select(
        computes.pool,
        Project,
        """WHERE org_id = $1 AND state <> 'creating' AND ($2::text[] IS NULL OR id = ANY($2))
             AND ($3::text IS NULL OR seq < (SELECT seq FROM project AS last WHERE last.id = $3))
           ORDER BY seq DESC LIMIT $4""",
        organization.id,
        question.project_ids,
        question.cursor,
        question.limit,
    )
    frames = await _frames(computes, [project.id for project in page], question)
    answer: Fields = {
        "projects": [_project(project, organization.plan, frames.get(project.id, []), question) for project in page]
    }
    if page:
        answer["pagination"] = {"cursor": page[-1].id}
    return answer


async def _publish_if_due(computes: Computes) -> None:
    usage, now = computes.usage, computes.clock.now()
    lag = timedelta(seconds=computes.behaviour.consumption_lag_seconds)
    if usage.published_at is None or now - usage.published_at >= lag:
        await settle(computes)
        await usage.publish()


async def _frames(
    computes: Computes, project_ids: Sequence[str], question: Question
) -> dict[str, list[tuple[datetime, Mapping[str, float]]]]:
    sums = ", ".join(f"sum({column}) AS {name}" for name, column in COLUMNS.items())
    records = await computes.pool.fetch(
        f"SELECT project_id, date_trunc($4, hour, 'UTC') AS frame, {sums} FROM published_usage"
        " WHERE project_id = ANY($1) AND hour >= $2 AND hour < $3 GROUP BY 1, 2 ORDER BY 2",
        list(project_ids),
        question.start,
        question.end,
        question.granularity.unit,
    )
    frames: dict[str, list[tuple[datetime, Mapping[str, float]]]] = {}
    for record in records:
        frames.setdefault(record["project_id"], []).append((record["frame"], record))
    return frames


def _project(
    project: Project, plan: str, frames: Sequence[tuple[datetime, Mapping[str, float]]], question: Question
) -> Fields:
    consumption = [
        {
            "timeframe_start": _text(frame),
            "timeframe_end": _text(question.granularity.following(frame)),
            "metrics": [
                {"metric_name": name, "value": round(values[name])}
                for name in question.metrics
                if values[name] or name not in SOMETIMES
            ],
        }
        for frame, values in frames
    ]
    period = {
        "period_id": str(uuid.uuid5(uuid.NAMESPACE_OID, project.id)),
        "period_plan": plan,
        "period_start": _text(project.created_at),
        "consumption": consumption,
    }
    return {"project_id": project.id, "periods": [period]}


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def organization_of(organizations: Sequence[Organization], query: Mapping[str, str]) -> Organization:
    """The one asked for, among those that the key opens."""
    wanted = parameters.query_identifier(query, "org_id")
    if wanted is None:
        raise bad_request("`org_id` is required")
    for organization in organizations:
        if organization.id == wanted:
            if organization.plan == "free":
                raise ApiError(403, "consumption history is not available on this plan")
            return organization
    raise not_found("organization")
