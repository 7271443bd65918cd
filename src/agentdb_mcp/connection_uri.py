"""Connection URIs as the driver takes them.

The driver does TLS as `sslmode` asks, and no SCRAM channel binding: it would send `channel_binding`, which Neon's URIs
carry, to the server as a setting, and Postgres refuses it. So it is left out. What it protects from, a server in the
middle that shows any certificate, is then kept away by `verify-full` alone: `require` encrypts, and asks nobody who
the server is. What binding implies does hold: a URI that requires it never goes unencrypted.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote_plus, urlsplit, urlunsplit

from agentdb_mcp.models import Secret

_UNENCRYPTED = {"disable", "allow", "prefer"}


def for_driver(uri: Secret) -> str:
    """The URI without what the driver does not know; everything else as it was written."""
    text = uri.reveal()
    try:
        parts = urlsplit(text)
    except ValueError:
        return text  # the driver says what is wrong with it
    given = dict(parse_qsl(parts.query))
    if "channel_binding" not in given:
        return text
    left_out, added = {"channel_binding"}, []
    if given["channel_binding"] == "require" and given.get("sslmode", "prefer") in _UNENCRYPTED:
        left_out, added = left_out | {"sslmode"}, ["sslmode=require"]
    kept = [option for option in parts.query.split("&") if unquote_plus(option.partition("=")[0]) not in left_out]
    return urlunsplit(parts._replace(query="&".join(kept + added)))
