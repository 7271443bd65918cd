"""`worker`: background jobs until SIGTERM or SIGINT; a second signal ends it at once."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from agentdb_mcp.bootstrap import Application
from agentdb_mcp.jobs import Worker, jobs_of
from agentdb_mcp.logs import get_logger
from agentdb_mcp.store.jobs import JobStore

log = get_logger(__name__)


async def run_worker(application: Application) -> None:
    """Raises ConfigurationError where there is no control database."""
    jobs = jobs_of(application)
    worker = Worker(application, JobStore(application.managed().control), jobs)
    async with anyio.create_task_group() as group:
        group.start_soon(_obey_signals, worker, group.cancel_scope)
        log.info("worker started", jobs=[job.name for job in jobs])
        async with _monitored(application):
            await worker.run()
        group.cancel_scope.cancel()
    log.info("worker ended")


@asynccontextmanager
async def _monitored(application: Application) -> AsyncIterator[None]:
    """Metrics on the port of the settings, if there is one."""
    if (listen := application.settings.worker_listen) is None:
        yield
        return
    from agentdb_mcp.web.monitor import build_monitor
    from agentdb_mcp.web.serving import serve_monitor

    app = build_monitor(application.managed(), application.settings.service_key)
    async with serve_monitor(app, *listen, "AGENTDB_WORKER_LISTEN") as url:
        log.info("metrics served", url=f"{url}/metrics")
        yield


async def _obey_signals(worker: Worker, scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            log.info("worker asked to end")
            worker.stop()
            break
        async for _ in signals:
            scope.cancel()
            return
