"""A few seconds of the fuzzer with a fixed seed, and what hypothesis makes of SQL's own pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from fuzz_runner import (
    HIDINGS,
    NOISE,
    SPACES,
    WORDS,
    WRITES,
    Live,
    Mutator,
    Report,
    check_reads,
    classify,
    fuzz,
    mutated,
    seeds,
)
from fuzz_runner import live as live_database
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TEXTS = 1_500

pieces = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(NOISE),
    st.sampled_from(SPACES),
    st.sampled_from(WRITES),
    st.builds(lambda hiding, write: hiding.replace("{}", write), st.sampled_from(HIDINGS), st.sampled_from(WRITES)),
    st.text(max_size=4),
)
queries = st.builds(
    lambda start, parts, glue: glue.join((start, *parts)),
    st.sampled_from(
        ("select", "select 1", "values (1)", "table t", "with q as (", "explain analyze select", "show", "")
    ),
    st.lists(pieces, max_size=12),
    st.sampled_from((" ", "", "\n", "/**/")),
)


@pytest.fixture(scope="module")
async def live() -> AsyncIterator[Live]:
    async with live_database() as built:
        yield built


async def test_mutated_seeds_do_no_harm(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTDB_SQL_CORPUS", raising=False)
    report = Report()
    mutator = Mutator(seeds(), 3)
    await fuzz(live, mutated(mutator, count=TEXTS), report, like=mutator.like)
    assert report.failed == {}
    assert report.reads > TEXTS / 20
    assert report.outcomes["ran"] > TEXTS / 40


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(sql=queries)
async def test_whatever_is_called_a_read_only_reads(live: Live, sql: str) -> None:
    report = Report()
    if classify(sql, report):
        problem, _ = await live.run(sql)
        assert problem is None
    assert report.failed == {}


async def test_after_all_of_it_a_write_is_still_noticed(live: Live) -> None:
    """The check itself: in a row with reads, the one that writes is named, also without a transaction id."""
    report = Report()
    await check_reads(live, ["select 1", "select nextval('sq')", "select 2", "delete from u"], report)
    await check_reads(live, ["select 1", "select nextval('sq')", "select 2"], report)
    assert set(report.failed) == {"select nextval('sq')", "delete from u"}
