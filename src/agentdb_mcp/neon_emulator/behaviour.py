"""What can be chosen about an emulator: how long things take, what is limited, who the organizations are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class NewOrganization:
    """`plan` is Neon's word: `free` refuses some settings and has no consumption history."""

    name: str
    plan: str = "agent"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Times are seconds; the defaults are Neon's rules at a pace for one machine."""

    # What the clock shows at the start, with its offset; None is the machine's time. It is not kept over restarts.
    start_at: datetime | None = None
    operation_seconds: float = 0.02
    cold_start_seconds: float = 0.02
    default_suspend_seconds: float = 300.0
    kept_after_delete_seconds: float = 7 * DAY_S
    # Consumption is read from a copy that is renewed when it is as old as this; Neon's is about 900.
    consumption_lag_seconds: float = 0.0
    size_sample_seconds: float = 60.0
    tick_seconds: float = 0.5
    # Whether URIs have hosts such as ep-….localhost; None is where these lead to this machine. Elsewhere the endpoint
    # stands in the URI's options.
    named_hosts: bool | None = None
    # Neon's is reported as 700.
    requests_per_minute: int | None = None
    # The first is the one of `Emulator.org_id`; every one gets a key of its own.
    organizations: tuple[NewOrganization, ...] = (NewOrganization("Local"),)

    def __post_init__(self) -> None:
        if self.start_at is not None and self.start_at.tzinfo is None:
            raise ValueError("start_at needs an offset, such as 2027-01-01T00:00:00+00:00")
