"""What is sent ahead of the driver's messages, and its answer, which the driver does not see."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdb_mcp.execution.guard import ReceiveGuard


class Driver(asyncio.Protocol):
    def __init__(self) -> None:
        self.heard = b""

    def data_received(self, data: bytes) -> None:
        self.heard += data


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def ready(status: bytes) -> bytes:
    return message(b"Z", status)


BEGUN = message(b"C", b"BEGIN\0") + message(b"S", b"search_path\0Z\0") + message(b"D", b"ZZZZ\0\0") + ready(b"T")
OWN = message(b"1", b"") + message(b"Z", b"T")


def guarded() -> tuple[ReceiveGuard, Driver, Transport]:
    driver, transport = Driver(), Transport()
    return ReceiveGuard(driver, transport), driver, transport


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({0, *(cut % len(data) for cut in cuts), len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@given(st.lists(st.integers(0, 1000)))
def test_the_driver_hears_all_that_follows_however_the_bytes_come(cuts: list[int]) -> None:
    guard, driver, transport = guarded()
    guard.send_ahead("BEGIN; SELECT 'é'")
    assert transport.written == message(b"Q", "BEGIN; SELECT 'é'\0".encode())
    assert not guard.in_transaction
    for piece in pieces(BEGUN + OWN, cuts):
        guard.data_received(piece)
    assert driver.heard == OWN
    assert guard.in_transaction


@pytest.mark.parametrize("status", [b"I", b"E"], ids=["in none", "in a failed one"])
def test_statements_that_failed_leave_no_transaction_to_run_in(status: bytes) -> None:
    guard, driver, _ = guarded()
    guard.send_ahead("BEGIN; SELECT 1/0")
    guard.data_received(message(b"E", b"SERROR\0") + ready(status))
    assert not guard.in_transaction
    assert driver.heard == b""


def test_a_transaction_that_was_sent_ahead_before_is_not_taken_for_the_next() -> None:
    guard, _, _ = guarded()
    guard.send_ahead("BEGIN")
    guard.data_received(BEGUN)
    guard.send_ahead("BEGIN")
    assert not guard.in_transaction
    guard.data_received(BEGUN[:-1])
    assert not guard.in_transaction


def test_an_answer_to_what_was_sent_ahead_counts_towards_what_may_be_received() -> None:
    guard, driver, transport = guarded()
    guard.begin(len(BEGUN) - 1)
    guard.send_ahead("BEGIN")
    guard.data_received(BEGUN)
    assert guard.exceeded
    assert transport.aborted
    assert not guard.in_transaction
    assert driver.heard == b""
