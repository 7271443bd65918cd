"""AES-256-GCM for stored strings: written as Sim writes them, read as Sim and the documents do."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentdb_mcp.errors import ConfigurationError, DatabaseUnavailable, InvalidArgument
from agentdb_mcp.models import Secret
from agentdb_mcp.settings import checked_encryption_key

IV_BYTES = 16
TAG_BYTES = 16

# iv:ciphertext:tag or iv:tag:ciphertext, where the ciphertext may be empty.
_SEALED = re.compile(r"[0-9a-f]{32}:(?:(?:[0-9a-f]{2})*:[0-9a-f]{32}|[0-9a-f]{32}:(?:[0-9a-f]{2})*)", re.IGNORECASE)


class DecryptionError(DatabaseUnavailable):
    """A stored string does not open; says nothing of what is in it."""


class Cipher:
    """The first of `keys` encrypts; all of them, and `also_decrypt`, decrypt. A key is 64 hex characters."""

    def __init__(
        self,
        keys: Sequence[Secret],
        *,
        also_decrypt: Sequence[Secret] = (),
        setting: str = "AGENTDB_ENCRYPTION_KEYS",
        also_setting: str = "NEON_CONNECTION_ENCRYPTION_KEY or ENCRYPTION_KEY",
    ) -> None:
        self._setting = setting
        self._also_setting = also_setting
        self._writer = _boxes(setting, keys[:1])
        self._readers = _boxes(setting, keys) + _boxes(also_setting, also_decrypt)

    def encrypt(self, plain: Secret) -> str:
        """Return `ivHex:ciphertextHex:tagHex`, under a fresh IV."""
        if not self._writer:
            raise ConfigurationError(
                f"{self._setting} is not set, so nothing can be encrypted",
                hint="Set it to a key of 64 hexadecimal characters, such as `openssl rand -hex 32` prints.",
            )
        iv = secrets.token_bytes(IV_BYTES)
        sealed = self._writer[0].encrypt(iv, _encoded(plain), None)
        return f"{iv.hex()}:{sealed[:-TAG_BYTES].hex()}:{sealed[-TAG_BYTES:].hex()}"

    def decrypt(self, stored: str) -> Secret:
        """Open `iv:ciphertext:tag` or `iv:tag:ciphertext`, whichever authenticates under one of the keys."""
        return self.open(stored)[0]

    def open(self, stored: str) -> tuple[Secret, bool]:
        """As `decrypt`, and whether it was the key that encrypts today, in the form written today."""
        if not looks_encrypted(stored):
            raise DecryptionError(
                "The stored value is not an encrypted string of three hexadecimal parts; it may have been cut",
                hint="Store the value again, or remove it so that it is made anew.",
            )
        opened = self._open(stored.strip())
        if opened is None:
            raise self._does_not_open()
        plain, current = opened
        text = _decoded(plain)
        if text is None:
            raise DecryptionError(
                "The stored value was decrypted, but it is not text",
                hint="Store the value again as UTF-8 text.",
            )
        return Secret(text), current

    def _open(self, stored: str) -> tuple[bytes, bool] | None:
        for ours, iv, sealed in _readings(stored):
            for place, box in enumerate(self._readers):
                try:
                    return box.decrypt(iv, sealed, None), bool(self._writer) and ours and place == 0
                except InvalidTag:
                    continue
        return None

    def _does_not_open(self) -> DecryptionError:
        if not self._readers:
            return DecryptionError(
                f"The stored value is encrypted, and {self._setting} is not set",
                hint=f"Set {self._setting} to the key that the value was written with.",
            )
        return DecryptionError(
            "The stored value opens with none of the configured keys: it was written with another key, "
            "or changed since",
            hint=f"Add the key it was written with at the end of {self._setting} "
            f"(or set {self._also_setting}), or store the value again.",
        )


def looks_encrypted(value: str) -> bool:
    """Whether the value has the form of an encrypted string; only decryption proves that it is one."""
    return _SEALED.fullmatch(value.strip()) is not None


def _boxes(setting: str, keys: Sequence[Secret]) -> list[AESGCM]:
    return [
        AESGCM(bytes.fromhex(checked_encryption_key(setting, key.reveal(), ordinal).reveal()))
        for ordinal, key in enumerate(keys, start=1)
    ]


def _readings(stored: str) -> Iterator[tuple[bool, bytes, bytes]]:
    """Each way to read the three parts, as (whether we write it so, iv, ciphertext + tag)."""
    iv, middle, last = (bytes.fromhex(part) for part in stored.split(":"))
    if len(last) == TAG_BYTES:
        yield True, iv, middle + last
    if len(middle) == TAG_BYTES:
        yield False, iv, last + middle


# Codec errors carry the text they failed on, so neither may become the context of what is raised.
def _encoded(plain: Secret) -> bytes:
    data = plain.reveal().encode("utf-8", errors="replace")
    if data.decode() != plain.reveal():
        raise InvalidArgument(
            "The value to encrypt is not valid Unicode text", hint="Send it as UTF-8 without lone surrogates."
        )
    return data


def _decoded(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
