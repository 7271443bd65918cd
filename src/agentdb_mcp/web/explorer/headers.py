"""What every page of the explorer tells the browser: what it may load, who may frame it, which cookie is whose."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import MutableHeaders

from agentdb_mcp.web.explorer.session import COOKIE, LONGEST_S


def page_headers(ancestors: Sequence[str], *, nonce: str | None = None) -> dict[str, str]:
    """With a nonce: a page of the toolkit's, whose Vue compiles templates (`unsafe-eval`) and sets styles.

    `no-referrer` would have browsers send forms of ours with the origin `null`; other sites are told nothing by either.
    """
    scripts = f"'self' 'nonce-{nonce}' 'unsafe-eval'" if nonce else "'self'"
    policy = {
        "default-src": "'none'",
        "script-src": scripts,
        "style-src": "'self' 'unsafe-inline'" if nonce else "'self'",
        "img-src": "'self' data:",
        "font-src": "'self' data:",
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": " ".join(["'self'", *ancestors]) if ancestors else "'none'",
    }
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",
        "cache-control": "no-store",
        "cross-origin-opener-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=()",
    }


def set_cookie(headers: MutableHeaders, value: str, *, embedded: bool, https: bool) -> None:
    """`embedded` over https: for a frame in a page of another site, kept apart for each such site."""
    parts = [f"{COOKIE}={value}", "Path=/explorer", "HttpOnly", f"Max-Age={LONGEST_S if value else 0}"]
    if https:
        parts.append("Secure")
    parts += ["SameSite=None", "Partitioned"] if embedded and https else ["SameSite=Lax"]
    headers.append("set-cookie", "; ".join(parts))
