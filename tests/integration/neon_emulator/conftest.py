"""A cluster and an emulator with a control port for each file. Helper modules are imported by their plain names."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from agentdb_mcp.embedded import EmbeddedPostgres, embedded_postgres
from agentdb_mcp.neon_emulator import Behaviour, Emulator, NewOrganization, neon_emulator

sys.path.insert(0, str(Path(__file__).parent))

from emulating import client, client_of


@pytest.fixture(scope="module")
async def postgres(anyio_backend: str) -> AsyncIterator[EmbeddedPostgres]:
    async with embedded_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def behaviour() -> Behaviour:
    return Behaviour(organizations=(NewOrganization("Paid"), NewOrganization("Free", "free")))


@pytest.fixture(scope="module")
async def emulator(postgres: EmbeddedPostgres, behaviour: Behaviour) -> AsyncIterator[Emulator]:
    async with neon_emulator(postgres.uri().reveal(), control=True, behaviour=behaviour) as running:
        yield running


@pytest.fixture
async def api(emulator: Emulator) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(emulator) as opened:
        yield opened


@pytest.fixture
async def control(emulator: Emulator) -> AsyncIterator[httpx.AsyncClient]:
    async with client(emulator.control_url) as opened:
        yield opened
        assert (await opened.delete("/faults")).status_code == 204
        assert (await opened.put("/rate-limit", json={"requests_per_minute": None})).status_code == 204
