"""Identifiers shaped like Neon's, names for roles and databases, passwords and what Postgres keeps of them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets

ID = re.compile(r"[a-z0-9-]{1,60}")
NAME_BYTES = 63
SUPER_ROLE = "neon_superuser"
RESERVED_ROLES = frozenset({"public", "none", SUPER_ROLE})
SCRAM_ROUNDS = 4096

_FIRST_WORDS = (
    "aged autumn billowing bitter bold broad calm cold cool crimson curly damp dawn dry empty falling flat fragrant "
    "frosty gentle green hidden holy icy jolly late little lively long lucky misty muddy noisy odd old orange patient "
    "plain polished proud purple quiet rapid red rough round royal shiny shy silent small snowy soft solitary spring "
    "steep still summer super sweet throbbing tight twilight wandering weathered white wild winter withered young"
)
_SECOND_WORDS = (
    "art band bar base bird block boat bonus bread breeze brook bush butterfly cake cell cherry cloud credit darkness "
    "dawn dew disk dream dust feather field fire firefly flower fog forest frog frost glade glitter grass hall hat "
    "haze heart hill king lab lake leaf limit math meadow mode moon morning mountain mouse mud night paper pine poetry "
    "pond queen rain recipe resonance rice river salad scene sea shadow shape silence sky smoke snow sound star sun "
    "sunset surf term thunder tooth tree truth union unit violet voice water wave wildflower wind wood"
)
FIRST, SECOND = _FIRST_WORDS.split(), _SECOND_WORDS.split()


def new_id(prefix: str = "") -> str:
    """`round-river-12345678`, after a prefix such as `br-`; eight digits and two words of chance."""
    return f"{prefix}{secrets.choice(FIRST)}-{secrets.choice(SECOND)}-{secrets.randbelow(90_000_000) + 10_000_000}"


def new_password() -> str:
    """192 bits; ASCII that needs no quoting in a URI."""
    return "npg_" + secrets.token_urlsafe(24)


def new_api_key() -> str:
    return "napi_" + secrets.token_urlsafe(40)


def with_suffix(name: str) -> str:
    """`name` made free by a random end, still short enough for Postgres."""
    suffix = f"_{secrets.token_hex(4)}"
    stem = name.encode()[: NAME_BYTES - len(suffix)].decode(errors="ignore")
    return stem + suffix


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def scram_verifier(password: str) -> str:
    """What Postgres stores of a password (RFC 5803).

    Made here, so that no statement carries the password: roles with pg_monitor read other projects' statements in
    pg_stat_activity and pg_stat_statements.
    """
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, SCRAM_ROUNDS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    first, second, third = (base64.b64encode(part).decode() for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${SCRAM_ROUNDS}:{first}${second}:{third}"
