"""What there is to do in the background, and how often."""

from __future__ import annotations

from agentdb_mcp import metrics
from agentdb_mcp.bootstrap import Application
from agentdb_mcp.errors import AgentDBError, NotAllowed
from agentdb_mcp.jobs.worker import Job
from agentdb_mcp.logs import get_logger
from agentdb_mcp.services.reconcile import SETTLED_S, Kind, Mended

log = get_logger(__name__)

USERS_AT_ONCE = 200
# Orphans are rare. Many at once mean that this is the wrong control database, or an old copy of it.
MAX_ORPHANS = 10


async def reconcile(application: Application, *, settled_s: float = SETTLED_S) -> None:
    """Mend what differs between the provider and our rows. Raises the first error, after everything was tried."""
    work = application.managed().reconcile(settled_s=settled_s)
    findings = await work.look()
    for finding in findings:
        metrics.RECONCILED.add(finding.kind.value)
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


async def follow_checkpoints(application: Application) -> None:
    """Drop checkpoints that have expired, and note what is left."""
    await application.managed().checkpoints.follow()


async def sync(application: Application) -> None:
    """Put the provider's figures in the place of estimates."""
    synced = await application.managed().sync().run()
    log.info("consumption synced", projects=synced.projects, hours=synced.hours, error_percent=synced.error_percent)


async def settle_budgets(application: Application) -> None:
    """Begin the periods that are due, pause, resume and move what was not."""
    usage = application.managed().usage
    users = await usage.store.due(usage.clock())
    for start in range(0, len(users), USERS_AT_ONCE):
        await usage.pausing.follow(await usage.budgets.look(users[start : start + USERS_AT_ONCE]))
    await usage.tiers.follow(await usage.store.misplaced())


async def follow_owners(application: Application) -> None:
    """Let who got a workspace on the platform pay for its database."""
    await application.managed().lifecycle.owners.follow()


async def follow_variables(application: Application) -> None:
    """Write the platform's variables that are missing, and replace those of ours that do not fit their owner."""
    await application.managed().lifecycle.variables.follow()


async def prune_ledger(application: Application) -> None:
    """Forget what is older than any history that is asked for, and estimates that were replaced long ago."""
    usage = application.managed().usage
    await usage.ledger.prune(usage.clock())


async def prune_tokens(application: Application) -> None:
    """Forget tokens that ended more than a month ago."""
    await application.managed().tokens.prune()


async def prune_audit(application: Application) -> None:
    """Delete what the policy keeps no longer of the audit log."""
    deleted = await application.managed().audit.prune()
    log.info("audit log pruned", entries=deleted)


JOBS = (
    Job("reconcile", every_s=900, timeout_s=1800, run=reconcile, needs_provider=True),
    Job("sync", every_s=900, timeout_s=1800, run=sync, needs_provider=True),
    Job("checkpoints", every_s=3600, timeout_s=1800, run=follow_checkpoints, needs_provider=True),
    Job("settle-budgets", every_s=60, timeout_s=600, run=settle_budgets),
    Job("owners", every_s=300, timeout_s=600, run=follow_owners),
    Job("variables", every_s=300, timeout_s=600, run=follow_variables),
    Job("prune-ledger", every_s=86_400, timeout_s=1800, run=prune_ledger),
    Job("prune-tokens", every_s=86_400, timeout_s=600, run=prune_tokens),
    Job("prune-audit", every_s=86_400, timeout_s=1800, run=prune_audit),
)


def jobs_of(application: Application) -> list[Job]:
    """What there is to do with these settings. Raises ConfigurationError where there is no control database."""
    provider = application.managed().provider
    return [job for job in JOBS if provider is not None or not job.needs_provider]
