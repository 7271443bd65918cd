"""What the soak compares at its end is found where it differs."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.soak.checks import _leaks, differences
from benchmarks.soak.client import ACCESS, Answer
from benchmarks.soak.house import Life
from benchmarks.soak.metering import Stored, bytes_missing, loss_s, match
from benchmarks.soak.tenant import COPIED, Journal, Use

START = datetime(2026, 11, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def journal() -> Journal:
    """Rows 1 to 5, of which 2 to 4 are one transaction and 5 was not acknowledged; two copies, one acknowledged."""
    return Journal(
        last=5,
        groups=[(1,), (2, 3, 4), (5,)],
        acknowledged={1, 2, 3, 4},
        batches={1, 2},
        batches_acknowledged={1},
    )


@pytest.mark.parametrize("rows", [[1, 2, 3, 4], [1, 2, 3, 4, 5]])
@pytest.mark.parametrize("copies", [[1] * COPIED, [1] * COPIED + [2] * COPIED])
def test_what_was_not_acknowledged_may_be_there_or_not(rows: list[int], copies: list[int]) -> None:
    assert differences(journal(), rows, copies) == []


@pytest.mark.parametrize(
    ("rows", "copies", "problem"),
    [
        ([2, 3, 4], [1] * COPIED, "acknowledged rows are lost"),
        ([1, 2, 3], [1] * COPIED, "by halves"),
        ([1, 2, 3, 4, 6], [1] * COPIED, "nobody sent"),
        ([1, 2, 3, 4], [1] * (COPIED - 1), "not whole"),
        ([1, 2, 3, 4], [1] * COPIED + [2], "by halves, or twice"),
        ([1, 2, 3, 4], [1] * COPIED + [3] * COPIED, "by halves, or twice"),
    ],
)
def test_what_is_lost_halved_or_invented_is_told(rows: list[int], copies: list[int], problem: str) -> None:
    assert any(problem in told for told in differences(journal(), rows, copies))


def use(life: Life, sent: float, received_bytes: int = 0) -> Use:
    return Use(Answer(None, False, {}, life, at(sent), at(sent + 0.1)), "execute_sql", ("agent",), received_bytes)


def test_processes_are_found_in_the_ledger_and_what_they_lost_is_counted() -> None:
    early, late = (Life("server 1", pid, at(30 * pid), at(30 * pid + 30), killed=True) for pid in (0, 1))
    used = {life: {"d": [use(life, 30 * life.pid + second, 10) for second in range(1, 30)]} for life in (early, late)}
    whole = Stored({"d": at(1)}, {"d": at(29.05)}, {"d": 290})
    cut = Stored({"d": at(31)}, {"d": at(49)}, {"d": 100})
    assert match(used, [cut, whole]) == {early: whole, late: cut}
    assert loss_s(early, used[early], whole) == 0
    assert loss_s(late, used[late], cut) == pytest.approx(60 - 50.1)
    assert bytes_missing(early, used[early], whole) == 0
    assert bytes_missing(late, used[late], cut) > 0


@pytest.mark.parametrize(
    "text", ["postgresql://a:b@h/d", "SCRAM-SHA-256$4096:", "ALTER ROLE a PASSWORD 'x'", "npg_abc"]
)
def test_what_gives_access_is_seen(text: str) -> None:
    assert ACCESS.search(f"… {text} …")
    assert not ACCESS.search("postgresql://…:…@…/… and PASSWORD NULL")


def test_a_password_in_a_log_is_found_by_its_line_and_not_repeated(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("begun\nlogged in with S3CRET-one\nto postgresql://a:b@127.0.0.1/x\nended\n")
    found = _leaks(log, {"s3cret-ONE", "another"})
    assert found == ["server.log, line 2", "server.log, line 3"]
