"""What is asked of Neon, call by call, and how its answers are read."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neon_script import CREATED, DATABASES, MADE, PROJECT, URI, Routes, Script, ok, operation, provider_on, refusal

from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.models import Consumption, Project, ProjectSettings, Quota
from agentdb_mcp.providers.neon.consumption import stretches

HOME = f"/projects/{PROJECT.id}"
ROLE = f"{HOME}/branches/{PROJECT.branch_id}/roles/o_1"
HISTORY = "/consumption_history/v2/projects"
NOW = datetime.now(UTC)


def sent(request: httpx.Request) -> Any:
    return json.loads(request.content)


async def test_a_new_project_gets_the_settings_that_are_named_and_no_others() -> None:
    script = Script(ok(CREATED, 201))
    settings = ProjectSettings(
        max_cu=2, suspend_timeout_s=60, quota=Quota(compute_time_seconds=3600, written_data_bytes=0)
    )
    async with provider_on(script) as provider:
        await provider.create(PROJECT.name, settings)
        await provider.create(PROJECT.name)
    first, second = (sent(request)["project"] for request in script.requests)
    assert first["default_endpoint_settings"] == {
        "autoscaling_limit_min_cu": 0.25,
        "autoscaling_limit_max_cu": 2,
        "suspend_timeout_seconds": 60,
    }
    assert first["settings"] == {"quota": {"compute_time_seconds": 3600, "written_data_bytes": 0}}
    assert "suspend_timeout_seconds" not in second["default_endpoint_settings"]
    assert "settings" not in second


@pytest.mark.parametrize(
    ("paid", "timeout_s", "told"),
    [(True, 60, {"suspend_timeout_seconds": 60}), (True, 300, {}), (False, 60, {}), (False, 300, {})],
)
async def test_a_suspend_timeout_is_named_where_neon_takes_one_and_would_do_otherwise(
    paid: bool, timeout_s: int, told: dict[str, int]
) -> None:
    script = Script(ok(CREATED, 201))
    async with provider_on(script) as provider:
        await provider.create(PROJECT.name, ProjectSettings(suspend_timeout_s=timeout_s, paid=paid))
    endpoint = sent(script.requests[0])["project"]["default_endpoint_settings"]
    assert {name: value for name, value in endpoint.items() if "suspend" in name} == told


async def test_configuring_reaches_the_project_and_the_endpoints_that_exist() -> None:
    routes = Routes(
        {
            f"PATCH {HOME}": {"project": MADE, "operations": [operation("running")]},
            f"GET {HOME}/operations/op-1": {"operation": operation("finished")},
            f"GET {HOME}/endpoints": {"endpoints": [{"id": "ep-1"}, {"id": "ep-2"}]},
            f"PATCH {HOME}/endpoints/ep-1": {"operations": []},
            f"PATCH {HOME}/endpoints/ep-2": {"operations": []},
        }
    )
    async with provider_on(routes) as provider:
        await provider.configure(PROJECT.id, ProjectSettings(min_cu=0.5, quota=Quota(data_transfer_bytes=7)))
    endpoint = {"autoscaling_limit_min_cu": 0.5}
    project = {"default_endpoint_settings": endpoint, "settings": {"quota": {"data_transfer_bytes": 7}}}
    assert sent(routes.requests[0]) == {"project": project}
    assert [sent(request) for request in routes.requests[3:]] == [{"endpoint": endpoint}] * 2


async def test_configuring_a_quota_leaves_endpoints_alone() -> None:
    routes = Routes({f"PATCH {HOME}": {"project": MADE, "operations": []}})
    async with provider_on(routes) as provider:
        await provider.configure(PROJECT.id, ProjectSettings(quota=Quota(logical_size_bytes=0)))
    assert [sent(request) for request in routes.requests] == [
        {"project": {"settings": {"quota": {"logical_size_bytes": 0}}}}
    ]


async def test_configuring_nothing_asks_nothing() -> None:
    routes = Routes({})
    async with provider_on(routes) as provider:
        await provider.configure(PROJECT.id, ProjectSettings())
    assert routes.requests == []


async def test_pausing_sets_a_quota_of_a_second_before_it_suspends_what_runs() -> None:
    endpoints = [{"id": f"ep-{state}", "current_state": state} for state in ("active", "idle", "init")]
    routes = Routes(
        {
            f"PATCH {HOME}": {"project": MADE, "operations": []},
            f"GET {HOME}/endpoints": {"endpoints": endpoints},
            f"POST {HOME}/endpoints/ep-active/suspend": {"operations": [operation("running")]},
            f"POST {HOME}/endpoints/ep-init/suspend": {"operations": []},
            f"GET {HOME}/operations/op-1": {"operation": operation("finished")},
        }
    )
    async with provider_on(routes) as provider:
        await provider.pause(PROJECT.id)
    assert sent(routes.requests[0]) == {"project": {"settings": {"quota": {"active_time_seconds": 1}}}}
    assert routes.calls == [
        f"PATCH {HOME}",
        f"GET {HOME}/endpoints",
        f"POST {HOME}/endpoints/ep-active/suspend",
        f"GET {HOME}/operations/op-1",
        f"POST {HOME}/endpoints/ep-init/suspend",
    ]


async def test_resuming_lifts_the_quota_that_pausing_set_and_no_other() -> None:
    routes = Routes({f"PATCH {HOME}": {"project": MADE, "operations": []}})
    async with provider_on(routes) as provider:
        await provider.resume(PROJECT.id)
    assert [sent(request) for request in routes.requests] == [
        {"project": {"settings": {"quota": {"active_time_seconds": 0}}}}
    ]


@pytest.mark.parametrize("call", ["pause", "resume"])
async def test_what_is_not_there_is_neither_paused_nor_resumed(call: str) -> None:
    async with provider_on(Routes({})) as provider:
        with pytest.raises(ProvisioningFailed, match="does not know"):
            await getattr(provider, call)(PROJECT.id)


async def test_a_project_is_described_or_is_none() -> None:
    async with provider_on(Routes({f"GET {HOME}": {"project": MADE}})) as provider:
        assert await provider.get(PROJECT.id) == Project(
            PROJECT.id, PROJECT.name, None, "2026-01-01T00:00:00Z", "default"
        )
        assert await provider.get("never-was-12345678") is None


async def test_projects_are_listed_by_how_their_names_begin() -> None:
    names = ["agent-1", "my-agent-2", "agent-3"]
    items = [{**MADE, "id": f"p-{name}", "name": name} for name in names]
    script = Script(ok({"projects": items}))
    async with provider_on(script) as provider:
        assert [project.name for project in await provider.projects("agent-")] == ["agent-1", "agent-3"]
        assert [project.name for project in await provider.projects("")] == names
    assert [request.url.params.get("search") for request in script.requests] == ["agent-", None]


async def test_a_list_that_repeats_its_cursor_ends() -> None:
    script = Script(ok({"projects": [MADE], "pagination": {"cursor": "again"}}))
    async with provider_on(script) as provider:
        await provider.find(PROJECT.name)
    assert script.count == 2


async def test_the_pooled_way_in_is_asked_for_by_name() -> None:
    routes = Routes(
        {
            f"GET {HOME}/operations": {"operations": []},
            f"GET {HOME}/branches/{PROJECT.branch_id}/databases": DATABASES,
            f"GET {HOME}/connection_uri": URI,
        }
    )
    async with provider_on(routes) as provider:
        await provider.access(PROJECT, pooled=True)
    assert routes.requests[-1].url.params["pooled"] == "true"


async def test_a_new_password_is_waited_for_and_read_from_the_way_in() -> None:
    routes = Routes(
        {
            f"GET {HOME}/branches/{PROJECT.branch_id}/databases": DATABASES,
            f"POST {ROLE}/reset_password": {"role": {}, "operations": [operation("running")]},
            f"GET {HOME}/operations/op-1": {"operation": operation("finished")},
            f"GET {HOME}/operations": {"operations": []},
            f"GET {HOME}/connection_uri": URI,
        }
    )
    async with provider_on(routes) as provider:
        assert (await provider.reset_password(PROJECT)).uri.reveal() == URI["uri"]
    assert routes.calls.index(f"GET {HOME}/operations/op-1") < routes.calls.index(f"GET {HOME}/connection_uri")


@pytest.mark.usefixtures("without_pauses")
async def test_a_new_password_with_an_unknown_outcome_is_not_asked_for_twice() -> None:
    routes = Routes(
        {
            f"GET {HOME}/branches/{PROJECT.branch_id}/databases": DATABASES,
            f"POST {ROLE}/reset_password": httpx.ReadTimeout("slow"),
        }
    )
    async with provider_on(routes) as provider:
        with pytest.raises(ProvisioningFailed, match="outcome is unknown") as failed:
            await provider.reset_password(PROJECT)
    assert "by its name" not in (failed.value.hint or "")
    assert routes.calls.count(f"POST {ROLE}/reset_password") == 1


@pytest.mark.usefixtures("without_pauses")
async def test_a_server_fault_on_a_post_says_that_its_outcome_is_unknown() -> None:
    async with provider_on(Script(refusal(502))) as provider:
        with pytest.raises(ProvisioningFailed, match="req-1; the outcome is unknown"):
            await provider.create("x")


async def test_a_deleted_project_is_recovered_or_said_to_be_gone() -> None:
    routes = Routes({f"POST {HOME}/recover": {"project": MADE, "operations": []}})
    async with provider_on(routes) as provider:
        assert (await provider.recover(PROJECT.id)).name == PROJECT.name
        with pytest.raises(ProvisioningFailed, match="cannot recover") as failed:
            await provider.recover("never-was-12345678")
    assert "seven days" in (failed.value.hint or "")


def span(hour: int, **metrics: object) -> dict[str, Any]:
    return {
        "timeframe_start": f"2026-01-01T{hour:02}:00:00Z",
        "timeframe_end": f"2026-01-01T{hour + 1:02}:00:00Z",
        "metrics": [{"metric_name": name, "value": value} for name, value in metrics.items()],
    }


def usage(project_id: str, *spans: dict[str, Any]) -> dict[str, Any]:
    """As Neon splits it: a period of the plan holds spans of time."""
    return {"project_id": project_id, "periods": [{"period_id": "x", "consumption": [each]} for each in spans]}


async def test_consumption_is_read_span_by_span_and_what_was_not_reported_is_none() -> None:
    used = usage(
        "p-1",
        span(
            0,
            compute_unit_seconds=900.5,
            root_branch_bytes_month=31_000_000_000,
            child_branch_bytes_month=5,
            instant_restore_bytes_month=7,
            public_network_transfer_bytes=0,
            extra_branches_month=2,
            metric_of_the_future=1,
        ),
        span(1),
    )
    async with provider_on(Script(ok({"projects": [used]}))) as provider:
        first, second = await provider.consumption(["p-1"], NOW - timedelta(hours=2), NOW)
    hours = [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in range(3)]
    assert first == Consumption(
        "p-1",
        hours[0],
        hours[1],
        compute_cu_seconds=Decimal("900.5"),
        storage_byte_hours=Decimal(31_000_000_005),
        history_byte_hours=Decimal(7),
        egress_bytes=Decimal(0),
        extra_branch_hours=Decimal(2),
    )
    assert second == Consumption("p-1", hours[1], hours[2])


async def test_consumption_is_asked_for_by_a_hundred_projects_and_page_by_page() -> None:
    ids = [f"p-{number:03}" for number in range(250)]
    pages = [
        {"projects": [usage("p-000", span(0))], "pagination": {"cursor": "c1"}},
        {"projects": [usage("p-001", span(0))]},
        {"projects": [usage("p-100", span(0))]},
        {"projects": []},
    ]
    script = Script(*map(ok, pages))
    async with provider_on(script) as provider:
        found = await provider.consumption([*ids, *ids], NOW - timedelta(hours=2), NOW)
    assert [used.project_id for used in found] == ["p-000", "p-001", "p-100"]
    queries = [request.url.params for request in script.requests]
    assert [query["project_ids"].split(",") for query in queries] == [ids[:100], ids[:100], ids[100:200], ids[200:]]
    assert [query.get("cursor") for query in queries] == [None, "c1", None, None]
    assert {query["org_id"] for query in queries} == {"org-1"}
    assert "compute_unit_seconds" in queries[0]["metrics"].split(",")


async def test_consumption_of_no_project_asks_nothing() -> None:
    """Without ids Neon would answer with the whole organization."""
    script = Script(ok({"projects": []}))
    async with provider_on(script) as provider:
        assert await provider.consumption([], NOW - timedelta(hours=2), NOW) == []
    assert script.count == 0


@pytest.mark.parametrize(
    ("age", "granularity"),
    [
        (timedelta(minutes=15), "hourly"),
        (timedelta(days=6), "hourly"),
        (timedelta(days=8), "daily"),
        (timedelta(days=58), "daily"),
        (timedelta(days=61), "monthly"),
    ],
    ids=str,
)
async def test_consumption_is_asked_for_in_the_finest_steps_that_neon_keeps(age: timedelta, granularity: str) -> None:
    script = Script(ok({"projects": []}))
    since = (NOW - age).replace(microsecond=0)
    async with provider_on(script) as provider:
        await provider.consumption(["p-1"], since, NOW)
    query = script.requests[0].url.params
    assert query["granularity"] == granularity
    assert datetime.fromisoformat(query["from"]) == since
    assert query["from"].endswith("Z")


@given(
    missed=st.integers(0, 200 * 24),
    settling=st.integers(0, 200),
    minutes=st.integers(0, 5 * 365 * 24 * 60),
)
def test_all_of_the_time_is_asked_for_once_in_steps_that_neon_still_keeps(
    missed: int, settling: int, minutes: int
) -> None:
    now = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    until = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=settling)
    since = until - timedelta(hours=missed)
    asked = list(stretches(since, until, now))
    assert [begin for _, begin, _ in asked] == [since, *(end for _, _, end in asked)][: len(asked)]
    assert (asked[-1][2] if asked else since) == until
    order = ["monthly", "daily", "hourly"]
    assert [order.index(step) for step, _, _ in asked] == sorted({order.index(step) for step, _, _ in asked})
    reach = {"hourly": timedelta(hours=168), "daily": timedelta(days=60), "monthly": timedelta(days=366)}
    for number, (step, begin, end) in enumerate(asked):
        assert begin < end
        assert begin >= now - reach[step]
        if number + 1 < len(asked):  # whole days, or whole months
            assert (end.hour, end.day if step == "monthly" else 1) == (0, 1)


async def test_an_outage_of_weeks_is_asked_for_in_days_and_the_last_days_in_hours() -> None:
    script = Script(ok({"projects": []}))
    async with provider_on(script) as provider:
        await provider.consumption(["p-1"], NOW - timedelta(days=20), NOW)
    asked = [request.url.params for request in script.requests]
    assert [query["granularity"] for query in asked] == ["daily", "hourly"]
    assert asked[0]["to"] == asked[1]["from"]
    assert asked[0]["to"].endswith("T00:00:00Z")


async def test_projects_that_were_all_told_are_not_asked_for_on_another_page() -> None:
    projects = [usage(each, span(0)) for each in ("p-1", "p-2")]
    script = Script(ok({"projects": projects, "pagination": {"cursor": "p-2"}}))
    async with provider_on(script) as provider:
        await provider.consumption(["p-1", "p-2"], NOW - timedelta(hours=2), NOW)
    assert script.count == 1


@pytest.mark.parametrize(
    "body",
    [
        {"projects": [{"project_id": "p-1"}]},
        {"projects": [usage("p-1", {**span(0), "timeframe_start": "yesterday"})]},
        {
            "projects": [
                usage("p-1", {**span(0), "metrics": [{"metric_name": "compute_unit_seconds", "value": "much"}]})
            ]
        },
    ],
)
async def test_consumption_that_cannot_be_read_is_an_error_and_never_nothing(body: dict[str, Any]) -> None:
    async with provider_on(Script(ok(body))) as provider:
        with pytest.raises(ProvisioningFailed, match="not one that this version understands"):
            await provider.consumption(["p-1"], NOW - timedelta(hours=2), NOW)
