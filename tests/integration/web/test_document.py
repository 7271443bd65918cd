"""The OpenAPI document says what is so: examples validate, and generated requests get no answer outside of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from typing import Any

import anyio.to_thread
import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from platform_side import AS_SERVICE, Owner, Platform, from_afar
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi_checks

from agentdb_mcp.costs import MICROCENTS_PER_CENT
from agentdb_mcp.models import BudgetReport, BudgetState, DatabaseCost, DayCost, Scope
from agentdb_mcp.services import reports
from agentdb_mcp.services.sync import Synced
from agentdb_mcp.web.answers import SyncResult
from agentdb_mcp.web.usage_answers import History, UsageReport

# `make rest-fuzz` asks for more, and for others.
EXAMPLES = int(os.environ.get("AGENTDB_REST_EXAMPLES", "2"))
SEED = int(os.environ.get("AGENTDB_REST_SEED", "20261101"))
CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def document(platform: Platform) -> dict[str, Any]:
    found: dict[str, Any] = platform.app.openapi()
    return found


@pytest.fixture(scope="module")
async def owner(platform: Platform) -> Owner:
    owner = await platform.register()
    async with platform.holder(owner) as explorer:
        for base in (owner.agent, owner.shared):
            sql = "CREATE TABLE notes (id bigint PRIMARY KEY, body jsonb, at timestamptz DEFAULT now())"
            assert (await explorer.post(f"{base}/execute", json={"sql": sql})).status_code == 200
            sql = "INSERT INTO notes SELECT i, '{}' FROM generate_series(1, 3) AS i"
            assert (await explorer.post(f"{base}/execute", json={"sql": sql})).status_code == 200
    return owner


def contents(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every body and every answer: where it is, and its media type's object."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            described = operation["responses"] | {"body": operation.get("requestBody", {})}
            for name, each in described.items():
                for kind, content in each.get("content", {}).items():
                    yield f"{method} {path} {name} {kind}", content


def test_every_body_and_every_answer_has_examples_that_validate(document: dict[str, Any]) -> None:
    seen = 0
    for where, content in contents(document):
        schema = content.get("schema", {})
        name = schema.get("$ref", "").rpartition("/")[2]
        model = document["components"]["schemas"].get(name, {})
        examples = model.get("examples", []) + [content[key] for key in ("example",) if key in content]
        assert examples, where
        rooted = (schema or {}) | {"components": document["components"]}
        validator = Draft202012Validator(rooted)
        for example in examples:
            validator.validate(example)
            seen += 1
    assert seen > 100


def test_every_operation_says_who_may_call_it(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            ways = operation.get("security", [])
            assert bool(ways) != (path in {"/healthz", "/readyz"}), (method, path)
            assert {name for way in ways for name in way} <= schemes.keys()


def test_reports_leave_as_they_are(document: dict[str, Any]) -> None:
    """The typed answers are the command line's fields, no more and no less."""
    databases = [
        DatabaseCost(Scope.GLOBAL, "global", 3 * MICROCENTS_PER_CENT, cents=3, size_bytes=9),
        DatabaseCost(Scope.AGENT, "Notes", MICROCENTS_PER_CENT, "w1", 1, 10**12),
    ]
    for state in BudgetState:
        report = BudgetReport(
            10**9, 4 * MICROCENTS_PER_CENT, state, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "x"
        )
        fields = reports.usage_fields(report) | {
            "breakdown": reports.usage_fields(_with(report, databases))["breakdown"]
        }
        assert UsageReport(**fields).model_dump(mode="json", by_alias=True, exclude_unset=True) == fields
    fields = reports.history_fields([DayCost(date(2026, 11, 2), each) for each in databases])
    assert History(**fields).model_dump(mode="json", by_alias=True, exclude_unset=True) == fields
    for estimated, billed in ((0, 0), (5, 4)):
        fields = reports.sync_fields(Synced(3, 12, estimated, billed))
        assert SyncResult(**fields).model_dump(mode="json", exclude_unset=True) == fields


