"""Quotas of the local Neon API: what is used up suspends the computes."""

from __future__ import annotations

import asyncpg
import httpx
import pytest
from emulating import GONE, advance, base, connected, create, done, endpoint_path, state_of, uri_of


@pytest.mark.parametrize("quota", ["compute_time_seconds", "active_time_seconds", "logical_size_bytes"])
async def test_a_broken_quota_suspends_until_it_is_raised(
    api: httpx.AsyncClient, control: httpx.AsyncClient, quota: str
) -> None:
    created = await create(api)
    async with connected(uri_of(created)) as open_one:
        await open_one.execute("BEGIN")
        await advance(control, 10)
        limit = {"project": {"settings": {"quota": {quota: 1}}}}
        await done(api, "PATCH", base(created), json=limit)
        assert await state_of(api, created) == "idle"
        with pytest.raises(GONE):
            await open_one.fetchval("SELECT 1")
    with pytest.raises(asyncpg.InternalServerError, match="has exceeded the") as refused:
        await asyncpg.connect(uri_of(created))
    assert refused.value.sqlstate == "XX000"
    assert (await api.post(f"{endpoint_path(created)}/start")).status_code == 403
    lifted = {"project": {"settings": {"quota": {quota: 0}}}}
    await done(api, "PATCH", base(created), json=lifted)
    async with connected(uri_of(created)) as again:
        assert await again.fetchval("SELECT 1") == 1


async def test_the_data_that_was_sent_counts_against_its_quota(api: httpx.AsyncClient) -> None:
    created = await create(api)
    async with connected(uri_of(created)) as reader:
        await reader.fetchval("SELECT repeat('x', 1000000)")
    used = (await api.get(base(created))).json()["project"]["data_transfer_bytes"]
    assert 1_000_000 <= used < 1_100_000
    await done(api, "PATCH", base(created), json={"project": {"settings": {"quota": {"data_transfer_bytes": 1000}}}})
    with pytest.raises(asyncpg.InternalServerError, match="data transfer quota"):
        await asyncpg.connect(uri_of(created))
