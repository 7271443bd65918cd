"""What is sent ahead of the driver's messages, and its answer, which the driver does not see."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import asyncpg
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

    def is_closing(self) -> bool:
        return self.aborted


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def answered(tag: bytes, more: bytes = b"") -> bytes:
    """To one statement: ParseComplete, BindComplete, whatever else there is, CommandComplete."""
    return message(b"1", b"") + message(b"2", b"") + more + message(b"C", tag + b"\0")


PREAMBLE = ["BEGIN READ ONLY", "SELECT 'é'"]
BEGUN = answered(b"BEGIN", message(b"S", b"C\0E\0")) + answered(b"SELECT 1", message(b"D", b"\0\1C\0\0\0\1E"))
OWN = message(b"1", b"") + message(b"t", b"\0\0") + message(b"C", b"1\0") + message(b"E", b"\0")
FAILED = message(b"E", b"SERROR\0C57014\0\0")


def guarded() -> tuple[ReceiveGuard, Driver, Transport]:
    driver, transport = Driver(), Transport()
    return ReceiveGuard(driver, transport), driver, transport


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({0, *(cut % len(data) for cut in cuts), len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


def test_each_statement_is_sent_by_the_extended_protocol_without_a_sync() -> None:
    guard, _, transport = guarded()
    guard.send_ahead(PREAMBLE)
    executed = message(b"B", bytes(8)) + message(b"E", bytes(5))
    parsed = [message(b"P", b"\0" + sql.encode() + b"\0\0\0") for sql in PREAMBLE]
    assert transport.written == parsed[0] + executed + parsed[1] + executed


@given(st.lists(st.integers(0, 1000)))
def test_the_driver_hears_all_that_follows_however_the_bytes_come(cuts: list[int]) -> None:
    guard, driver, _ = guarded()
    done: list[bytes] = []
    guard.send_ahead(PREAMBLE, lambda: done.append(driver.heard))
    assert not guard.sent_is_done
    for piece in pieces(BEGUN + OWN, cuts):
        guard.data_received(piece)
    assert driver.heard == OWN
    assert guard.sent_is_done
    assert done == [b""]


@given(
    st.lists(st.integers(0, 1000)), st.sampled_from([b"", answered(b"BEGIN"), answered(b"BEGIN") + message(b"1", b"")])
)
def test_the_driver_hears_the_error_that_ended_what_was_sent_ahead(cuts: list[int], before: bytes) -> None:
    guard, driver, _ = guarded()
    guard.send_ahead(PREAMBLE, lambda: pytest.fail("it is not done"))
    for piece in pieces(before + FAILED + message(b"Z", b"I"), cuts):
        guard.data_received(piece)
    assert driver.heard == FAILED + message(b"Z", b"I")
    assert not guard.sent_is_done


def test_what_was_sent_ahead_before_says_nothing_of_the_next() -> None:
    guard, _, _ = guarded()
    guard.send_ahead(PREAMBLE)
    guard.data_received(BEGUN)
    guard.send_ahead(PREAMBLE)
    assert not guard.sent_is_done
    guard.data_received(BEGUN[:-1])
    assert not guard.sent_is_done


def test_on_a_connection_that_is_closed_nothing_is_sent() -> None:
    guard, _, transport = guarded()
    guard.send_ahead(PREAMBLE)
    guard.data_received(BEGUN)
    transport.aborted, transport.written = True, b""
    with pytest.raises(asyncpg.InterfaceError):
        guard.send_ahead(PREAMBLE)
    assert transport.written == b""
    assert not guard.sent_is_done


def test_an_answer_to_what_was_sent_ahead_counts_towards_what_may_be_received() -> None:
    guard, driver, transport = guarded()
    guard.begin(len(BEGUN) - 1)
    guard.send_ahead(PREAMBLE)
    guard.data_received(BEGUN)
    assert guard.exceeded
    assert transport.aborted
    assert not guard.sent_is_done
    assert driver.heard == b""
