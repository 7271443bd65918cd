"""The first packets of a Postgres connection, and the error that refuses one."""

from __future__ import annotations

import struct
from dataclasses import dataclass

SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102
LENGTH_MOST = 10_000
POOLER = "-pooler"
# What Neon's pooler takes; what it takes and ignores is not passed on there.
POOLED_PARAMETERS = frozenset(
    {
        "user",
        "database",
        "options",
        "replication",
        "application_name",
        "client_encoding",
        "datestyle",
        "timezone",
        "standard_conforming_strings",
        "intervalstyle",
        "extra_float_digits",
    }
)


class NotPostgresError(Exception):
    """Bytes that are no startup packet."""


@dataclass(frozen=True, slots=True)
class Startup:
    """`endpoint` is what the client named in its options, without the pooler's suffix."""

    version: int
    parameters: dict[str, str]
    endpoint: str | None
    pooled: bool

    def packet(self) -> bytes:
        pairs = b"".join(
            f"{key}\0{value}\0".encode("utf-8", "surrogateescape") for key, value in self.parameters.items()
        )
        body = struct.pack("!i", self.version) + pairs + b"\0"
        return struct.pack("!i", len(body) + 4) + body

    def unsupported(self) -> str | None:
        """The pooler's refusal, if it has one."""
        if not self.pooled:
            return None
        for key in self.parameters:
            if key.lower() not in POOLED_PARAMETERS and not key.startswith("_pq_."):
                return f"unsupported startup parameter: {key}"
        for word in self.parameters.get("options", "").replace("-c ", "-c").split():
            name = word.removeprefix("-c").removeprefix("--").partition("=")[0]
            return f"unsupported startup parameter in options: {name}"
        return None


def take_packet(buffer: bytearray) -> bytes | None:
    """The first packet without its length, removed from the buffer; None until it is whole."""
    if len(buffer) < 8:
        return None
    (length,) = struct.unpack_from("!i", buffer)
    if not 8 <= length <= LENGTH_MOST:
        raise NotPostgresError
    if len(buffer) < length:
        return None
    packet = bytes(buffer[4:length])
    del buffer[:length]
    return packet


def code_of(packet: bytes) -> int:
    (code,) = struct.unpack_from("!i", packet)
    return int(code)


def read_startup(packet: bytes) -> Startup:
    """The endpoint stands in `options`, as clients without SNI give it."""
    words = packet[4:].decode("utf-8", "surrogateescape").split("\0")
    parameters = dict(zip(words[0:-2:2], words[1:-1:2], strict=False))
    endpoint, kept = None, []
    for word in parameters.get("options", "").split():
        key, _, value = word.partition("=")
        if key in ("endpoint", "project"):
            endpoint = value
        else:
            kept.append(word)
    parameters.pop("options", None)
    if kept:
        parameters["options"] = " ".join(kept)
    pooled = endpoint is not None and endpoint.endswith(POOLER)
    return Startup(code_of(packet), parameters, endpoint.removesuffix(POOLER) if endpoint else None, pooled)


def error_packet(sqlstate: str, message: str) -> bytes:
    fields = {"S": "FATAL", "V": "FATAL", "C": sqlstate, "M": message}
    body = b"".join(f"{key}{value}\0".encode() for key, value in fields.items()) + b"\0"
    return b"E" + struct.pack("!i", len(body) + 4) + body
