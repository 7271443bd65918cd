"""`audit`: whether the log of what callers did is as it was written, and a user's part of it as a file."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentdb_mcp.cli_running import Json, day_option, run

if TYPE_CHECKING:
    from agentdb_mcp.bootstrap import Application
    from agentdb_mcp.store import Verified

audit = typer.Typer(help="The log of what callers did.", no_args_is_help=True)


class Format(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"


@audit.command("verify")
def verify(
    user_id: Annotated[str | None, typer.Argument(help="Everybody unless given.")] = None, as_json: Json = False
) -> None:
    """Walk the chains. Exit code 1 names the first entry of each that is not as it was written."""

    async def work(application: Application) -> list[Verified]:
        return [each async for each in application.managed().audit.verify(user_id)]

    verified = run(work, quiet=True)
    if as_json:
        print(json.dumps(_fields(verified)))
    else:
        print("\n".join(_lines(verified)))
    if any(each.broken is not None for each in verified):
        raise typer.Exit(1)


def _fields(verified: list[Verified]) -> dict[str, Any]:
    return {
        "users": len(verified),
        "entries": sum(each.entries for each in verified),
        "broken": [
            {"user_id": each.broken.user_id, "sequence": each.broken.sequence, "what": each.broken.what}
            for each in verified
            if each.broken is not None
        ],
        "chains": [
            {"user_id": each.chain.user_id, "sequence": each.chain.sequence, "hash": each.chain.hash.hex()}
            for each in verified
        ],
    }


def _lines(verified: list[Verified]) -> Iterator[str]:
    broken = [each.broken for each in verified if each.broken is not None]
    for each in broken:
        yield f"User {each.user_id}: entry {each.sequence} {each.what}."
    intact = [each for each in verified if each.broken is None]
    if intact or not broken:
        entries = sum(each.entries for each in intact)
        yield f"Users whose log is as it was written: {len(intact)}, with {entries} entries."


@audit.command("export")
def export(
    user_id: str,
    since: Annotated[
        datetime | None, day_option("From this day on (UTC); the oldest that is kept unless given.")
    ] = None,
    until: Annotated[datetime | None, day_option("Up to this day (UTC); the newest unless given.")] = None,
    form: Annotated[Format, typer.Option("--format", help="JSON objects in lines, or CSV.")] = Format.JSONL,
) -> None:
    """Write a user's entries to stdout, the oldest first."""
    first = None if since is None else since.replace(tzinfo=UTC)
    last = None if until is None else _after(until.replace(tzinfo=UTC))

    async def work(application: Application) -> None:
        from agentdb_mcp.services.audit_fields import entry_fields

        write = _Writer(form)
        async for entry in application.managed().audit.between(user_id, first, last):
            write.line(entry_fields(entry))
        write.end()

    try:
        run(work, quiet=True)
    except BrokenPipeError:  # the reader has enough; what is left in the buffer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _after(day: datetime) -> datetime:
    """The beginning of the next day, or as late as there is."""
    return min(day, datetime.max.replace(tzinfo=UTC) - timedelta(days=1)) + timedelta(days=1)


class _Writer:
    """Lines on stdout, as they come."""

    def __init__(self, form: Format) -> None:
        self._form = form
        self._begun = False

    def line(self, fields: dict[str, Any]) -> None:
        if self._form is Format.JSONL:
            print(json.dumps(fields))
            return
        if not self._begun:
            self._row(list(fields))
        self._row([json.dumps(value) if isinstance(value, list) else value for value in fields.values()])

    def _row(self, values: list[Any]) -> None:
        self._begun = True
        text = io.StringIO()
        csv.writer(text).writerow(values)
        sys.stdout.write(text.getvalue())

    def end(self) -> None:
        sys.stdout.flush()
