"""What can be chosen about an emulator: how long things take, what is limited, who the organizations are."""

from __future__ import annotations

from dataclasses import dataclass

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class NewOrganization:
    """`plan` is Neon's word: `free` refuses some settings and has no consumption history."""

    name: str
    plan: str = "agent"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Seconds, all of them; the defaults are Neon's rules at a pace for one machine."""

    operation_seconds: float = 0.02
    cold_start_seconds: float = 0.02
    default_suspend_seconds: float = 300.0
    kept_after_delete_seconds: float = 7 * DAY_S
    # Consumption is read from a copy that is renewed when it is as old as this; Neon's is about 900.
    consumption_lag_seconds: float = 0.0
    size_sample_seconds: float = 60.0
    tick_seconds: float = 0.5
    # Neon's is reported as 700.
    requests_per_minute: int | None = None
    # The first is the one of `Emulator.org_id`; every one gets a key of its own.
    organizations: tuple[NewOrganization, ...] = (NewOrganization("Local"),)
