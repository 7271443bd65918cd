"""Compare the provider's projects with our rows, and mend the difference.

`plan` is pure: what was listed in, findings out. Everything is removed the one way there is (provisioning.remove): an
orphan gets a tombstone first, so that whoever creates the same name meanwhile waits for it like for any other.

A project in which somebody made something is never deleted for being an orphan or a duplicate: after an older copy of
the control database was restored, it is a database that the copy knows nothing of. Its owner's next call takes it over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import anyio

from agentdb_mcp.errors import AgentDBError, NotAllowed, ProvisioningFailed
from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import DatabaseStatus, Ownership, Project, Scope
from agentdb_mcp.providers import Provider
from agentdb_mcp.services.provisioning import Provisioning
from agentdb_mcp.store import DatabaseRow, Inventory

log = get_logger(__name__)

# Longer than any answer of the provider's may take: what is younger may be somebody's work.
SETTLED_S = 600.0
AT_ONCE = 8
_BEGINNING = {DatabaseStatus.PENDING, DatabaseStatus.PROVISIONING}


class Kind(StrEnum):
    """What can be wrong."""

    ORPHAN = "orphan"
    DUPLICATE = "duplicate"
    HALF_MADE = "half-made"
    HALF_DELETED = "half-deleted"
    OWNERLESS = "ownerless"
    LOST = "lost"
    REPLACED = "replaced"
    INTERRUPTED = "interrupted"


_MENDING = {
    Kind.ORPHAN: "no row wants it: delete the project if it holds nothing",
    Kind.DUPLICATE: "the row uses another project of this name: delete this one if it holds nothing",
    Kind.HALF_MADE: "its making was interrupted: complete it",
    Kind.HALF_DELETED: "its deletion was interrupted: complete it",
    Kind.OWNERLESS: "its owner is gone, or archived for too long: delete the database",
    Kind.LOST: "the row's project is gone at the provider: recover it",
    Kind.REPLACED: "the row's project is gone, and a newer one has its name: use that one if it holds anything",
    Kind.INTERRUPTED: "a checkpoint or a restore was interrupted: remove what it left",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference. `project_id` is None where there is no project, `row` where there is no row."""

    kind: Kind
    project_name: str
    scope: Scope
    project_id: str | None = None
    row: DatabaseRow | None = None

    @property
    def mending(self) -> str:
        return _MENDING[self.kind]


@dataclass(frozen=True, slots=True)
class Mended:
    """What became of a finding: `error` is None when it is mended."""

    finding: Finding
    error: AgentDBError | None = None


def plan(
    projects: Sequence[Project],
    rows: Sequence[Inventory],
    now: datetime,
    *,
    settled_s: float = SETTLED_S,
    archived_keep_s: float = 0.0,
) -> list[Finding]:
    """What differs. `projects` must have been listed before `rows`: a row is older than its project.

    The database of an archived workspace is kept for `archived_keep_s`.
    """
    by_name: dict[str, list[Project]] = defaultdict(list)
    for project in projects:
        by_name[project.name].append(project)
    found: list[Finding] = []
    for entry in rows:
        found += _of_row(entry, by_name.pop(entry.row.project_name, []), now, settled_s, archived_keep_s)
    for name, unwanted in by_name.items():
        if (scope := _scope(name)) is not None:
            old = [project for project in unwanted if _settled(project, now, settled_s)]
            found += [Finding(Kind.ORPHAN, name, scope, project.id) for project in old]
    return found


def _of_row(
    entry: Inventory, projects: list[Project], now: datetime, settled_s: float, archived_keep_s: float
) -> Iterator[Finding]:
    row = entry.row
    if entry.leased:
        return
    if (newer := _replacement(entry, projects, now, settled_s)) is not None:
        yield Finding(Kind.REPLACED, row.project_name, row.scope, newer.id, row)
    elif (kind := _unfinished(entry, settled_s, archived_keep_s)) is not None:
        yield Finding(kind, row.project_name, row.scope, row.project_id, row)
    elif row.status is DatabaseStatus.READY and row.ownership is Ownership.PLATFORM:
        if row.project_id is not None and row.project_id not in {project.id for project in projects}:
            yield Finding(Kind.LOST, row.project_name, row.scope, row.project_id, row)
        elif entry.abandoned:
            yield Finding(Kind.INTERRUPTED, row.project_name, row.scope, row.project_id, row)
        for project in projects:
            if project.id != row.project_id and _settled(project, now, settled_s):
                yield Finding(Kind.DUPLICATE, row.project_name, row.scope, project.id, row)


def _replacement(entry: Inventory, projects: list[Project], now: datetime, settled_s: float) -> Project | None:
    """The project that took the place of the row's own after the row was written last: the row is an older copy."""
    row = entry.row
    begun = row.status not in {DatabaseStatus.READY, DatabaseStatus.DELETING} or entry.ownerless
    if begun or row.ownership is not Ownership.PLATFORM or row.project_id in {None, *(each.id for each in projects)}:
        return None
    # Providers tell whole seconds.
    written = (now - timedelta(seconds=entry.idle_s)).replace(microsecond=0)
    return next((each for each in projects if _settled(each, now, settled_s) and _made(each, now) >= written), None)


