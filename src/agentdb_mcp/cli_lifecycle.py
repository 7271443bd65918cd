"""`users` and `workspaces`: who there is, and what they may spend."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from agentdb_mcp.cli_running import Json, print_answer, run

if TYPE_CHECKING:
    from agentdb_mcp.bootstrap import Application
    from agentdb_mcp.models import BudgetReport

users = typer.Typer(help="Users, their global databases and their budgets.", no_args_is_help=True)
workspaces = typer.Typer(help="Workspaces and their agent databases.", no_args_is_help=True)


@users.command("create")
def create_user(user_id: str, tier: str = "free", as_json: Json = False) -> None:
    """Register a user: a budget and a global database. What exists is left as it is."""

    async def work(application: Application) -> dict[str, object]:
        row = await application.managed().lifecycle.create_user(user_id, tier)
        return {"user_id": user_id, "database": {"status": str(row.status), "project": row.project_name}}

    print_answer(run(work), f"User {user_id} has a global database.", as_json)


@users.command("delete")
def delete_user(user_id: str, as_json: Json = False) -> None:
    """Remove a user with all databases."""

    async def work(application: Application) -> dict[str, object]:
        await application.managed().lifecycle.delete_user(user_id)
        return {"user_id": user_id, "deleted": True}

    print_answer(run(work), f"User {user_id} is gone.", as_json)


@users.command("tier")
def set_tier(
    user_id: str,
    tier: str,
    custom_cents: Annotated[
        int | None, typer.Option(min=0, help="A limit of the user's own, in cents; kept unless given.")
    ] = None,
    no_custom: Annotated[bool, typer.Option("--no-custom", help="Back to the tier's limit.")] = False,
    as_json: Json = False,
) -> None:
    """Change a user's tier, and the limit with it. Prints the budget as it is then."""
    if no_custom and custom_cents is not None:
        raise typer.BadParameter("--custom-cents sets a limit and --no-custom lifts it: give one of them.")

    async def work(application: Application) -> BudgetReport:
        usage = application.managed().usage
        custom = custom_cents
        if custom is None and not no_custom:
            custom = next((row.custom_budget_cents for row in await usage.store.read([user_id])), None)
        return await usage.set_tier(user_id, tier, custom)

    _show_budget(run(work, quiet=True), as_json)


@users.command("reset")
def reset(user_id: str, as_json: Json = False) -> None:
    """Begin a new period now. Prints the budget as it is then."""

    async def work(application: Application) -> BudgetReport:
        return await application.managed().usage.reset(user_id)

    _show_budget(run(work, quiet=True), as_json)


@workspaces.command("create")
def create_workspace(
    workspace_id: str,
    user: Annotated[str, typer.Option(help="The user who owns it and pays.")],
    name: Annotated[str | None, typer.Option(help="Shown in reports; the id unless given.")] = None,
    as_json: Json = False,
) -> None:
    """Create a workspace with its agent database. What exists is left as it is."""

    async def work(application: Application) -> dict[str, object]:
        row = await application.managed().lifecycle.create_workspace(workspace_id, user, name or workspace_id)
        return {"workspace_id": workspace_id, "database": {"status": str(row.status), "project": row.project_name}}

    print_answer(run(work), f"Workspace {workspace_id} has an agent database.", as_json)


@workspaces.command("delete")
def delete_workspace(workspace_id: str, as_json: Json = False) -> None:
    """Remove a workspace and its database."""

    async def work(application: Application) -> dict[str, object]:
        await application.managed().lifecycle.delete_workspace(workspace_id)
        return {"workspace_id": workspace_id, "deleted": True}

    print_answer(run(work), f"Workspace {workspace_id} is gone.", as_json)


def _show_budget(report: BudgetReport, as_json: bool) -> None:
    if as_json:
        from agentdb_mcp.services.reports import usage_fields

        print(json.dumps(usage_fields(report)))
    else:
        from agentdb_mcp.cli_tables import budget_table, print_table

        print_table(budget_table(report))
