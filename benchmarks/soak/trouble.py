"""What goes wrong on purpose: servers killed by turns, Postgres restarted twice, calls to the Neon API that fail."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import anyio
import httpx

from benchmarks.soak.house import FLUSH_S, House, now

KILL_EVERY_S = 60.0
# Of all calls to the local Neon API, half a percent each; the lost answers are of calls that took effect.
SHARE = 0.005
FAULTS: tuple[dict[str, Any], ...] = (
    *({"status": status, "probability": SHARE, "seed": status} for status in (423, 429, 503)),
    {"drop": True, "effect": True, "probability": SHARE, "seed": 7},
)
# What a killed process may lose: an interval, and what a flush takes on a busy machine.
LOSS_S = 2 * FLUSH_S + 1


async def ask_for_faults(house: House) -> None:
    async with httpx.AsyncClient(base_url=house.control_url) as control:
        for fault in FAULTS:
            (await control.post("/faults", json=fault)).raise_for_status()


async def end_faults(house: House) -> int:
    """How many calls failed."""
    async with httpx.AsyncClient(base_url=house.control_url) as control:
        found = (await control.get("/faults")).raise_for_status().json()["faults"]
        (await control.delete("/faults")).raise_for_status()
    return sum(fault["hits"] for fault in found)


@dataclass
class Trouble:
    """The first server is never killed: its memory is what is measured over the whole run."""

    house: House
    seconds: float
    say: Callable[[str], None]
    kills: int = 0
    done: anyio.Event = field(default_factory=anyio.Event)
    _quiet_from: datetime = field(default_factory=now)

    @property
    def every_s(self) -> float:
        return min(KILL_EVERY_S, self.seconds / 8)

    def schedule(self) -> list[tuple[float, str]]:
        """Seconds from the start, and what happens then."""
        every = self.every_s
        beats = [every * number for number in range(1, int(self.seconds / every))]
        planned = [(at, "kill") for at in beats]
        for share, sign in ((1 / 3, "SIGINT"), (2 / 3, "SIGKILL")):
            beat = min(beats, key=lambda at: abs(at - self.seconds * share))
            planned.append((beat + every / 2, sign))
        return sorted(planned)

    async def run(self) -> None:
        """On a machine that is too slow for the schedule, kills are left out."""
        begun = anyio.current_time()
        for at, what in self.schedule():
            behind = anyio.current_time() - begun - at
            await anyio.sleep(max(0.0, -behind))
            if what != "kill":
                await self._restart_postgres(signal.Signals[what])
            elif behind < self.every_s / 2:
                await self._kill()
        self.done.set()

    async def _kill(self) -> None:
        """Not before what was used while the control database was away is stored: that is no kill's loss."""
        await anyio.sleep(max(0.0, (self._quiet_from - now()).total_seconds()))
        victims = self.house.servers[1:]
        server = victims[self.kills % len(victims)]
        self.say(f"killing {server.name}")
        await server.kill()
        await server.start()
        self.kills += 1

    async def _restart_postgres(self, sign: signal.Signals) -> None:
        self.say(f"{sign.name} for Postgres")
        await self.house.cluster.restart(sign)
        for server in self.house.servers:
            await server.until_ready()
        self._quiet_from = now() + timedelta(seconds=2 * LOSS_S)
