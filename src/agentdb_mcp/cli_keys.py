"""`keys`: the keys that connection strings are stored under."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from agentdb_mcp.cli_running import Json, print_answer, run

if TYPE_CHECKING:
    from agentdb_mcp.bootstrap import Application
    from agentdb_mcp.services import KeysReport

keys = typer.Typer(help="The keys that connection strings are stored under.", no_args_is_help=True)


@keys.callback()
def _group() -> None:
    """A command of its own name, though it is the only one."""


@keys.command("rotate")
def rotate(
    check: Annotated[bool, typer.Option("--check", help="Count only; change nothing.")] = False, as_json: Json = False
) -> None:
    """Write what older keys wrote anew under the first of AGENTDB_ENCRYPTION_KEYS, while servers run.

    Every server must have the new key by then, first or further behind. Interrupted, run it again: it goes on. Exit
    code 1 if rows are left that are not under the first key.
    """

    async def work(application: Application) -> KeysReport:
        service = application.managed().keys
        return await (service.check() if check else service.rotate(_show))

    report = run(work, quiet=True)
    print_answer(asdict(report) | {"total": report.total}, _words(report), as_json)
    if report.older or report.unreadable:
        raise typer.Exit(1)


def _show(done: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done:,} read", end="", file=sys.stderr, flush=True)


def _words(report: KeysReport) -> str:
    parts = [f"{report.rotated:,} rotated; {report.current:,} of {report.total:,} are under the first key."]
    if report.older:
        parts.append(f"{report.older:,} are under an older key: run `agentdb-mcp keys rotate` (again).")
    if report.unreadable:
        parts.append(
            f"{report.unreadable:,} open with none of the keys: add the key that they were written with at the end of"
            " AGENTDB_ENCRYPTION_KEYS and run it again."
        )
    return "\n".join(parts)