def _unfinished(entry: Inventory, settled_s: float, archived_keep_s: float) -> Kind | None:
    rests = entry.idle_s >= settled_s
    if entry.row.status is DatabaseStatus.DELETING:
        return Kind.HALF_DELETED if rests else None
    if entry.ownerless or (entry.archived_s is not None and entry.archived_s >= archived_keep_s):
        return Kind.OWNERLESS
    if entry.archived_s is not None:
        return None
    return Kind.HALF_MADE if entry.row.status in _BEGINNING and rests else None


def _settled(project: Project, now: datetime, settled_s: float) -> bool:
    """Old enough; a project that does not tell its age is left alone."""
    return _made(project, now) <= now - timedelta(seconds=settled_s)


def _made(project: Project, now: datetime) -> datetime:
    """When it was made; one that does not tell counts as made in the future."""
    try:
        made = datetime.fromisoformat(project.created_at or "")
    except ValueError:
        return now + timedelta(days=1)
    return made.replace(tzinfo=made.tzinfo or UTC)


def _scope(name: str) -> Scope | None:
    return next((scope for scope in Scope if name.startswith(f"{scope}-")), None)


@dataclass(frozen=True, slots=True)
class Reconcile:
    """Finds differences and mends them; safe to run at any time and from several processes at once."""

    provisioning: Provisioning
    provider: Provider
    settled_s: float = SETTLED_S
    archived_keep_s: float = 0.0

    async def look(self) -> list[Finding]:
        """What differs now; changes nothing. Raises ProvisioningFailed, DatabaseUnavailable."""
        projects = [project for scope in Scope for project in await self.provider.projects(f"{scope}-")]
        rows = await self.provisioning.databases.inventory()
        keep_s = self.archived_keep_s
        return plan(projects, rows, datetime.now(UTC), settled_s=self.settled_s, archived_keep_s=keep_s)

    async def mend(self, findings: Sequence[Finding], tell: Callable[[Mended], None]) -> None:
        """Mend each, several at once, and tell of each; one that fails stops no other and is found again next time."""
        limiter = anyio.CapacityLimiter(AT_ONCE)

        async def one(finding: Finding) -> None:
            async with limiter:
                try:
                    await self._mend(finding)
                except AgentDBError as error:
                    log.warning("not mended", kind=str(finding.kind), project=finding.project_name, code=error.code)
                    tell(Mended(finding, error))
                else:
                    log.info("mended", kind=str(finding.kind), project=finding.project_name)
                    tell(Mended(finding))

        async with anyio.create_task_group() as group:
            for finding in findings:
                group.start_soon(one, finding)

    async def _mend(self, finding: Finding) -> None:
        row = finding.row
        if finding.kind is Kind.ORPHAN:
            await self._remove_orphan(finding)
        elif row is None:
            return
        elif finding.kind is Kind.HALF_MADE and row.owner_id is not None:
            await self.provisioning.ensure(row.scope, row.owner_id)
        elif finding.kind in {Kind.HALF_DELETED, Kind.OWNERLESS}:
            await self.provisioning.remove(row)
        elif finding.kind is Kind.REPLACED:
            await self._replace(row, finding.project_id or "")
        elif finding.kind is Kind.INTERRUPTED:
            await self.provisioning.look_again(row)
        elif finding.project_id is not None and await self._still(row):
            if finding.kind is Kind.LOST:
                await self.provider.recover(finding.project_id)
            else:
                await self._check_empty(finding)
                await self.provider.delete(finding.project_id)

    async def _remove_orphan(self, finding: Finding) -> None:
        databases = self.provisioning.databases
        await self._check_empty(finding)
        tombstone = await databases.entomb(finding.scope, finding.project_name)
        if tombstone is not None:
            await self.provisioning.remove(tombstone)
            await databases.forget(tombstone)

    async def _replace(self, row: DatabaseRow, newer_id: str) -> None:
        if not await self._has_back(row, newer_id):
            await self.provisioning.adopt(row)

    async def _has_back(self, row: DatabaseRow, newer_id: str) -> bool:
        """Recover a ready row's own project if the newer one holds nothing; whether that was done."""
        newer = await self.provider.get(newer_id)
        if row.status is not DatabaseStatus.READY or newer is None or await self.provisioning.holds_anything(newer):
            return False
        try:
            await self.provider.recover(row.project_id or "")
        except ProvisioningFailed as error:
            if error.retryable:
                raise
            return False
        return True

    async def _check_empty(self, finding: Finding) -> None:
        """Raises NotAllowed for a project with somebody's data; of an orphan, all of its name are looked at."""
        for project in await self.provider.find(finding.project_name):
            condemned = finding.kind is Kind.ORPHAN or project.id == finding.project_id
            if condemned and await self.provisioning.holds_anything(project):
                raise NotAllowed(
                    f"Project {project.id} ({project.name}) holds data and was not deleted.",
                    hint="It is of another control database, or was made after this one was saved: then its owner's"
                    " next call takes it over. If it is nobody's, delete it at the provider.",
                )

    async def _still(self, row: DatabaseRow) -> bool:
        """Whether the row is as it was when we looked."""
        now = await self.provisioning.databases.find(row.scope, row.project_name)
        return now is not None and (now.status, now.project_id, now.fence) == (row.status, row.project_id, row.fence)
