"""A bound on what one call may receive, under the driver.

asyncpg buffers whole messages and all rows of a portal; a value, a notice or an error text can be a gigabyte. The
guard sits between the transport and the driver, counts the bytes of the running call, and aborts the connection once
they pass the budget: memory stays bounded whatever kind of message it is, and the event loop is never busy with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncpg

# ReadyForQuery, which ends an answer, and how it says where that leaves the session.
_READY, _IN_TRANSACTION = b"Z", b"T"


class ReceiveGuard(asyncio.Protocol):
    """Passes everything on to the driver's protocol until the budget is used up."""

    def __init__(self, driver: asyncio.Protocol, transport: asyncio.Transport) -> None:
        self._driver = driver
        self._transport = transport
        self._left: int | None = None
        self._ahead: bytes | None = None  # what is there of the answer to what was sent ahead
        self._ended_as = b""
        self.exceeded = False
        # Called with whatever comes from the server, and with nothing when the connection is gone.
        self.heard: Callable[[bytes], None] | None = None

    def begin(self, budget: int | None) -> None:
        """Start counting a call's bytes; None counts nothing."""
        self._left = budget

    def send_ahead(self, sql: str) -> None:
        """Send statements of ours just before what the driver sends next: both take one round trip.

        Their answer is kept from the driver.
        """
        text = sql.encode() + b"\0"
        self._ahead = b""
        self._transport.write(b"Q" + (len(text) + 4).to_bytes(4, "big") + text)

    @property
    def in_transaction(self) -> bool:
        """Whether what was sent ahead was answered and left a transaction that has not failed."""
        return self._ahead is None and self._ended_as == _IN_TRANSACTION

    def _after_ahead(self, data: bytes) -> bytes:
        """What follows the answer to what was sent ahead."""
        data, at = (self._ahead or b"") + data, 0
        while at + 5 <= len(data):
            end = at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
            if end > len(data):
                break
            if data[at : at + 1] == _READY:
                self._ahead, self._ended_as = None, data[end - 1 : end]
                return data[end:]
            at = end
        self._ahead = data[at:]
        return b""

    def data_received(self, data: bytes) -> None:
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                self.exceeded = True
                self._transport.abort()
                return
        if self._ahead is not None and not (data := self._after_ahead(data)):
            return
        self._driver.data_received(data)
        if self.heard is not None:
            self.heard(data)

    def eof_received(self) -> bool | None:
        return self._driver.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._driver.connection_lost(exc)
        if self.heard is not None:
            self._driver.resume_writing()  # the driver would wait for that before it looks
            self.heard(b"")

    def pause_writing(self) -> None:
        self._driver.pause_writing()

    def resume_writing(self) -> None:
        self._driver.resume_writing()


class GuardedConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection with a guard under it, once `install` put it there."""

    __slots__ = ("guard",)
    guard: ReceiveGuard


def install(connection: GuardedConnection) -> None:
    """Put a guard between the connection's transport and its protocol."""
    transport: asyncio.Transport = connection._transport
    connection.guard = ReceiveGuard(connection._protocol, transport)
    transport.set_protocol(connection.guard)
    if transport.get_extra_info("ssl_object") is None:
        # Nor do requests to cancel ask for TLS: the driver leaves an error behind where it is ended while it asks.
        connection._params = connection._params._replace(ssl=None)
