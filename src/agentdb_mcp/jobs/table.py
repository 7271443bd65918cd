"""What there is to do in the background, and how often."""

from __future__ import annotations

from agentdb_mcp.bootstrap import Application
from agentdb_mcp.errors import AgentDBError, NotAllowed
from agentdb_mcp.jobs.worker import Job
from agentdb_mcp.services.reconcile import SETTLED_S, Kind, Mended

# Orphans are rare. Many at once mean that this is the wrong control database, or an old copy of it.
MAX_ORPHANS = 10


async def reconcile(application: Application, *, settled_s: float = SETTLED_S) -> None:
    """Mend what differs between the provider and our rows. Raises the first error, after everything was tried."""
    work = application.managed().reconcile(settled_s=settled_s)
    findings = await work.look()
    orphans = sum(finding.kind is Kind.ORPHAN for finding in findings)
    spared = orphans > MAX_ORPHANS
    errors: list[AgentDBError] = []

    def note(mended: Mended) -> None:
        if mended.error is not None:
            errors.append(mended.error)

    await work.mend([finding for finding in findings if not (spared and finding.kind is Kind.ORPHAN)], note)
    if spared:
        raise NotAllowed(
            f"{orphans} projects that no row wants were not deleted: so many at once need somebody to look.",
            hint="If AGENTDB_CONTROL_URL is right, look with `agentdb-mcp reconcile` and mend with --fix.",
        )
    if errors:
        raise errors[0]


JOBS = (Job("reconcile", every_s=900, timeout_s=1800, run=reconcile, needs_provider=True),)


def jobs_of(application: Application) -> list[Job]:
    """What there is to do with these settings. Raises ConfigurationError where there is no control database."""
    provider = application.managed().provider
    return [job for job in JOBS if provider is not None or not job.needs_provider]
