"""Keeping, going back and trying, as an agent meets them: good and bad arguments to a running `serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentdb_mcp.local_stack import LocalStack

if TYPE_CHECKING:
    from tests.acceptance.conftest import Serve, ServeFactory


async def test_an_agent_keeps_its_database_looks_what_it_would_lose_and_goes_back(agent: Serve) -> None:
    await agent.sql("CREATE TABLE plan AS SELECT 'before' AS text")
    none = await agent.call("list_checkpoints")
    assert (none.fields["checkpoints"], none.fields["month_cents"], none.fields["most"]) == ([], 0, 5)
    made = await agent.call("create_checkpoint", name="safe <place>")
    kept = made.fields["checkpoint"]
    assert kept["month_cents"] > 0
    assert made.fields["next"]["month_cents"] > 0
    assert "a month" in made.text
    again = await agent.call("create_checkpoint", name="safe <place>")
    assert again.code == "invalid_argument"
    listed = await agent.call("list_checkpoints")
    assert listed.fields["checkpoints"] == [kept]
    assert "untrusted-data" in listed.text
    await agent.sql("UPDATE plan SET text = 'after'")
    asked = await agent.call("restore_checkpoint", checkpoint="safe <place>")
    assert asked.fields["restored"] is False
    assert asked.fields["checkpoint"] == kept
    for told in ("Nothing was changed", kept["created_at"], "confirm=true", "running statements"):
        assert told in asked.text
    assert (await agent.sql("SELECT text FROM plan")).rows == [["after"]]
    done = await agent.call("restore_checkpoint", checkpoint=kept["id"], confirm=True)
    assert done.fields["restored"] is True
    assert (await agent.sql("SELECT text FROM plan")).rows == [["before"]]
    deleted = await agent.call("delete_checkpoint", checkpoint=kept["id"])
    assert deleted.fields["deleted"]["id"] == kept["id"]
    assert (await agent.call("list_checkpoints")).fields["checkpoints"] == []


async def test_an_agent_tries_a_migration_and_finds_its_schema_as_it_was(agent: Serve) -> None:
    await agent.sql("CREATE TABLE tried (id integer)")
    statements = [
        {"sql": "ALTER TABLE tried ADD COLUMN name text DEFAULT $1", "params": []},
        {"sql": "CREATE INDEX by_id ON tried (id)"},
    ]
    failed = await agent.call("try_migration", statements=statements)
    assert failed.fields["succeeded"] is False
    assert [step["outcome"] for step in failed.fields["statements"]] == ["failed", "not run"]
    statements[0] = {"sql": "ALTER TABLE tried ADD COLUMN name text NOT NULL DEFAULT 'x'"}
    tried = await agent.call("try_migration", statements=statements)
    assert tried.fields["succeeded"] is True
    assert [change["name"] for change in tried.fields["changes"]["added"]] == ["public.tried.name", "public.by_id"]
    assert "rolled back" in tried.fields["way"]
    assert (await agent.sql("SELECT count(*) FROM pg_indexes WHERE indexname = 'by_id'")).rows == [[0]]
    refused = await agent.call("try_migration", statements=[{"sql": "VACUUM tried"}])
    assert refused.code == "statement_refused"


async def test_a_database_that_was_brought_can_be_tried_on_but_not_kept(serve: ServeFactory, stack: LocalStack) -> None:
    async with serve({"AGENT_DB_URL": stack.postgres.uri().reveal()}) as server:
        tried = await server.call("try_migration", statements=[{"sql": "CREATE TABLE never (id integer)"}])
        assert tried.fields["succeeded"] is True
        assert (await server.sql("SELECT to_regclass('never')")).rows == [[None]]
        for tool, arguments in (
            ("create_checkpoint", {}),
            ("list_checkpoints", {}),
            ("restore_checkpoint", {"checkpoint": "x", "confirm": True}),
            ("delete_checkpoint", {"checkpoint": "x"}),
        ):
            answer = await server.call(tool, **arguments)
            assert answer.code == "not_allowed", tool
            assert "brought by its URL" in answer.text
