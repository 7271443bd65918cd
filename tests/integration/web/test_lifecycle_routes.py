"""The platform's backend registers and removes users and workspaces: idempotent, all or nothing, at once everywhere."""

from __future__ import annotations

import anyio
import asyncpg
import httpx
import pytest
from platform_side import Owner, Platform, client, error_of, eventually, fresh, platform_on


async def projects(platform: Platform, name: str) -> list[str]:
    provider = platform.application.managed().provider
    assert provider is not None
    return [project.id for project in await provider.find(name)]


async def test_what_is_created_again_is_answered_as_it_is(platform: Platform) -> None:
    owner = fresh()
    first = await platform.http.post("/api/users", json={"user_id": owner.user_id, "tier": "paid"})
    again = await platform.http.post("/api/users", json={"user_id": owner.user_id})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert first.json() | {"scope": "global", "status": "ready", "user_id": owner.user_id} == first.json()
    usage = (await platform.http.get(f"/api/users/{owner.user_id}/usage")).json()
    assert usage["budget"]["tier"] == "paid"

    given = {"workspace_id": owner.workspace_id, "user_id": owner.user_id, "name": "Research"}
    first = await platform.http.post("/api/workspaces", json=given)
    again = await platform.http.post("/api/workspaces", json=given)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    state = (await platform.http.get(f"/api/users/{owner.user_id}")).json()
    assert [database["scope"] for database in state["databases"]] == ["global", "agent"]


async def test_a_workspace_is_named_by_its_id_where_nobody_names_it(platform: Platform) -> None:
    owner = await platform.register()
    other = fresh().workspace_id
    given = {"workspace_id": other, "user_id": owner.user_id}
    assert (await platform.http.post("/api/workspaces", json=given)).status_code == 201
    usage = (await platform.http.get(f"/api/users/{owner.user_id}/usage")).json()
    assert {share["name"] for share in usage["breakdown"]} == {"global", "Research", other}


@pytest.mark.parametrize("status", [400, 422])
async def test_nothing_is_left_of_a_registration_that_fails(
    platform: Platform, neon: httpx.AsyncClient, status: int
) -> None:
    owner = fresh()
    await neon.post("/faults", json={"method": "POST", "path": "/projects", "status": status})
    answer = await platform.http.post("/api/users", json={"user_id": owner.user_id})
    assert error_of(answer, 503)["code"] == "provisioning_failed"
    assert (await platform.http.get(f"/api/users/{owner.user_id}")).status_code == 404
    await neon.delete("/faults")
    assert (await platform.http.post("/api/users", json={"user_id": owner.user_id})).status_code == 201


async def test_nothing_is_left_of_a_workspace_that_cannot_be_made(platform: Platform, neon: httpx.AsyncClient) -> None:
    owner = await platform.register()
    other = fresh().workspace_id
    await neon.post("/faults", json={"method": "POST", "path": "/projects", "status": 400})
    given = {"workspace_id": other, "user_id": owner.user_id}
    assert error_of(await platform.http.post("/api/workspaces", json=given), 503)
    assert (await platform.http.get(f"/api/workspaces/{other}/database")).status_code == 404
    assert await projects(platform, f"agent-{other}") == []


async def test_a_workspace_needs_its_owner_and_keeps_it(platform: Platform) -> None:
    owner, other = await platform.register(), await platform.register()
    given = {"workspace_id": fresh().workspace_id, "user_id": fresh().user_id}
    assert error_of(await platform.http.post("/api/workspaces", json=given), 400)["code"] == "invalid_argument"
    given = {"workspace_id": owner.workspace_id, "user_id": other.user_id}
    assert error_of(await platform.http.post("/api/workspaces", json=given), 403)["code"] == "not_allowed"


async def test_an_unknown_tier_is_refused_and_the_known_ones_are_named(platform: Platform) -> None:
    owner = fresh()
    error = error_of(await platform.http.post("/api/users", json={"user_id": owner.user_id, "tier": "gold"}), 400)
    assert "enterprise" in error["hint"]
    assert (await platform.http.get(f"/api/users/{owner.user_id}")).status_code == 404


