"""What an operator counts, as Prometheus reads it."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Any

import anyio
import pytest
from platform_side import Owner, Platform
from prometheus_client.parser import text_string_to_metric_families

from agentdb_mcp import metrics
from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import Scope, Tenant

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scraped(platform: Platform) -> Samples:
    answer = await platform.http.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


async def test_calls_are_counted_by_tool_and_outcome_and_their_time_is_spread(platform: Platform, owner: Owner) -> None:
    before = await scraped(platform)
    run = platform.application.queries.execute
    tenant = Tenant(owner.user_id, owner.workspace_id)
    await run(tenant, Scope.AGENT, [Statement("SELECT 1")])
    for sql in ("SELECT nothing", "COPY t TO STDOUT"):
        with pytest.raises(AgentDBError):
            await run(tenant, Scope.AGENT, [Statement(sql)])
    after = await scraped(platform)

    def rise(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert rise("agentdb_calls_total", source="mcp", tool="", outcome="ok") == 1
    assert rise("agentdb_calls_total", source="mcp", tool="", outcome="sql_error") == 1
    assert rise("agentdb_calls_total", source="mcp", tool="", outcome="statement_refused") == 1
    assert rise("agentdb_refused_total", code="statement_refused", kinds="server") == 1
    assert rise("agentdb_call_seconds_count", source="mcp", tool="") == 3
    assert rise("agentdb_call_seconds_bucket", source="mcp", tool="", le="+Inf") == 3
    assert rise("agentdb_call_seconds_bucket", source="mcp", tool="", le="0.001") < 3
    assert value(after, "agentdb_provisioning_total", work="make", outcome="done") >= 1
    assert rise("agentdb_connection_wait_seconds_count") >= 2
    assert value(after, "agentdb_connection_open_seconds_count") >= 1
    assert value(after, "agentdb_connections_limit") >= value(after, "agentdb_connections") >= 1
    assert value(after, "agentdb_connection_waiting") == 0
    assert value(after, "agentdb_neon_requests_total", method="POST", status="201") >= 1
    assert value(after, "agentdb_neon_request_seconds_count", method="POST") >= 1
    assert rise("agentdb_http_answers_total", status="200") >= 1
    assert value(after, "agentdb_audit_waiting") >= 0
    assert value(after, "agentdb_databases", status="ready") >= 1
    assert value(after, "agentdb_budgets", state="ok") >= 1
    assert value(after, "agentdb_control_database_up") == 1


async def test_a_backend_that_is_ended_is_counted(platform: Platform, owner: Owner) -> None:
    tenant = Tenant(owner.user_id, owner.workspace_id)
    await platform.application.queries.execute(tenant, Scope.AGENT, [Statement("SELECT 1")])  # opens the session
    before = await scraped(platform)
    with anyio.move_on_after(0.5):
        await platform.application.queries.execute(tenant, Scope.AGENT, [Statement("SELECT pg_sleep(10)")])
    after = await scraped(platform)
    assert (
        value(after, "agentdb_watchdog_killed_total", outcome="ended")
        - value(before, "agentdb_watchdog_killed_total", outcome="ended")
        == 1
    )
    assert value(after, "agentdb_calls_total", source="mcp", tool="", outcome="cancelled") >= 1


async def test_no_label_names_anybody(platform: Platform, owner: Owner) -> None:
    tenant = Tenant(owner.user_id, owner.workspace_id)
    secret = secrets.token_hex(8)
    with pytest.raises(AgentDBError):
        await platform.application.queries.execute(
            tenant, Scope.AGENT, [Statement(f"SELECT '{secret}' FROM {secret}x")]
        )
    text = (await platform.http.get("/metrics")).text
    for name in (owner.user_id, owner.workspace_id, secret, "postgresql://"):
        assert name not in text


SHIPPED = Path(__file__).parents[3] / "deploy"


def queries() -> list[Any]:
    """Every query of the dashboard and of the alerts, with where it stands."""
    dashboard = json.loads((SHIPPED / "grafana-dashboard.json").read_text())
    found = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]]
    alerts = json.loads((SHIPPED / "prometheus-alerts.json").read_text())
    found += [(rule["alert"], rule["expr"]) for group in alerts["groups"] for rule in group["rules"]]
    return [pytest.param(query, id=name) for name, query in found]


DECLARED = {each.name: each for each in (*metrics.COUNTERS, *metrics.GAUGES, *metrics.HISTOGRAMS)}


@pytest.mark.parametrize("query", queries())
async def test_a_dashboard_or_an_alert_names_only_what_is_counted(platform: Platform, query: str) -> None:
    text = (await platform.http.get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    names = set(re.findall(r"\bagentdb_[a-z_]+|process_[a-z_]+", query))
    assert names
    known = {"le", "instance", "job"}  # `job` is also what Prometheus calls a scrape
    for name in names:
        family = re.sub(r"_(total|bucket|count|sum)$", "", name) if name not in families else name
        assert family in families, name
        assert name.endswith("_total") == (families[family].type == "counter"), name
        assert name.endswith("_bucket") == (families[family].type == "histogram"), name
        known |= {label for sample in families[family].samples for label in sample.labels}
        known |= set(DECLARED[family].labels) if family in DECLARED else set()
    by = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", query) for label in group.split(",")}
    assert by | set(re.findall(r"[{,]\s*([a-z_]+)\s*(?:=|!=|=~|!~)", query)) <= known


@pytest.mark.parametrize("name", DECLARED)
def test_what_is_counted_is_told_to_operators(name: str) -> None:
    counted = f"{name}_total" if name in {each.name for each in metrics.COUNTERS} else name
    labels = ",".join(DECLARED[name].labels)
    shown = f"`{counted}{{{labels}}}`" if labels else f"`{counted}`"
    assert shown in (SHIPPED.parent / "docs" / "operating.md").read_text()
