"""What commands share: options, the settings of this run, and the application for its time."""

from __future__ import annotations

import gc
import json
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import anyio
import typer
from typer.models import OptionInfo

from agentdb_mcp.settings import Settings, load_settings

if TYPE_CHECKING:
    from agentdb_mcp.bootstrap import Application

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def day_option(words: str) -> OptionInfo:
    """An option that is a day."""
    option: OptionInfo = typer.Option(formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", help=words)
    return option


def settings_of_run(*, quiet: bool = False) -> Settings:
    """Read the environment and begin to log as it says; a quiet command leaves out what goes as usual."""
    from agentdb_mcp.logs import configure_logging

    settings = load_settings()
    level = "warning" if quiet and settings.log_level == "info" else settings.log_level
    configure_logging(settings.log_format, level, settings.secrets)
    return settings


def run(
    work: Callable[[Application], Awaitable[T]], *, migrate: bool = True, quiet: bool = False, fast: bool = False
) -> T:
    """Run `work` with the application of these settings; with `fast` for serving many calls, on uvloop."""
    if fast:
        # The collector of cycles looks after so many new objects instead of 700: an answer of a thousand rows is that
        # many lists, none of them in a cycle, and a third of its time went into looking.
        gc.set_threshold(50_000, 10, 10)
    settings = settings_of_run(quiet=quiet)

    async def with_application() -> T:
        from agentdb_mcp.bootstrap import open_application

        async with open_application(settings, migrate=migrate) as application:
            gc.freeze()  # what stays for good need not be looked at
            return await work(application)

    return anyio.run(with_application, backend_options={"use_uvloop": fast})


def print_answer(fields: dict[str, Any], text: str, as_json: bool) -> None:
    print(json.dumps(fields) if as_json else text)


async def until_asked() -> None:
    """Until SIGTERM or SIGINT."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            return