async def test_two_servers_that_register_one_user_at_once_make_one_database(
    platform: Platform, environ: dict[str, str]
) -> None:
    owner, answers = fresh(), list[httpx.Response]()
    async with platform_on(environ) as second:

        async def register(http: httpx.AsyncClient) -> None:
            answers.append(await http.post("/api/users", json={"user_id": owner.user_id}))

        async with anyio.create_task_group() as group:
            for http in (platform.http, second.http) * 3:
                group.start_soon(register, http)
    assert {answer.status_code for answer in answers} <= {200, 201}, [answer.text for answer in answers]
    assert {answer.json()["status"] for answer in answers} == {"ready"}
    assert len(await projects(platform, f"global-{owner.user_id}")) == 1


async def test_a_workspace_is_removed_in_the_background_and_its_status_tells(
    platform: Platform, neon: httpx.AsyncClient
) -> None:
    owner = await platform.register()
    await neon.post("/faults", json={"method": "DELETE", "path": "/projects/*", "delay_before": 1.5, "times": 1})
    path = f"/api/workspaces/{owner.workspace_id}"
    answer = await platform.http.delete(path)
    assert (answer.status_code, answer.json()["status"]) == (202, "deleting")
    assert (await platform.http.get(f"{path}/database")).json()["status"] == "deleting"
    await eventually(lambda: gone(platform.http, f"{path}/database"))
    assert (await platform.http.delete(path)).status_code == 204
    assert await projects(platform, f"agent-{owner.workspace_id}") == []
    assert (await platform.http.get(f"/api/users/{owner.user_id}")).status_code == 200


async def gone(http: httpx.AsyncClient, path: str) -> bool:
    return (await http.get(path)).status_code == 404


async def test_a_user_is_removed_with_everything_and_can_come_again(platform: Platform) -> None:
    owner = await platform.register()
    path = f"/api/users/{owner.user_id}"
    async with platform.holder(owner) as explorer:
        answer = await platform.http.delete(path)
        assert answer.status_code == 202
        assert {each["status"] for each in answer.json()["databases"]} == {"deleting"}
        assert (await explorer.get(f"{path}/usage")).status_code == 401
    await eventually(lambda: gone(platform.http, path))
    assert (await platform.http.delete(path)).status_code == 204
    for scope, owner_id in (("global", owner.user_id), ("agent", owner.workspace_id)):
        assert await projects(platform, f"{scope}-{owner_id}") == []
    assert (await platform.http.post("/api/users", json={"user_id": owner.user_id})).status_code == 201


async def test_deleting_what_never_was_is_done_already(platform: Platform) -> None:
    owner = fresh()
    assert (await platform.http.delete(f"/api/users/{owner.user_id}")).status_code == 204
    assert (await platform.http.delete(f"/api/workspaces/{owner.workspace_id}")).status_code == 204


async def test_what_a_server_began_to_remove_when_it_ended_reconcile_completes(
    platform: Platform, environ: dict[str, str], neon: httpx.AsyncClient
) -> None:
    async with platform_on(environ) as short:
        owner = await short.register()
        await neon.post("/faults", json={"method": "DELETE", "path": "/projects/*", "delay_before": 3})
        assert (await short.http.delete(f"/api/users/{owner.user_id}")).status_code == 202
        await eventually(lambda: was_hit(neon))
    await neon.delete("/faults")
    state = (await platform.http.get(f"/api/users/{owner.user_id}")).json()
    assert {database["status"] for database in state["databases"]} == {"deleting"}
    await mend(platform, owner)
    for scope, owner_id in (("global", owner.user_id), ("agent", owner.workspace_id)):
        assert await projects(platform, f"{scope}-{owner_id}") == []
    answer = await platform.http.delete(f"/api/users/{owner.user_id}")
    assert answer.status_code in (202, 204)
    await eventually(lambda: gone(platform.http, f"/api/users/{owner.user_id}"))


async def was_hit(neon: httpx.AsyncClient) -> bool:
    return any(fault["hits"] for fault in (await neon.get("/faults")).json()["faults"])


async def mend(platform: Platform, owner: Owner) -> None:
    reconcile = platform.application.managed().reconcile(settled_s=0)
    ours = (owner.user_id, owner.workspace_id)
    findings = [each for each in await reconcile.look() if each.project_name.split("-", 1)[1] in ours]
    assert findings
    failed = []
    await reconcile.mend(findings, lambda mended: failed.append(mended.error) if mended.error else None)
    assert failed == []


