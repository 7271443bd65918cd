"""Neon's API on bad days: what is repeated, what never is, and what the caller is told. Fakes are at the transport."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from neon_script import CREATED, DATABASES, KEY, MADE, PROJECT, URI, Script, ok, operation, provider_on, refusal

from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.models import Project

PRIVATE = (KEY, "neon.example", "secret detail")


async def failure(script: Script, call: str = "find") -> ProvisioningFailed:
    """The error that a call ends with, seen to hold no secret."""
    async with provider_on(script) as provider:
        calls = {
            "find": lambda: provider.find(PROJECT.name),
            "create": lambda: provider.create(PROJECT.name),
            "delete": lambda: provider.delete(PROJECT.id),
            "access": lambda: provider.access(PROJECT),
            "check": provider.check,
        }
        with pytest.raises(ProvisioningFailed) as failed:
            await calls[call]()
    said = f"{failed.value} {failed.value.hint} {failed.value.as_dict()}"
    assert not [private for private in PRIVATE if private in said]
    assert failed.value.hint
    return failed.value


@pytest.mark.parametrize("status", [423, 429, 503])
@pytest.mark.parametrize("call", ["find", "create", "delete"])
@pytest.mark.usefixtures("without_pauses")
async def test_a_request_that_neon_did_not_begin_is_repeated_whatever_it_is(status: int, call: str) -> None:
    good = {"find": ok({"projects": []}), "create": ok(CREATED, 201), "delete": ok({"project": MADE})}[call]
    script = Script(refusal(status), refusal(status), good)
    async with provider_on(script) as provider:
        await (provider.delete(PROJECT.id) if call == "delete" else getattr(provider, call)(PROJECT.name))
    assert script.count == 3


@pytest.mark.usefixtures("without_pauses")
async def test_a_refusal_that_lasts_is_given_up_and_said_to_be_worth_another_try() -> None:
    script = Script(refusal(429))
    error = await failure(script)
    assert "rate limit" in error.message
    assert "req-1" in error.message
    assert error.retryable
    assert 2 <= script.count <= 10


@pytest.mark.parametrize(
    "value", ["0", "soon", "-1", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 2015 07:28:00", "1e999", "²"]
)
@pytest.mark.usefixtures("without_pauses")
async def test_a_retry_after_that_says_nothing_useful_is_no_obstacle(value: str) -> None:
    unclear = httpx.Response(429, headers=[(b"Retry-After", value.encode("latin-1"))])
    script = Script(unclear, ok({"projects": []}))
    async with provider_on(script) as provider:
        assert await provider.find("x") == []


@pytest.mark.parametrize("status", [500, 502, 504])
@pytest.mark.parametrize("call", ["find", "delete"])
@pytest.mark.usefixtures("without_pauses")
async def test_a_server_fault_is_repeated_where_repeating_changes_nothing(status: int, call: str) -> None:
    script = Script(refusal(status), ok({"projects": []}))
    async with provider_on(script) as provider:
        await (provider.find("x") if call == "find" else provider.delete(PROJECT.id))
    assert script.count == 2


@pytest.mark.parametrize("status", [500, 502, 504])
@pytest.mark.usefixtures("without_pauses")
async def test_a_server_fault_on_creating_is_not_repeated(status: int) -> None:
    script = Script(refusal(status), ok(CREATED, 201))
    error = await failure(script, "create")
    assert (script.count, error.retryable) == (1, True)


@pytest.mark.parametrize(
    "fault",
    [
        httpx.ReadTimeout("secret detail"),
        httpx.WriteTimeout("secret detail"),
        httpx.ReadError("secret detail"),
        httpx.RemoteProtocolError("secret detail"),
    ],
    ids=lambda fault: type(fault).__name__,
)
@pytest.mark.usefixtures("without_pauses")
async def test_creating_with_an_unknown_outcome_is_not_repeated_and_the_way_on_is_told(fault: Exception) -> None:
    script = Script(fault, ok(CREATED, 201))
    error = await failure(script, "create")
    assert script.count == 1
    assert "outcome is unknown" in error.message
    assert "name" in (error.hint or "")
    assert error.retryable


@pytest.mark.parametrize("call", ["find", "delete"])
@pytest.mark.usefixtures("without_pauses")
async def test_a_timeout_is_repeated_where_repeating_changes_nothing(call: str) -> None:
    script = Script(httpx.ReadTimeout("slow"), ok({"projects": []}))
    async with provider_on(script) as provider:
        await (provider.find("x") if call == "find" else provider.delete(PROJECT.id))
    assert script.count == 2


@pytest.mark.parametrize("call", ["find", "create", "delete", "check"])
@pytest.mark.usefixtures("without_pauses")
async def test_an_api_that_cannot_be_reached_is_tried_again_then_named(call: str) -> None:
    script = Script(httpx.ConnectError("secret detail"))
    error = await failure(script, call)
    assert "cannot be reached" in error.message
    assert error.retryable
    assert script.count > 1


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "failed"),
        (401, "API key"),
        (402, "payment"),
        (403, "not allow"),
        (404, "does not know"),
        (409, "failed"),
        (412, "plan"),
        (422, "limit of projects"),
    ],
)
@pytest.mark.parametrize("call", ["find", "create"])
@pytest.mark.usefixtures("without_pauses")
async def test_a_final_refusal_is_said_once_in_our_words(status: int, words: str, call: str) -> None:
    script = Script(refusal(status))
    error = await failure(script, call)
    assert words in error.message
    assert (script.count, error.retryable) == (1, False)


@pytest.mark.parametrize("status", [200, 401, 422, 500])
@pytest.mark.parametrize("call", ["find", "create", "access"])
@pytest.mark.usefixtures("without_pauses")
async def test_a_page_of_html_is_an_error_of_ours(status: int, call: str) -> None:
    await failure(Script(httpx.Response(status, html="<html>secret detail</html>")), call)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{}", id="an empty object"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"project": null, "projects": null, "operations": null}', id="nulls"),
        pytest.param(b'{"project": {}, "projects": [{}], "operations": [{}]}', id="objects without fields"),
    ],
)
@pytest.mark.parametrize("call", ["find", "create", "access"])
@pytest.mark.usefixtures("without_pauses")
async def test_an_answer_that_is_not_neons_is_an_error_of_ours(body: bytes, call: str) -> None:
    """As from another server under NEON_API_HOST: it must not read as `there is no such project`."""
    await failure(Script(httpx.Response(200, content=body)), call)


@pytest.mark.parametrize("call", ["find", "create"])
@pytest.mark.usefixtures("without_pauses")
async def test_a_redirect_is_an_error_of_ours(call: str) -> None:
    """It would take the key to another host, and its empty body is no answer."""
    script = Script(httpx.Response(308, headers={"Location": "https://elsewhere.example/"}))
    await failure(script, call)
    assert script.count == 1


@pytest.mark.usefixtures("without_pauses")
async def test_deleting_what_neon_does_not_know_is_a_success() -> None:
    script = Script(refusal(404))
    async with provider_on(script) as provider:
        await provider.delete(PROJECT.id)
    assert script.count == 1


async def test_every_page_is_read_until_one_is_empty() -> None:
    pages = [
        {"projects": [{**MADE, "id": "p-3", "created_at": "2026-01-03T00:00:00Z"}], "pagination": {"cursor": "c1"}},
        {"projects": [{**MADE, "id": "p-x", "name": "agent-w2"}], "pagination": {"cursor": "c2"}},
        {"projects": [{**MADE, "id": "p-1"}], "pagination": {"cursor": "c3"}},
        {"projects": []},
    ]
    script = Script(*map(ok, pages))
    async with provider_on(script) as provider:
        found = await provider.find(PROJECT.name)
    assert [project.id for project in found] == ["p-1", "p-3"]
    assert [request.url.params.get("cursor") for request in script.requests] == [None, "c1", "c2", "c3"]
    assert {request.url.params["org_id"] for request in script.requests} == {"org-1"}
    assert all(request.url.params["search"] == PROJECT.name for request in script.requests)


@pytest.mark.parametrize("pagination", [{}, {"pagination": {}}, {"pagination": {"cursor": ""}}])
async def test_a_page_without_a_cursor_is_the_last(pagination: dict[str, Any]) -> None:
    script = Script(ok({"projects": [MADE], **pagination}))
    async with provider_on(script) as provider:
        assert len(await provider.find(PROJECT.name)) == 1
    assert script.count == 1


async def test_without_an_organization_none_is_named() -> None:
    script = Script(ok({"projects": []}), ok(CREATED, 201))
    async with provider_on(script, org_id=None) as provider:
        await provider.find("x")
        await provider.create("x")
    assert "org_id" not in script.requests[0].url.params
    assert "org_id" not in json.loads(script.requests[1].content)["project"]


async def test_creating_waits_until_its_operations_have_ended() -> None:
    script = Script(
        ok({**CREATED, "operations": [operation("running"), {**operation("skipped"), "id": "op-2"}]}, 201),
        ok({"operation": operation("scheduling")}),
        ok({"operation": operation("cancelling")}),
        ok({"operation": operation("finished")}),
    )
    async with provider_on(script) as provider:
        assert await provider.create(PROJECT.name) == Project(*MADE_AS_PROJECT)
    paths = [request.url.path for request in script.requests]
    assert paths == ["/api/v2/projects"] + [f"/api/v2/projects/{PROJECT.id}/operations/op-1"] * 3


MADE_AS_PROJECT = (PROJECT.id, PROJECT.name, PROJECT.branch_id, MADE["created_at"], "default")


@pytest.mark.parametrize("status", ["failed", "error", "cancelled"])
async def test_an_operation_that_fails_is_told_and_may_be_tried_again(status: str) -> None:
    script = Script(ok({**CREATED, "operations": [operation("running")]}, 201), ok({"operation": operation(status)}))
    error = await failure(script, "create")
    assert f"start_compute {status}" in error.message
    assert error.retryable


async def test_the_login_of_an_adopted_project_is_asked_for_once_its_operations_have_ended() -> None:
    script = Script(
        ok({"branches": [{"id": "br-old", "default": False}, {"id": "br-main", "default": True}]}),
        ok({"operations": [operation("running")]}),
        ok({"operation": operation("finished")}),
        ok(DATABASES),
        ok(URI),
    )
    async with provider_on(script) as provider:
        access = await provider.access(Project(PROJECT.id, PROJECT.name))
    assert (access.uri.reveal(), access.database_name, access.role_name) == (URI["uri"], "d_1", "o_1")
    assert script.requests[3].url.path.endswith("/branches/br-main/databases")
    assert script.requests[4].url.params["pooled"] == "false"


@pytest.mark.parametrize("branches", [[], [{"id": "br-1", "default": False}]])
async def test_a_project_without_a_default_branch_is_an_error_of_ours(branches: list[dict[str, Any]]) -> None:
    async with provider_on(Script(ok({"branches": branches}))) as provider:
        with pytest.raises(ProvisioningFailed):
            await provider.access(Project(PROJECT.id, PROJECT.name))


async def test_a_project_without_a_database_is_an_error_of_ours() -> None:
    await failure(Script(ok({"operations": []}), ok({"databases": []})), "access")


async def test_names_at_neon_are_opaque_and_never_the_same() -> None:
    script = Script(ok(CREATED, 201))
    async with provider_on(script) as provider:
        await provider.create("agent-workspace-of-grace")
        await provider.create("agent-workspace-of-grace")
    branches = [json.loads(request.content)["project"]["branch"] for request in script.requests]
    assert branches[0].keys() == {"database_name", "role_name"}
    assert "grace" not in json.dumps(branches)
    assert branches[0] != branches[1]


async def test_compute_never_grows_past_what_the_policy_pays_for() -> None:
    script = Script(ok(CREATED, 201))
    async with provider_on(script) as provider:
        await provider.create("x")
    settings = json.loads(script.requests[0].content)["project"]["default_endpoint_settings"]
    assert settings == {"autoscaling_limit_min_cu": 0.25, "autoscaling_limit_max_cu": 0.25}