def _with(report: BudgetReport, databases: list[DatabaseCost]) -> BudgetReport:
    return replace(report, by_database=tuple(databases))


def with_ids(value: Any, owner: Owner) -> Any:
    """The document's examples, about somebody who is there."""
    known = {"u1": owner.user_id, "w1": owner.workspace_id}
    if isinstance(value, dict):
        return {key: with_ids(item, owner) for key, item in value.items()}
    if isinstance(value, list):
        return [with_ids(item, owner) for item in value]
    return known.get(value, value) if isinstance(value, str) else value


class Fuzz:
    """Requests made up from the document, of one caller."""

    def __init__(self, platform: Platform, document: dict[str, Any], headers: dict[str, str], owner: Owner) -> None:
        self.platform = platform
        self.document = document
        self.headers = headers
        self.owner = owner
        self.statuses: dict[str, set[int]] = {}

    def run(self) -> None:
        schema = schemathesis.openapi.from_dict(self.document)
        for found in schema.get_all_operations():
            operation = found.ok()
            for mode in schemathesis.GenerationMode:
                try:
                    cases = operation.as_strategy(generation_mode=mode)
                    self._run(operation, cases)
                except hypothesis.errors.Unsatisfiable:  # nothing of it can be wrong
                    assert mode is schemathesis.GenerationMode.NEGATIVE
                except BaseException as error:
                    error.add_note(f"{operation.label}, {mode}")
                    raise

    def _run(self, operation: Any, cases: st.SearchStrategy[Any]) -> None:
        @hypothesis.seed(SEED)
        @hypothesis.settings(
            max_examples=EXAMPLES,
            database=None,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
        )
        @hypothesis.given(cases, st.booleans(), st.booleans())
        def one(case: Any, about_owner: bool, of_example: bool) -> None:
            self._send(operation, case, about_owner, of_example)

        one()

    def _send(self, operation: Any, case: Any, about_owner: bool, of_example: bool) -> None:
        if about_owner and case.method != "DELETE":
            for name, value in (("user_id", self.owner.user_id), ("workspace_id", self.owner.workspace_id)):
                if case.path_parameters and name in case.path_parameters:
                    case.path_parameters[name] = value
            if case.query and "workspaceId" in case.query:
                case.query["workspaceId"] = self.owner.workspace_id
        if of_example and case.media_type == "application/json":
            name = self.document["paths"][case.path][case.method.lower()]["requestBody"]["content"]
            model = name["application/json"]["schema"]["$ref"].rpartition("/")[2]
            case.body = with_ids(self.document["components"]["schemas"][model]["examples"][0], self.owner)
        answer = case.call(base_url=self.platform.url, headers=self.headers | from_afar(), timeout=30)
        case.validate_response(answer, checks=CHECKS)
        self.statuses.setdefault(operation.label, set()).add(answer.status_code)


@pytest.mark.parametrize(
    "caller",
    [
        "service",
        "nobody",
        pytest.param("explorer", marks=pytest.mark.long),
        pytest.param("admin", marks=pytest.mark.long),
    ],
)
async def test_generated_requests_get_no_answer_outside_the_document(
    platform: Platform, document: dict[str, Any], owner: Owner, caller: str
) -> None:
    headers = {"service": AS_SERVICE, "nobody": {"Authorization": "Bearer nobody"}}.get(caller)
    if headers is None:
        token = (await platform.token(owner, caller, bound=False))["token"]
        headers = {"Authorization": f"Bearer {token}"}
    fuzz = Fuzz(platform, document, headers, owner)
    await anyio.to_thread.run_sync(fuzz.run)
    succeeded = {label for label, statuses in fuzz.statuses.items() if statuses & {200, 201, 202, 204}}
    assert len(succeeded) >= {"service": 12, "explorer": 12, "admin": 5, "nobody": 2}[caller], fuzz.statuses
