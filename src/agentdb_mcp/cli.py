"""The command line. What goes wrong is one line on stderr and exit code 2 (settings) or 1; never a traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from agentdb_mcp.cli_policy import policy
from agentdb_mcp.errors import AgentDBError, ConfigurationError
from agentdb_mcp.models import Scope
from agentdb_mcp.settings import Settings, load_settings

if TYPE_CHECKING:
    from agentdb_mcp.bootstrap import Application

app = typer.Typer(
    help="A Postgres database for every AI agent, over MCP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
users = typer.Typer(help="Users and their global databases.", no_args_is_help=True)
workspaces = typer.Typer(help="Workspaces and their agent databases.", no_args_is_help=True)
app.add_typer(users, name="users")
app.add_typer(workspaces, name="workspaces")
app.add_typer(policy, name="policy")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataDir = Annotated[Path | None, typer.Option(help="Keep the data here; made when missing.")]


def _version(asked: bool) -> None:
    if asked:
        from agentdb_mcp import __version__

        print(f"agentdb-mcp {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """A Postgres database for every AI agent, over MCP."""


def main() -> None:
    """Run a command; turn an error into one line."""
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except AgentDBError as error:
        _fail(error)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except Exception as error:  # noqa: BLE001  (the edge: no traceback to a caller)
        if (ours := _find(error)) is not None:
            _fail(ours)
        _usage_error(error)


def _find(error: BaseException) -> AgentDBError | None:
    """Our error in what task groups wrapped it in."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := _find(inner))), None)
    return error if isinstance(error, AgentDBError) else None


def _fail(error: AgentDBError) -> None:
    from agentdb_mcp.logs import scrub_text

    line = error.message if error.message.endswith((".", "?")) else error.message + "."
    print(scrub_text(f"agentdb-mcp: {line} {error.hint or ''}".strip()), file=sys.stderr)
    sys.exit(2 if isinstance(error, ConfigurationError) else 1)


def _usage_error(error: Exception) -> None:
    """Typer's own complaints about options and arguments; anything else is a fault of ours."""
    show, exit_code = getattr(error, "format_message", None), getattr(error, "exit_code", None)
    if show is not None and exit_code is not None:
        print(f"agentdb-mcp: {show()} See `agentdb-mcp --help`.", file=sys.stderr)
        sys.exit(exit_code)
    from agentdb_mcp.logs import get_logger

    get_logger(__name__).error("internal error", exc_info=error)
    sys.exit(70)


def _settings() -> Settings:
    from agentdb_mcp.logs import configure_logging

    settings = load_settings()
    keys = [key for key in (*settings.encryption_keys, settings.service_key) if key is not None]
    keys += [organization.api_key for organization in settings.neon]
    configure_logging(settings.log_format, settings.log_level, keys)
    return settings


def _run(work: Callable[[Application], Awaitable[Any]], *, migrate: bool = True) -> Any:  # noqa: ANN401
    """Run `work` with the application of these settings."""
    settings = _settings()

    async def run() -> Any:  # noqa: ANN401
        from agentdb_mcp.bootstrap import open_application

        async with open_application(settings, migrate=migrate) as application:
            return await work(application)

    return anyio.run(run)


@app.command()
def serve(
    scope: Annotated[Scope | None, typer.Option(help="Fix the database; the tools then take no such argument.")] = None,
) -> None:
    """Serve MCP over stdio for the tenant in the environment."""
    from agentdb_mcp.bootstrap import check_serve

    settings = _settings()
    check_serve(settings, scope)

    async def work(application: Application) -> None:
        from agentdb_mcp.mcp_server.server import build_server
        from agentdb_mcp.mcp_server.stdio import serve_stdio
        from agentdb_mcp.mcp_server.tools import Operations

        usage = application.with_control.usage if application.with_control else None
        operations = Operations(application.tenant, application.queries, usage, application.policy)
        await serve_stdio(build_server(operations, scope))

    _run(work)


@app.command()
def demo(as_json: Json = False) -> None:
    """Tell the whole story on a throw-away stack: two agents, their databases, their walls, their budget."""
    from agentdb_mcp.demo import run_demo

    settings = _settings()
    anyio.run(run_demo, as_json, settings.pg_bin)


