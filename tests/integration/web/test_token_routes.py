"""Tokens over REST: never wider than who makes them, and gone at once in every server."""

from __future__ import annotations

from typing import Any

from platform_side import Platform, client, error_of, eventually, fresh, in_ascii, platform_on


async def test_a_users_admin_token_makes_narrower_ones_for_its_own_user_alone(platform: Platform) -> None:
    owner, other = await platform.register(), await platform.register()
    async with platform.holder(owner, "admin", bound=False) as admin:

        async def make(**given: Any) -> Any:
            body = {"user_id": owner.user_id, "scopes": ["mcp"], "expires_in": 3600} | given
            return await admin.post("/api/tokens", json=body)

        made = await make(scopes=["mcp", "explorer", "mcp"], workspace_id=owner.workspace_id)
        assert made.status_code == 201
        assert made.json()["scopes"] == ["mcp", "explorer"]
        assert error_of(await make(scopes=["admin"]), 403)["code"] == "not_allowed"
        assert error_of(await make(scopes=["mcp", "admin"]), 403)["code"] == "not_allowed"
        assert error_of(await make(user_id=other.user_id), 404)["code"] == "not_found"
        assert error_of(await make(workspace_id=other.workspace_id), 404)["code"] == "not_found"
        assert error_of(await make(scopes=[]), 400)["code"] == "invalid_argument"
        assert error_of(await make(expires_in=0), 400)["code"] == "invalid_argument"
        theirs = await platform.token(other)
        assert (await admin.delete(f"/api/tokens/{theirs['id']}")).status_code == 204
        async with client(platform.url, {"Authorization": f"Bearer {theirs['token']}"}) as holder:
            assert (await holder.get(other.agent)).status_code == 200
        assert (await admin.delete(f"/api/tokens/{made.json()['id']}")).status_code == 204
        async with client(platform.url, {"Authorization": f"Bearer {made.json()['token']}"}) as holder:
            assert (await holder.get(owner.agent)).status_code == 401


async def test_an_admin_token_is_of_no_one_workspace(platform: Platform) -> None:
    """It could make tokens for all of them."""
    owner = await platform.register()
    given = {"user_id": owner.user_id, "workspace_id": owner.workspace_id, "scopes": ["admin"]}
    assert error_of(await platform.http.post("/api/tokens", json=given), 400)["code"] == "invalid_argument"
    given["scopes"] = ["mcp", "admin"]
    assert error_of(await platform.http.post("/api/tokens", json=given), 400)["code"] == "invalid_argument"


async def test_a_token_of_a_workspace_reaches_that_one_and_the_global_database(platform: Platform) -> None:
    owner = await platform.register()
    second = fresh().workspace_id
    await platform.http.post("/api/workspaces", json={"workspace_id": second, "user_id": owner.user_id})
    async with platform.holder(owner) as bound, platform.holder(owner, bound=False) as unbound:
        for http, statuses in ((bound, (200, 200, 404)), (unbound, (200, 200, 200))):
            for path, status in zip(
                (owner.agent, owner.shared, f"/api/workspaces/{second}/database"), statuses, strict=True
            ):
                assert (await http.get(path)).status_code == status
                answer = await http.post(f"{path}/execute", json={"sql": "SELECT 1"})
                assert answer.status_code == status


async def test_a_revoked_token_is_refused_at_once_by_another_server(
    platform: Platform, environ: dict[str, str]
) -> None:
    owner = await platform.register()
    token = await platform.token(owner)
    as_holder = {"Authorization": f"Bearer {token['token']}"}
    async with platform_on(environ) as second, client(second.url, as_holder) as holder:
        assert (await holder.get(owner.agent)).status_code == 200
        assert (await platform.http.delete(f"/api/tokens/{token['id']}")).status_code == 204

        async def refused() -> bool:
            return (await holder.get(owner.agent)).status_code == 401

        await eventually(refused, within_s=30)


async def test_a_token_for_nobody_is_not_made(platform: Platform) -> None:
    nobody = fresh()
    given = {"user_id": nobody.user_id, "scopes": ["mcp"]}
    assert error_of(await platform.http.post("/api/tokens", json=given), 404)["code"] == "not_found"
    owner = await platform.register()
    given = {"user_id": owner.user_id, "workspace_id": nobody.workspace_id, "scopes": ["mcp"]}
    assert error_of(await platform.http.post("/api/tokens", json=given), 404)["code"] == "not_found"
    for name in ("a\0b", "\ud800", "line\nbreak", "x" * 201):
        given = {"user_id": owner.user_id, "scopes": ["mcp"], "name": name}
        assert error_of(await platform.http.post("/api/tokens", **in_ascii(given)), 400)["code"] == "invalid_argument"
    assert (await platform.http.delete("/api/tokens/never-was")).status_code == 204
