"""Consumption history v2: what projects used, in Neon's own spans of time. Asking wakes no compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from agentdb_mcp.models import Consumption
from agentdb_mcp.providers.neon.answers import understood
from agentdb_mcp.providers.neon.organization import Organization

BATCH = 100
# How far back each granularity reaches; an hour of reserve for the rounding and the clocks.
_HOURLY, _DAILY = timedelta(hours=167), timedelta(days=59)
_PATH = "/consumption_history/v2/projects"
# Metrics named `*_bytes_month` hold byte-hours, `extra_branches_month` branch-hours.
METRICS = {
    "compute_unit_seconds": "compute_cu_seconds",
    "root_branch_bytes_month": "storage_byte_hours",
    "child_branch_bytes_month": "storage_byte_hours",
    "instant_restore_bytes_month": "history_byte_hours",
    "snapshot_storage_bytes_month": "snapshot_byte_hours",
    "public_network_transfer_bytes": "egress_bytes",
    "private_network_transfer_bytes": "private_transfer_bytes",
    "extra_branches_month": "extra_branch_hours",
}
_AMOUNTS = tuple(field.name for field in fields(Consumption) if field.name not in {"project_id", "start", "end"})

_Key = tuple[str, datetime, datetime]


async def consumption(
    organizations: Sequence[Organization],
    project_ids: Sequence[str],
    since: datetime,
    until: datetime,
    now: datetime,
) -> list[Consumption]:
    """Every organization is asked for every project: one that moved has used something in both."""
    wanted = sorted(set(project_ids))
    found: dict[_Key, Consumption] = {}
    for organization in organizations:
        for granularity, begin, end in stretches(since, until, now):
            for first in range(0, len(wanted), BATCH):
                batch = wanted[first : first + BATCH]
                query = organization.query | {
                    "from": _rfc3339(begin),
                    "to": _rfc3339(end),
                    "granularity": granularity,
                    "metrics": ",".join(METRICS),
                    "project_ids": ",".join(batch),
                    "limit": BATCH,
                }
                pages = organization.api.pages(_PATH, "projects", query, most=len(batch))
                async for item in pages:
                    with understood():
                        for used in _spans(item):
                            key = used.project_id, used.start, used.end
                            found[key] = _sum(found[key], used) if key in found else used
    return [found[key] for key in sorted(found)]


def stretches(since: datetime, until: datetime, now: datetime) -> Iterator[tuple[str, datetime, datetime]]:
    """The finest granularity that Neon keeps for each part of the time, oldest first."""
    hours = _midnight(now - _HOURLY + timedelta(days=1))
    days = _midnight((now - _DAILY).replace(day=1) + timedelta(days=32)).replace(day=1)
    if since < now - _DAILY and since < until:
        yield "monthly", since, min(days, until)
        since = days
    if since < now - _HOURLY and since < until:
        yield "daily", since, min(hours, until)
        since = hours
    if since < until:
        yield "hourly", since, until


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _spans(item: dict[str, Any]) -> Iterator[Consumption]:
    for period in item["periods"]:
        for span in period["consumption"]:
            amounts: dict[str, Decimal] = {}
            for metric in span["metrics"]:
                if name := METRICS.get(metric["metric_name"]):
                    amounts[name] = amounts.get(name, Decimal(0)) + Decimal(str(metric["value"]))
            start, end = (datetime.fromisoformat(span[f"timeframe_{side}"]) for side in ("start", "end"))
            yield Consumption(str(item["project_id"]), start, end, **amounts)


def _sum(one: Consumption, other: Consumption) -> Consumption:
    amounts = {name: _added(getattr(one, name), getattr(other, name)) for name in _AMOUNTS}
    return Consumption(one.project_id, one.start, one.end, **amounts)


def _added(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return other if one is None else one if other is None else one + other


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
