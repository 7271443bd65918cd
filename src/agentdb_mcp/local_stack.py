"""Everything that a cloud would give, on this machine: embedded Postgres, the local Neon API, a control database."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from agentdb_mcp.embedded import EmbeddedPostgres, embedded_postgres
from agentdb_mcp.models import Secret
from agentdb_mcp.neon_emulator import Behaviour, Emulator, neon_emulator
from agentdb_mcp.store.control import create_database

CONTROL_DATABASE = "agentdb_control"


@dataclass(frozen=True, slots=True)
class LocalStack:
    """Running parts, and the environment with which any of our commands uses them."""

    postgres: EmbeddedPostgres
    emulator: Emulator
    encryption_key: Secret
    service_key: Secret

    def environ(self) -> dict[str, str]:
        """Secrets included: for a child process or `load_settings`, never for printing."""
        return {
            "AGENTDB_CONTROL_URL": self.postgres.uri(CONTROL_DATABASE).reveal(),
            "AGENTDB_ENCRYPTION_KEYS": self.encryption_key.reveal(),
            "AGENTDB_SERVICE_KEY": self.service_key.reveal(),
        } | neon_environ(self.emulator)


def neon_environ(emulator: Emulator) -> dict[str, str]:
    """What a server needs of the local Neon API, its key included."""
    return {"NEON_API_HOST": emulator.base_url, "NEON_API_KEY": emulator.api_key, "NEON_ORG_ID": emulator.org_id}


@contextlib.asynccontextmanager
async def local_stack(
    data_dir: Path | None = None,
    *,
    bin_dir: Path | None = None,
    control: bool = False,
    behaviour: Behaviour | None = None,
) -> AsyncIterator[LocalStack]:
    """Run it for the time of the block; what a data directory holds is found again.

    `control` opens the local Neon API's port for faults and its clock, `behaviour` is how true to life it is.
    """
    async with embedded_postgres(data_dir, bin_dir=bin_dir) as postgres:
        await create_database(postgres.uri(), CONTROL_DATABASE)
        async with neon_emulator(postgres.uri().reveal(), control=control, behaviour=behaviour) as emulator:
            keys = [_kept_secret(data_dir, f"{name}.key", lambda: secrets.token_hex(32)) for name in _KEYS]
            yield LocalStack(postgres, emulator, *keys)


_KEYS = ("encryption", "service")


def _kept_secret(data_dir: Path | None, name: str, make: Callable[[], str]) -> Secret:
    """The data directory's secret of that name, made on first use: what is stored must open again tomorrow."""
    if data_dir is None:
        return Secret(make())
    file = data_dir / name
    with (
        contextlib.suppress(FileExistsError),
        open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new,
    ):
        new.write(make() + "\n")
    return Secret(file.read_text().strip())