@app.command()
def up(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Run the whole product on this machine until SIGTERM."""
    from agentdb_mcp.up import default_data_dir, run_up

    settings = _settings()
    anyio.run(run_up, data_dir or default_data_dir(), settings.pg_bin, as_json)


@app.command()
def migrate(as_json: Json = False) -> None:
    """Bring the control database up to date."""

    async def work(application: Application) -> list[str]:
        from agentdb_mcp.store import migrations

        async with application.managed().control.connection() as connection:
            return [f"{step.version:04} {step.name}" for step in await migrations.apply(connection)]

    applied = _run(work, migrate=False)
    _print({"applied": applied}, f"Applied {', '.join(applied)}." if applied else "Up to date.", as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check settings, keys, reachability and migrations; exit code 1 if something is wrong."""

    async def work(application: Application) -> list[dict[str, object]]:
        from agentdb_mcp.doctor import examine

        return [finding.as_dict() async for finding in examine(application)]

    findings = _run(work, migrate=False)
    marks = {True: "ok   ", False: "WRONG", None: "-    "}
    lines = [
        f"{marks[item['ok']]} {item['check']}: {item['message']}" + (f" {item['hint']}" if item["hint"] else "")
        for item in findings
    ]
    _print({"findings": findings}, "\n".join(lines), as_json)
    raise typer.Exit(1 if any(item["ok"] is False for item in findings) else 0)


@app.command("neon-emulator")
def neon_emulator(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is a free one.")] = 0,
    pg: Annotated[
        str | None, typer.Option(help="A superuser's postgresql:// URL; an embedded one unless given.")
    ] = None,
) -> None:
    """Run the local Neon API alone until SIGTERM; the first line on stdout says where it is, as JSON."""
    from agentdb_mcp.up import run_emulator

    settings = _settings()
    anyio.run(run_emulator, port, pg, settings.pg_bin)


@app.command()
def reconcile(
    fix: Annotated[bool, typer.Option("--fix", help="Carry the plan out.")] = False,
    settled: Annotated[float, typer.Option(min=0, help="Seconds after which nobody is at work any more.")] = 600,
    as_json: Json = False,
) -> None:
    """Compare the provider's projects with our rows. Exit code 1 while something differs."""
    from agentdb_mcp.cli_reconcile import run_reconcile

    async def work(application: Application) -> bool:
        return await run_reconcile(application.managed().reconcile(settled_s=settled), fix=fix, as_json=as_json)

    if not _run(work):
        raise typer.Exit(1)


@app.command()
def worker() -> None:
    """Run background jobs until SIGTERM; any number of workers share them."""
    from agentdb_mcp.cli_worker import run_worker

    _run(run_worker)


@users.command("create")
def create_user(user_id: str, tier: str = "free", as_json: Json = False) -> None:
    """Register a user: a budget and a global database. What exists is left as it is."""

    async def work(application: Application) -> dict[str, object]:
        row = await application.managed().lifecycle.create_user(user_id, tier)
        return {"user_id": user_id, "database": {"status": str(row.status), "project": row.project_name}}

    _print(_run(work), f"User {user_id} has a global database.", as_json)


@users.command("delete")
def delete_user(user_id: str, as_json: Json = False) -> None:
    """Remove a user with all databases."""

    async def work(application: Application) -> dict[str, object]:
        await application.managed().lifecycle.delete_user(user_id)
        return {"user_id": user_id, "deleted": True}

    _print(_run(work), f"User {user_id} is gone.", as_json)


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

    _print(_run(work), f"Workspace {workspace_id} has an agent database.", as_json)


@workspaces.command("delete")
def delete_workspace(workspace_id: str, as_json: Json = False) -> None:
    """Remove a workspace and its database."""

    async def work(application: Application) -> dict[str, object]:
        await application.managed().lifecycle.delete_workspace(workspace_id)
        return {"workspace_id": workspace_id, "deleted": True}

    _print(_run(work), f"Workspace {workspace_id} is gone.", as_json)


def _print(fields: dict[str, Any], text: str, as_json: bool) -> None:
    print(json.dumps(fields) if as_json else text)
