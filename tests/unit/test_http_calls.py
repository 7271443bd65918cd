"""What runs for a client over HTTP ends with it."""

from __future__ import annotations

from typing import cast

import anyio
import pytest

from agentdb_mcp.mcp_server.http_calls import HttpCall
from agentdb_mcp.mcp_server.tools import Operations


@pytest.fixture
def call() -> HttpCall:
    return HttpCall(cast("Operations", None), "token")


async def test_a_client_that_goes_away_ends_what_runs(call: HttpCall) -> None:
    done = False
    async with anyio.create_task_group() as group:
        begun = anyio.Event()

        async def work() -> None:
            nonlocal done
            with call.run():
                begun.set()
                await anyio.sleep_forever()
                done = True

        group.start_soon(work)
        await begun.wait()
        call.gone()
    assert not done


async def test_a_client_that_went_away_before_it_began_ends_it_as_well(call: HttpCall) -> None:
    call.gone()
    with anyio.fail_after(5), call.run():
        await anyio.sleep_forever()
