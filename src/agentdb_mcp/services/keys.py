"""Key rotation: connection strings are written anew under the first key, while servers go on working."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from agentdb_mcp.credentials.cipher import Cipher, DecryptionError
from agentdb_mcp.errors import ConfigurationError
from agentdb_mcp.models import Secret
from agentdb_mcp.store import ConnectionStrings, StoredString

BATCH = 200


@dataclass(frozen=True, slots=True)
class KeysReport:
    """Rows by what opens them: the first key, a further one, or none that is set."""

    current: int = 0
    older: int = 0
    unreadable: int = 0
    rotated: int = 0

    @property
    def total(self) -> int:
        return self.current + self.older + self.unreadable


class Keys:
    """Interrupted at any point, it goes on where it stopped: what is under the first key already is left alone."""

    def __init__(self, strings: ConnectionStrings, cipher: Cipher | None) -> None:
        self._strings = strings
        self._cipher = cipher

    async def check(self) -> KeysReport:
        """Count; changes nothing."""
        return (await self._walk(lambda _: None))[0]

    async def rotate(self, progress: Callable[[int], None] = lambda _: None) -> KeysReport:
        """Write anew what an older key wrote, then read all of it again. `progress` hears how many rows are done."""
        _, rotated = await self._walk(progress, write=True)
        return replace(await self.check(), rotated=rotated)

    async def _walk(self, progress: Callable[[int], None], *, write: bool = False) -> tuple[KeysReport, int]:
        cipher = self._cipher
        if cipher is None:
            raise ConfigurationError(
                "AGENTDB_ENCRYPTION_KEYS is missing.", hint="Set it to the new key first, then the old ones."
            )
        report, rotated = KeysReport(), 0
        async with aclosing(self._strings.batches(BATCH)) as batches:
            async for batch in batches:
                older: list[tuple[StoredString, Secret]] = []
                current = unreadable = 0
                for each in batch:
                    try:
                        plain, by_first = cipher.open(each.stored)
                    except DecryptionError:
                        unreadable += 1
                        continue
                    current += by_first
                    older += [] if by_first else [(each, plain)]
                if write and older:
                    rotated += await self._strings.replace([(each, cipher.encrypt(plain)) for each, plain in older])
                report = KeysReport(report.current + current, report.older + len(older), report.unreadable + unreadable)
                progress(report.total)
        return report, rotated
