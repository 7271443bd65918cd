"""`demo`: the whole story on a throw-away stack, told by real agents over real MCP connections.

Every step checks what it shows; a step that goes otherwise ends the demo with exit code 1.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult, TextContent
from rich.console import Console

from agentdb_mcp.bootstrap import open_application
from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.local_stack import LocalStack, local_stack
from agentdb_mcp.policy import default_path
from agentdb_mcp.settings import load_settings

USER = "ada"
Check = Callable[[dict[str, Any]], object]


class StoryFailed(AgentDBError):
    """A step did not go as told."""


@dataclass(slots=True)
class Story:
    """Prints each step as it happens: for people, or one JSON object a line."""

    as_json: bool
    console: Console = field(default_factory=Console)
    steps: int = 0

    def chapter(self, title: str) -> None:
        if not self.as_json:
            self.console.print(f"\n[bold]{title}[/bold]", highlight=False, soft_wrap=True)

    def step(self, who: str, did: str, answer: str, **fields: object) -> None:
        self.steps += 1
        if self.as_json:
            print(json.dumps({"step": self.steps, "who": who, "did": did, "answer": answer} | fields), flush=True)
            return
        self.console.print(f"  [cyan]{who}[/cyan] {did}", markup=True, highlight=False, soft_wrap=True)
        for line in _plain(answer).splitlines():
            self.console.print(f"      {line}", markup=False, highlight=False, soft_wrap=True, style="dim")


@dataclass(slots=True)
class Agent:
    """One agent: a `serve` process of its own, and its MCP client."""

    name: str
    client: Client
    story: Story

    async def call(self, did: str, tool: str, expect: Check, **arguments: object) -> dict[str, Any]:
        """Call a tool that succeeds, check its answer, tell it."""
        return await self._tell(did, tool, arguments, lambda answer: not answer.is_error, expect)

    async def refused(self, did: str, tool: str, code: str, **arguments: object) -> dict[str, Any]:
        """Call a tool that must fail with this code."""
        return await self._tell(
            did, tool, arguments, lambda answer: answer.is_error, lambda fields: fields["error"]["code"] == code
        )

    async def _tell(
        self, did: str, tool: str, arguments: dict[str, object], right: Callable[[CallToolResult], bool], expect: Check
    ) -> dict[str, Any]:
        answer = await self.client.call_tool(tool, arguments)
        fields: dict[str, Any] = answer.structured_content or {}
        text = "\n".join(block.text for block in answer.content if isinstance(block, TextContent))
        self.story.step(self.name, did, text, tool=tool, arguments=arguments, is_error=answer.is_error, result=fields)
        if not right(answer) or not expect(fields):
            raise StoryFailed(f"The demo went wrong: {self.name} {did}, and the answer was: {text}")
        return fields


async def run_demo(as_json: bool, bin_dir: Path | None) -> None:
    """Tell it all. Raises StoryFailed where reality differs."""
    story, started = Story(as_json), time.monotonic()
    story.chapter("Starting a Postgres and a local Neon API on this machine")
    with tempfile.TemporaryFile("w+") as log:
        async with local_stack(bin_dir=bin_dir) as stack:
            facts = f"Postgres {stack.postgres.version} on 127.0.0.1, nothing provisioned yet"
            story.step("platform", "started", facts)
            async with (
                _agent("research", stack, story, log) as research,
                _agent("support", stack, story, log) as support,
            ):
                await _own_databases(research, support)
                await _shared_database(research, support)
                await _walls(support)
                await _budget(research, stack)
    story.chapter("Done")
    story.step("platform", "stopped everything", f"{story.steps} steps in {time.monotonic() - started:.1f} s")


@asynccontextmanager
async def _agent(name: str, stack: LocalStack, story: Story, log: Any) -> AsyncIterator[Agent]:  # noqa: ANN401
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "agentdb_mcp", "serve"],
        env=_environ(stack) | {"AGENTDB_WORKSPACE_ID": name},
    )
    async with Client(stdio_client(parameters, errlog=log)) as client:
        yield Agent(name, client, story)


def _environ(stack: LocalStack) -> dict[str, str]:
    policy = default_path().with_name("demo.toml")
    return stack.environ() | {"AGENTDB_USER_ID": USER, "AGENTDB_POLICY": str(policy), "AGENTDB_LOG": "warning"}


async def _own_databases(research: Agent, support: Agent) -> None:
    story = research.story
    story.chapter("Two agents call their first tool; each gets a database of its own, made at that moment")
    tools = await research.client.list_tools()
    story.step("research", "asks for the tools", ", ".join(tool.name for tool in tools.tools))
    async with anyio.create_task_group() as group:
        group.start_soon(_research_begins, research)
        group.start_soon(_support_begins, support)
    await research.call(
        "alters its table",
        "execute_sql",
        lambda answer: answer["command_tag"] == "ALTER TABLE",
        sql="ALTER TABLE papers ADD COLUMN year int CHECK (year > 1600)",
    )
    await research.call(
        "updates and reads in one transaction",
        "execute_transaction",
        lambda answer: answer["results"][1]["rows"] == [["Attention Is All You Need", 2017]],
        statements=[
            {"sql": "UPDATE papers SET year = $1 WHERE id = $2", "params": [2017, 1]},
            {"sql": "SELECT title, year FROM papers WHERE year IS NOT NULL"},
        ],
    )
    await support.call(
        "lists its tables",
        "list_objects",
        lambda answer: [item["name"] for item in answer["objects"]] == ["tickets"],
        schema_name="public",
        object_type="table",
    )


async def _research_begins(agent: Agent) -> None:
    await agent.call(
        "creates a table",
        "execute_sql",
        lambda answer: answer["command_tag"] == "CREATE TABLE",
        sql="CREATE TABLE papers (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text NOT NULL)",
    )
    await agent.call(
        "inserts rows",
        "execute_sql",
        lambda answer: answer["row_count"] == 2,
        sql="INSERT INTO papers (title) VALUES ($1), ($2) RETURNING id, title",
        params=["Attention Is All You Need", "The Part-Time Parliament"],
    )
    await agent.call("selects them", "execute_sql", lambda answer: answer["row_count"] == 2, sql="SELECT * FROM papers")


async def _support_begins(agent: Agent) -> None:
    await agent.call(
        "creates another table in its own database",
        "execute_sql",
        lambda answer: answer["command_tag"] == "CREATE TABLE",
        sql="CREATE TABLE tickets (id int PRIMARY KEY, opened timestamptz DEFAULT now(), body jsonb)",
    )


async def _shared_database(research: Agent, support: Agent) -> None:
    research.story.chapter("Both share the user's global database")
    await research.call(
        "writes down what it learned",
        "execute_transaction",
        lambda answer: len(answer["results"]) == 2,
        database="global",
        statements=[
            {"sql": "CREATE TABLE facts (topic text PRIMARY KEY, fact text)"},
            {"sql": "INSERT INTO facts VALUES ('customer 7', 'prefers e-mail')"},
        ],
    )
    await support.call(
        "reads it",
        "execute_sql",
        lambda answer: answer["rows"] == [["customer 7", "prefers e-mail"]],
        database="global",
        sql="SELECT * FROM facts",
    )


async def _walls(support: Agent) -> None:
    support.story.chapter("One agent tries to leave its walls")
    await support.refused("reads the other agent's table", "execute_sql", "sql_error", sql="SELECT * FROM papers")
    await support.refused(
        "looks who else is on the server", "execute_sql", "sql_error", sql="SELECT rolname FROM pg_roles"
    )
    await support.refused(
        "opens a link to another database",
        "execute_sql",
        "statement_refused",
        sql="SELECT dblink_connect('dbname=postgres user=postgres')",
    )
    await support.refused(
        "gives itself a password", "execute_sql", "statement_refused", sql="ALTER ROLE CURRENT_USER PASSWORD 'mine'"
    )
    await support.refused("reads a file", "execute_sql", "statement_refused", sql="SELECT pg_read_file('/etc/passwd')")


async def _budget(research: Agent, stack: LocalStack) -> None:
    story = research.story
    story.chapter("One agent overspends (the demo's prices are raised: the month's $2.00 last seconds)")
    busy = 0
    while (state := (await _state(research)))["state"] not in {"exceeded", "paused"}:
        async with anyio.create_task_group() as group:
            for database in ("agent", "global"):
                arguments = {"sql": "SELECT pg_sleep(0.2)", "database": database}
                group.start_soon(research.client.call_tool, "execute_sql", arguments)
                busy += 1
        if busy > 200:
            raise StoryFailed(f"The demo went wrong: the budget is still {state['state']} after {busy} calls.")
    story.step("research", "keeps both databases busy", f"{busy} calls; the budget is {state['state']}", budget=state)
    await research.refused(
        "writes", "execute_sql", "budget_exceeded", sql="INSERT INTO papers (title) VALUES ('One more')"
    )
    await research.call(
        "reads", "execute_sql", lambda answer: answer["rows"] == [[2]], sql="SELECT count(*)::int FROM papers"
    )
    # What is stored until the period ends counts as well; both are told in whole cents.
    await research.call(
        "asks what is left", "get_budget", lambda answer: answer["remaining_cents"] - answer["committed_cents"] <= 2
    )
    async with open_application(load_settings(_environ(stack))) as application:
        report = await application.managed().usage.reset(USER)
    story.step("platform", "starts a new period, which it tells every server", f"the budget is {report.state}")
    await research.call("asks what is left", "get_budget", lambda answer: answer["state"] == "ok")
    await research.call(
        "writes again",
        "execute_sql",
        lambda answer: answer["command_tag"] == "INSERT 0 1",
        sql="INSERT INTO papers (title) VALUES ('One more')",
    )


async def _state(agent: Agent) -> dict[str, Any]:
    answer = await agent.client.call_tool("get_budget", {})
    fields: dict[str, Any] = answer.structured_content or {}
    return fields


def _plain(text: str) -> str:
    """The answer without the marks around untrusted data, for people to read."""
    return "\n".join(line for line in text.splitlines() if not line.strip("</>").startswith("untrusted-data-"))
