"""A free and a paid organization: where a project goes, where it is found, and how it moves."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from neon_script import CREATED, MADE, PROJECT, Routes, api_on, ok, provider_on, two_organizations

from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.models import ProjectSettings, Secret
from agentdb_mcp.providers.neon import NeonProvider, neon_provider
from agentdb_mcp.providers.neon.organization import Organization
from agentdb_mcp.settings import NeonOrganization

HOME = f"/projects/{PROJECT.id}"
THERE = {f"GET {HOME}": {"project": MADE}}
HISTORY = "GET /consumption_history/v2/projects"
NOW = datetime.now(UTC)


def listing(*made: tuple[str, str]) -> dict[str, Any]:
    items = [{**MADE, "id": identifier, "created_at": f"2026-01-{day}T00:00:00Z"} for identifier, day in made]
    return {"GET /projects": {"projects": items}}


async def test_projects_of_both_are_found_together_oldest_first_and_say_where_they_are() -> None:
    free, paid = Routes(listing(("p-2", "02"), ("p-4", "04"))), Routes(listing(("p-1", "01"), ("p-3", "03")))
    async with two_organizations(free, paid) as provider:
        for found in (await provider.find(PROJECT.name), await provider.projects("agent-")):
            where = [(project.id, project.organization) for project in found]
            assert where == [("p-1", "paid"), ("p-2", "free"), ("p-3", "paid"), ("p-4", "free")]
    assert {request.url.params["org_id"] for request in free.requests} == {"org-free"}
    assert {request.url.params["org_id"] for request in paid.requests} == {"org-paid"}


@pytest.mark.parametrize(("paid", "organization"), [(True, "paid"), (False, "free"), (None, "free")])
async def test_a_new_project_goes_where_it_is_paid_for(paid: bool | None, organization: str) -> None:
    both = {kind: Routes({"POST /projects": ok(CREATED, 201)}) for kind in ("free", "paid")}
    async with two_organizations(both["free"], both["paid"]) as provider:
        created = await provider.create(PROJECT.name, ProjectSettings(paid=paid))
    assert created.organization == organization
    assert {kind: len(routes.requests) for kind, routes in both.items()} == {"free": 0, "paid": 0} | {organization: 1}
    assert json.loads(both[organization].requests[0].content)["project"]["org_id"] == f"org-{organization}"


@pytest.mark.parametrize("home", ["free", "paid"])
@pytest.mark.parametrize("call", ["delete", "resume"])
async def test_a_change_reaches_the_project_where_it_is(call: str, home: str) -> None:
    change = {f"DELETE {HOME}": {"project": MADE}, f"PATCH {HOME}": {"project": MADE, "operations": []}}
    both = {kind: Routes(dict(THERE | change) if kind == home else {}) for kind in ("free", "paid")}
    async with two_organizations(both["free"], both["paid"]) as provider:
        await getattr(provider, call)(PROJECT.id)
    changes = {kind: [made for made in routes.calls if not made.startswith("GET")] for kind, routes in both.items()}
    assert {kind: len(made) for kind, made in changes.items()} == {"free": 0, "paid": 0} | {home: 1}


async def test_a_project_that_neither_knows_is_none_and_deleting_it_a_success() -> None:
    async with two_organizations(Routes({}), Routes({})) as provider:
        assert await provider.get(PROJECT.id) is None
        await provider.delete(PROJECT.id)
        with pytest.raises(ProvisioningFailed, match="does not know"):
            await provider.resume(PROJECT.id)


async def test_an_organization_that_refuses_its_key_is_never_read_as_one_without_the_project() -> None:
    refusing = Routes({f"GET {HOME}": httpx.Response(403, json={})})
    async with two_organizations(refusing, Routes({})) as provider:
        with pytest.raises(ProvisioningFailed, match="not allow"):
            await provider.delete(PROJECT.id)


async def test_a_project_moves_to_the_organization_that_is_named() -> None:
    free, paid = Routes(THERE | {"POST /organizations/org-free/projects/transfer": {}}), Routes({})
    async with two_organizations(free, paid) as provider:
        await provider.move(PROJECT.id, paid=True)
    assert json.loads(free.requests[-1].content) == {"project_ids": [PROJECT.id], "destination_org_id": "org-paid"}
    assert not [made for made in paid.calls if made.startswith("POST")]


async def test_a_project_that_is_there_already_stays() -> None:
    free, paid = Routes({}), Routes(dict(THERE))
    async with two_organizations(free, paid) as provider:
        await provider.move(PROJECT.id, paid=True)
    assert not [made for made in free.calls + paid.calls if not made.startswith("GET")]


async def test_with_one_organization_nothing_moves() -> None:
    routes = Routes({})
    async with provider_on(routes) as provider:
        await provider.move(PROJECT.id, paid=True)
    assert routes.requests == []


async def test_a_project_that_moved_has_used_something_in_both() -> None:
    def used(value: int) -> dict[str, Any]:
        span = {"timeframe_start": "2026-01-01T00:00:00Z", "timeframe_end": "2026-01-01T01:00:00Z"}
        metrics = [{"metric_name": "compute_unit_seconds", "value": value}]
        return {"project_id": "p-1", "periods": [{"consumption": [{**span, "metrics": metrics}]}]}

    free, paid = Routes({HISTORY: {"projects": [used(3)]}}), Routes({HISTORY: {"projects": [used(4)]}})
    async with two_organizations(free, paid) as provider:
        (both,) = await provider.consumption(["p-1"], NOW - timedelta(hours=1), NOW)
    assert (both.compute_cu_seconds, both.egress_bytes) == (Decimal(7), None)


@pytest.mark.parametrize("home", ["free", "paid"])
async def test_a_deleted_project_is_recovered_where_it_was(home: str) -> None:
    answer: dict[str, object] = {f"POST {HOME}/recover": {"project": MADE}}
    both = {kind: Routes(dict(answer) if kind == home else {}) for kind in ("free", "paid")}
    async with two_organizations(both["free"], both["paid"]) as provider:
        assert (await provider.recover(PROJECT.id)).organization == home


async def test_check_asks_with_both_keys() -> None:
    free = Routes({"GET /projects": {"projects": []}})
    async with two_organizations(free, Routes({"GET /projects": httpx.Response(401, json={})})) as provider:
        with pytest.raises(ProvisioningFailed, match="API key"):
            await provider.check()
    assert len(free.requests) == 1


async def test_a_key_that_sees_both_organizations_does_not_confuse_them() -> None:
    routes = Routes({f"GET {HOME}": {"project": {**MADE, "org_id": "org-paid"}}})
    async with api_on(routes) as api:
        provider = NeonProvider([Organization(api, kind, f"org-{kind}", 0.25) for kind in ("free", "paid")])
        found = await provider.get(PROJECT.id)
        await provider.move(PROJECT.id, paid=True)
    assert found is not None
    assert found.organization == "paid"
    assert {made.split()[0] for made in routes.calls} == {"GET"}


async def test_organizations_of_one_key_share_its_rate() -> None:
    keys = [Secret("napi_one"), Secret("napi_one"), Secret("napi_two")]
    organizations = [NeonOrganization("default", key) for key in keys]
    async with neon_provider(base_url="https://neon.example", organizations=organizations, compute_cu=1) as provider:
        first, second, third = (organization.api for organization in provider._organizations)
    assert first is second
    assert first is not third
