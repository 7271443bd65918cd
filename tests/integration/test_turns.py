"""Turns at users' projects keep connections to the control database; the work in them needs more of these."""

from __future__ import annotations

import secrets

import anyio

from agentdb_mcp.bootstrap import Application
from agentdb_mcp.store.control import POOL_SIZE


async def test_as_many_turns_as_connections_leave_some_for_the_work(application: Application) -> None:
    usage = application.managed().usage
    users = [f"u{secrets.token_hex(6)}" for _ in range(2 * POOL_SIZE)]
    for user in users:
        await usage.identity.ensure_user(user)
        await usage.store.ensure(user)
        await usage.store.set_tier(user, "paid", None)
    async with anyio.create_task_group() as group:
        for user in users:
            group.start_soon(usage.tiers.place, user)
    assert not set(users) & set(await usage.store.misplaced())
