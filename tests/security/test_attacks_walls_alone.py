"""Every attack case with the gate taken away: the walls alone keep each promise about damage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from attack_arena import Arena, arena
from attack_runner import NO_SHARED_CASES, case_files, has_known_gap, load_cases, run_case

# `make attacks` runs the same with the shipped limit.
TIMEOUT_S = 4
CASES = [case for path in case_files() for case in load_cases(path) if not has_known_gap(case)]


@pytest.fixture(scope="module")
async def attacked() -> AsyncIterator[Arena]:
    async with arena(gate=False, timeout_s=TIMEOUT_S) as built:
        yield built


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
async def test_the_walls_alone_hold(attacked: Arena, case: dict[str, Any]) -> None:
    assert await run_case(attacked, case, gate=False) == []


def test_the_shared_cases_were_found() -> None:
    if NO_SHARED_CASES:
        pytest.skip(NO_SHARED_CASES)
