"""Connection URIs as the driver takes them.

The driver does TLS as `sslmode` asks, and no SCRAM channel binding: it would send `channel_binding`, which Neon's URIs
carry, to the server as a setting, and Postgres refuses it. So it is left out. What it protects from, a server in the
middle that shows any certificate, is then kept away by `verify-full` alone: `require` encrypts, and asks nobody who
the server is. What binding implies does hold: a URI that requires it never goes unencrypted.
"""

from __future__ import annotations

from urllib.parse import unquote_plus, urlsplit, urlunsplit

from agentdb_mcp.models import Secret

_UNENCRYPTED = {"disable", "allow", "prefer"}


def for_driver(uri: Secret) -> str:
    """The URI without what the driver does not know; everything else as it was written."""
    text = uri.reveal()
    try:
        parts = urlsplit(text)
    except ValueError:
        return text  # the driver says what is wrong with it
    options = [(unquote_plus(name), unquote_plus(value), whole) for whole, name, value in _options(parts.query)]
    bound = [value for name, value, _ in options if name == "channel_binding"]
    if not bound:
        return text
    kept = [whole for name, _, whole in options if name != "channel_binding"]
    if "require" in bound:
        modes = [value for name, value, _ in options if name == "sslmode"]
        if not modes or _UNENCRYPTED & set(modes):
            kept = [whole for name, _, whole in options if name not in {"channel_binding", "sslmode"}]
            kept.append("sslmode=require")
    return urlunsplit(parts._replace(query="&".join(kept)))


def _options(query: str) -> list[tuple[str, str, str]]:
    """(as written, name, value) of each."""
    found = []
    for whole in query.split("&"):
        name, _, value = whole.partition("=")
        found.append((whole, name, value))
    return found
