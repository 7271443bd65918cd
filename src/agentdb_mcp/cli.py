"""The command line. What goes wrong is one line on stderr and exit code 2 (settings) or 1; never a traceback."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from agentdb_mcp.cli_audit import audit
from agentdb_mcp.cli_keys import keys
from agentdb_mcp.cli_lifecycle import users, workspaces
from agentdb_mcp.cli_policy import policy
from agentdb_mcp.cli_running import Json, print_answer, run, settings_of_run
from agentdb_mcp.cli_tokens import tokens
from agentdb_mcp.cli_usage import sync, usage
from agentdb_mcp.errors import AgentDBError, ConfigurationError
from agentdb_mcp.models import Scope

if TYPE_CHECKING:
    from agentdb_mcp.bootstrap import Application

app = typer.Typer(
    help="A Postgres database for every AI agent, over MCP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(users, name="users")
app.add_typer(workspaces, name="workspaces")
app.add_typer(tokens, name="tokens")
app.add_typer(keys, name="keys")
app.add_typer(policy, name="policy")
app.add_typer(audit, name="audit")

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
        print(f"agentdb-mcp: {show().removesuffix('.')}. See `agentdb-mcp --help`.", file=sys.stderr)
        sys.exit(exit_code)
    from agentdb_mcp.logs import get_logger

    get_logger(__name__).error("internal error", exc_info=error)
    sys.exit(70)


@app.command()
def serve(
    scope: Annotated[Scope | None, typer.Option(help="Fix the database; the tools then take no such argument.")] = None,
    http: Annotated[bool, typer.Option("--http", help="Serve all tenants over HTTP, with REST beside MCP.")] = False,
    host: Annotated[str, typer.Option(help="With --http: the address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --http: 0 is a free one.")] = 8000,
    sessions: Annotated[bool, typer.Option("--sessions", help="With --http: keep MCP sessions in memory.")] = False,
    sse: Annotated[bool, typer.Option("--sse", help="With --http: answer MCP as event streams.")] = False,
) -> None:
    """Serve MCP over stdio for the tenant in the environment, or over HTTP for all."""
    settings = settings_of_run()
    if http:
        if scope is not None:
            raise typer.BadParameter("--scope is for stdio; over HTTP there are /mcp/agent and /mcp/global.")
        from agentdb_mcp.cli_http import run_http

        run(
            lambda application: run_http(application, host, port, sessions=sessions, answers="sse" if sse else "json"),
            fast=True,
        )
        return
    from agentdb_mcp.bootstrap import check_serve

    check_serve(settings, scope)

    async def work(application: Application) -> None:
        from agentdb_mcp.mcp_server.stdio import serve_stdio

        await serve_stdio(application.operations(application.tenant), application.policy.limits, scope)

    run(work, fast=True)


@app.command()
def demo(as_json: Json = False) -> None:
    """Tell the whole story on a throw-away stack: two agents, their databases, their walls, their budget."""
    from agentdb_mcp.demo import run_demo

    settings = settings_of_run()
    anyio.run(run_demo, as_json, settings.pg_bin)


@app.command()
def up(
    data_dir: DataDir = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the HTTP server; 0 is a free one.")] = 8765,
    as_json: Json = False,
) -> None:
    """Run the whole product on this machine until SIGTERM."""
    from agentdb_mcp.up import default_data_dir, run_up

    settings = settings_of_run()
    anyio.run(run_up, data_dir or default_data_dir(), port, settings.pg_bin, as_json)


@app.command()
def migrate(as_json: Json = False) -> None:
    """Bring the control database up to date."""

    async def work(application: Application) -> list[str]:
        from agentdb_mcp.store import migrations

        async with application.managed().control.connection() as connection:
            return [f"{step.version:04} {step.name}" for step in await migrations.apply(connection)]

    applied = run(work, migrate=False)
    print_answer({"applied": applied}, f"Applied {', '.join(applied)}." if applied else "Up to date.", as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check settings, keys, reachability and migrations; exit code 1 if something is wrong."""

    async def work(application: Application) -> list[dict[str, Any]]:
        from agentdb_mcp.doctor import examine

        return [finding.as_dict() async for finding in examine(application)]

    findings = run(work, migrate=False)
    marks = {True: "ok   ", False: "WRONG", None: "-    "}
    lines = [
        f"{marks[item['ok']]} {item['check']}: {item['message']}" + (f" {item['hint']}" if item["hint"] else "")
        for item in findings
    ]
    print_answer({"findings": findings}, "\n".join(lines), as_json)
    raise typer.Exit(1 if any(item["ok"] is False for item in findings) else 0)


@app.command("neon-emulator")
def neon_emulator(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is a free one.")] = 0,
    pg: Annotated[
        str | None,
        typer.Option(
            help="A superuser's postgresql:// URL; an embedded one unless given. Others on the machine can read"
            " arguments: one with a password belongs into AGENTDB_EMULATOR_PG."
        ),
    ] = None,
    env_file: Annotated[Path | None, typer.Option(help="Write here what servers' AGENTDB_ENV_FILE needs.")] = None,
) -> None:
    """Run the local Neon API alone until SIGTERM; the first line on stdout says where it is, as JSON."""
    from agentdb_mcp.up import run_emulator

    settings = settings_of_run()
    if pg is None and settings.emulator_pg is not None:
        pg = settings.emulator_pg.reveal()
    anyio.run(run_emulator, port, pg, settings.pg_bin, env_file)


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

    if not run(work):
        raise typer.Exit(1)


@app.command()
def worker() -> None:
    """Run background jobs until SIGTERM; any number of workers share them."""
    from agentdb_mcp.cli_worker import run_worker

    run(run_worker)


app.command()(sync)
app.command()(usage)
