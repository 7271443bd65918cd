"""Under the driver: a bound on what one call may receive, and statements of ours ahead of the driver's.

asyncpg buffers whole messages and all rows of a portal; a value, a notice or an error text can be a gigabyte. The
guard sits between the transport and the driver, counts the bytes of the running call, and aborts the connection once
they pass the budget: memory stays bounded whatever kind of message it is, and the event loop is never busy with it.
The driver sends one thing at a time; what has to come before its next message goes out with it (`send_ahead`): a read
takes three round trips instead of four, a fifth less time where the database is a millisecond away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache

import asyncpg

# CommandComplete and ErrorResponse.
_COMPLETE, _ERROR = b"C", b"E"


@lru_cache(maxsize=256)
def _by_extended_protocol(sql: str) -> bytes:
    """Parse, Bind and Execute, without parameters."""
    return _message(b"P", b"\0" + sql.encode() + b"\0\0\0") + _message(b"B", bytes(8)) + _message(b"E", bytes(5))


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


class ReceiveGuard(asyncio.Protocol):
    """Passes everything on to the driver's protocol until the budget is used up."""

    def __init__(self, driver: asyncio.Protocol, transport: asyncio.Transport) -> None:
        self._driver = driver
        self._transport = transport
        self._left: int | None = None
        self._ahead: bytes | None = None  # what is there of the answer to what was sent ahead
        self._awaited = 0
        self._done: Callable[[], None] = lambda: None
        self.exceeded = False
        # Called with whatever comes from the server, and with nothing when the connection is gone.
        self.heard: Callable[[bytes], None] | None = None

    def begin(self, budget: int | None) -> None:
        """Start counting a call's bytes; None counts nothing."""
        self._left = budget

    def send_ahead(self, statements: Sequence[str], done: Callable[[], None] = lambda: None) -> None:
        """Send statements of ours just before what the driver sends next: together they take one round trip.

        Without a Sync between them: where one fails, Postgres skips all that follows, the driver's message too, which
        then fails with that error. Nothing else of their answer is for the driver, and what it asks for is answered
        after they are `done`. Raises asyncpg.InterfaceError where there is no connection.
        """
        self._ahead, self._awaited, self._done = b"", len(statements), done
        if self._transport.is_closing():
            raise asyncpg.InterfaceError("the connection is closed")
        self._transport.write(b"".join(map(_by_extended_protocol, statements)))

    @property
    def sent_is_done(self) -> bool:
        """Whether all that was sent ahead last was done."""
        return not self._awaited

    def _after_ahead(self, data: bytes) -> bytes:
        """What is for the driver: what follows the last answer to what was sent ahead, or the error that ends it."""
        data, at = (self._ahead or b"") + data, 0
        while at + 5 <= len(data):
            kind, end = data[at : at + 1], at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
            if end > len(data):
                break
            if kind == _ERROR:
                self._ahead = None
                return data[at:]
            at = end
            if kind == _COMPLETE:
                self._awaited -= 1
                if not self._awaited:
                    self._ahead = None
                    self._done()
                    return data[at:]
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