async def test_a_workspace_whose_client_goes_away_is_made_all_the_same(
    platform: Platform, neon: httpx.AsyncClient
) -> None:
    owner = await platform.register()
    other = Owner(owner.user_id, fresh().workspace_id)
    await neon.post("/faults", json={"method": "POST", "path": "/projects", "delay_before": 0.5, "times": 1})
    async with client(platform.url, dict(platform.http.headers)) as leaving, anyio.create_task_group() as group:

        async def create() -> None:
            await leaving.post("/api/workspaces", json={"workspace_id": other.workspace_id, "user_id": owner.user_id})

        group.start_soon(create)
        await eventually(lambda: was_hit(neon))
        group.cancel_scope.cancel()

    async def ready() -> bool:
        return bool((await platform.http.get(other.agent)).json().get("status") == "ready")

    await eventually(ready)
    assert len(await projects(platform, f"agent-{other.workspace_id}")) == 1


async def test_a_tier_and_a_period_change_the_usage_at_once(platform: Platform) -> None:
    owner = await platform.register()
    path = f"/api/users/{owner.user_id}"
    before = (await platform.http.get(f"{path}/usage")).json()
    assert before["budget"]["limitCents"] == 200
    answer = await platform.http.put(f"{path}/tier", json={"tier": "paid"})
    assert answer.json()["budget"]["limitCents"] == 2000
    answer = await platform.http.put(f"{path}/tier", json={"tier": "enterprise", "custom_budget_cents": 5})
    assert answer.json()["budget"]["limitCents"] == 5
    assert (await platform.http.get(f"{path}/usage")).json()["budget"] == answer.json()["budget"]
    reset = await platform.http.post(f"{path}/period")
    assert reset.status_code == 200
    assert reset.json()["periodStart"] >= before["periodStart"]
    unknown = fresh().user_id
    for answer in (
        await platform.http.put(f"/api/users/{unknown}/tier", json={"tier": "paid"}),
        await platform.http.post(f"/api/users/{unknown}/period"),
        await platform.http.get(f"/api/users/{unknown}/usage"),
        await platform.http.get(f"/api/users/{unknown}/usage/history"),
    ):
        assert error_of(answer, 404)["code"] == "not_found"


async def test_the_history_is_by_day_and_refuses_days_that_are_none(
    platform: Platform, environ: dict[str, str]
) -> None:
    owner = await platform.register()
    path = f"/api/users/{owner.user_id}/usage/history"
    assert (await platform.http.get(path)).json() == {"days": [], "totalCents": 0}
    answer = await platform.http.get(path, params={"from": "2026-01-01", "to": "2026-01-31"})
    assert answer.status_code == 200
    for given in (
        {"from": "2026-02-01", "to": "2026-01-01"},
        {"from": "0001-01-01", "to": "9999-12-31"},
        {"from": "9999-12-31", "to": "9999-12-31"},
        {"from": "yesterday"},
        {"to": "0001-01-01"},
    ):
        answer = await platform.http.get(path, params=given)
        assert answer.status_code in (200, 400), (given, answer.text)
    assert error_of(await platform.http.get(path, params={"from": "2026-02-01", "to": "2026-01-01"}), 400)


async def test_a_sync_tells_how_much_it_read(platform: Platform) -> None:
    await platform.register()
    answer = await platform.http.post("/api/sync")
    assert answer.status_code == 200
    assert answer.json().keys() == {"projects", "hours", "error_percent"}


async def test_ids_that_no_path_could_name_are_refused_before_anything_is_written(
    platform: Platform, environ: dict[str, str]
) -> None:
    connection = await asyncpg.connect(environ["AGENTDB_CONTROL_URL"])
    before = await connection.fetchval('SELECT count(*) FROM "user"')
    for user_id in ("", "a\0b", "a\nb", "x" * 241, "a/b", "..", "."):
        answer = await platform.http.post("/api/users", json={"user_id": user_id})
        assert error_of(answer, 400)["code"] == "invalid_argument", user_id
    assert await connection.fetchval('SELECT count(*) FROM "user"') == before
    await connection.close()
