"""What the control database says about tenants' databases."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from agentdb_mcp.models import AccessMode, DatabaseStatus, Ownership, Scope


@dataclass(frozen=True, slots=True)
class DatabaseRow:
    """One database as the control database knows it; `uri` is encrypted.

    `last_error` is the code by which making or removing it failed last, `leased` whether somebody does it now.
    """

    id: str
    scope: Scope
    owner_id: str | None
    user_id: str | None
    project_name: str
    status: DatabaseStatus
    ownership: Ownership
    access_mode: AccessMode
    project_id: str | None
    branch_id: str | None
    uri: str | None
    database_name: str | None
    role_name: str | None
    generation: int
    fence: int
    paused: bool | None = False
    last_error: str | None = None
    leased: bool = False
    checkpoint_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to change one row until the lease ends or somebody else claims it."""

    row: DatabaseRow
    fence: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """A row as `reconcile` sees it: whether somebody works on it, since when it rests, whether its owner is gone.

    `archived_s` is for how long its workspace has been archived; None if it is not. `abandoned` is a lease that ended
    by itself: whoever held it was interrupted.
    """

    row: DatabaseRow
    leased: bool
    idle_s: float
    ownerless: bool
    archived_s: float | None = None
    abandoned: bool = False


@dataclass(frozen=True, slots=True)
class BilledDatabase:
    """A database whose projects' consumption is asked for; `synced` is until when it is known."""

    database_id: str
    project_ids: tuple[str, ...]
    user_id: str | None
    created_at: datetime
    synced: datetime | None
