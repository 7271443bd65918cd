"""Neon's rates, kept by a clock that only waiting moves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import anyio
import httpx
import pytest
from neon_script import FakeTime, Script, api_on, ok, provider_on, refusal

from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.providers.neon.api import consumption_limiter, general_limiter
from agentdb_mcp.providers.neon.limiter import RateLimiter

NOTHING: dict[str, list[object]] = {"projects": []}
HISTORY = "/consumption_history/v2/projects"


class Timed(Script):
    """Notes when each request came."""

    def __init__(self, time: FakeTime, *answers: httpx.Response) -> None:
        super().__init__(*answers)
        self.time = time
        self.times: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.times.append(self.time.now)
        return super().__call__(request)


def most_within(times: list[float], seconds: float) -> int:
    return max(sum(start <= other < start + seconds for other in times) for start in times)


async def let_through(limiter: RateLimiter, time: FakeTime, callers: int, calls: int) -> list[float]:
    times: list[float] = []

    async def call() -> None:
        for _ in range(calls):
            await limiter.wait()
            times.append(time.now)

    async with anyio.create_task_group() as group:
        for _ in range(callers):
            group.start_soon(call)
    return times


@pytest.mark.parametrize(
    ("like", "second", "minute"),
    [(general_limiter, 40, 700), (consumption_limiter, 6, 50)],
    ids=["general", "consumption"],
)
async def test_many_callers_together_stay_within_neons_rates(
    like: Callable[[], RateLimiter], second: int, minute: int
) -> None:
    time = FakeTime()
    times = await let_through(time.limiter(like()), time, callers=30, calls=50)
    assert len(times) == 1500
    assert most_within(times, 1) <= second
    assert most_within(times, 60) <= minute
    assert most_within(times, 60) > minute * 0.9


async def test_the_first_calls_do_not_wait() -> None:
    time = FakeTime()
    assert set(await let_through(time.limiter(general_limiter()), time, callers=29, calls=1)) == {0.0}


async def test_an_idle_key_saves_up_no_more_than_one_burst() -> None:
    time = FakeTime()
    limiter = time.limiter(general_limiter())
    await limiter.wait()
    time.now = 3600.0
    assert (await let_through(limiter, time, callers=40, calls=1)).count(3600.0) == 29


async def test_a_caller_that_gives_up_takes_no_turn() -> None:
    never = anyio.Event()

    async def sleep(_seconds: float) -> None:
        await never.wait()

    limiter = RateLimiter(per_second=1.0, burst=1, clock=lambda: 0.0, sleep=sleep)
    await limiter.wait()
    with anyio.move_on_after(0):
        await limiter.wait()
    assert limiter._delay() == 1.0


@pytest.mark.usefixtures("without_pauses")
async def test_a_429_keeps_every_call_of_the_key_away_for_as_long_as_it_says() -> None:
    time = FakeTime()
    script = Timed(time, refusal(429, **{"Retry-After": "7"}), ok(NOTHING))
    async with provider_on(script, time=time) as provider:
        await provider.find("x")
        await provider.check()
    assert script.times[0] == 0.0
    assert min(script.times[1:]) >= 7.0


@pytest.mark.usefixtures("without_pauses")
async def test_after_a_429_there_is_no_burst() -> None:
    time = FakeTime()
    script = Timed(time, refusal(429, **{"Retry-After": "7"}), ok(NOTHING))
    async with provider_on(script, time=time) as provider:
        for _ in range(29):
            await provider.check()
    assert most_within(script.times[1:], 1) <= 12


@pytest.mark.parametrize("status", [423, 503])
@pytest.mark.usefixtures("without_pauses")
async def test_what_is_busy_keeps_only_its_caller_waiting(status: int) -> None:
    time = FakeTime()
    script = Timed(time, refusal(status, **{"Retry-After": "7"}), ok(NOTHING))
    async with provider_on(script, time=time) as provider:
        await provider.find("x")
    assert script.times == [0.0, 0.0]


@pytest.mark.parametrize("own_clock", [timedelta(0), timedelta(days=400)], ids=["same clock", "another clock"])
@pytest.mark.usefixtures("without_pauses")
async def test_a_retry_after_that_is_a_date_is_measured_by_neons_clock(own_clock: timedelta) -> None:
    time = FakeTime()
    now = datetime.now(UTC) + own_clock
    headers = {"Date": format_datetime(now, usegmt=True)}
    headers["Retry-After"] = format_datetime(now + timedelta(seconds=42), usegmt=True)
    script = Timed(time, refusal(429, **headers), ok(NOTHING))
    async with provider_on(script, time=time) as provider:
        await provider.check()
    assert [round(moment) for moment in script.times] == [0, 42]


@pytest.mark.usefixtures("without_pauses")
async def test_a_wait_that_is_too_long_is_an_error_at_once_for_everybody() -> None:
    time = FakeTime()
    script = Timed(time, refusal(429, **{"Retry-After": "3600"}), ok(NOTHING))
    async with provider_on(script, time=time) as provider:
        with pytest.raises(ProvisioningFailed, match="rate limit") as first:
            await provider.check()
        with pytest.raises(ProvisioningFailed, match="in 3600 s") as second:
            await provider.find("x")
        assert script.times == [0.0]
        time.now = 3600.0
        await provider.check()
    assert first.value.retryable
    assert second.value.retryable


async def test_consumption_has_a_rate_of_its_own_inside_the_common_one() -> None:
    time = FakeTime()
    script = Timed(time, ok(NOTHING))
    async with api_on(script, time) as api:
        for _ in range(6):
            await api.call("GET", HISTORY)
        asked = time.now
        await api.call("GET", "/projects")
    assert script.times[:5] == [0.0] * 5
    assert script.times[5] > 1.0
    assert script.times[6] == asked


@pytest.mark.usefixtures("without_pauses")
async def test_a_429_on_consumption_does_not_keep_other_calls_away() -> None:
    time = FakeTime()
    script = Timed(time, refusal(429, **{"Retry-After": "50"}), ok(NOTHING))
    async with api_on(script, time) as api:
        await api.call("GET", HISTORY)
        asked = time.now
        await api.call("GET", "/projects")
    assert [round(moment) for moment in script.times] == [0, 50, 50]
    assert script.times[2] == asked


@pytest.mark.usefixtures("without_pauses")
async def test_a_repetition_is_noted_in_our_words_below_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with provider_on(Script(refusal(503), ok(NOTHING))) as provider:
            await provider.check()
    noted = [record for record in caplog.records if record.name.startswith(("agentdb_mcp", "stamina"))]
    assert [(record.name, record.levelno) for record in noted] == [("agentdb_mcp.providers.neon.api", logging.INFO)]
    assert "req-1" in noted[0].getMessage()
    assert "secret detail" not in caplog.text
