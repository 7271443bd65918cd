"""What Neon answers, read or turned into one error of ours. Bodies never reach a message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.models import Project

# The server has not begun: safe to repeat for any method.
NOT_BEGUN = frozenset({423, 429, 503})

_MEANING = {
    401: "Neon refused the API key.",
    402: "Neon wants a payment for this.",
    403: "Neon's key or plan does not allow this.",
    404: "Neon does not know this project or organization.",
    406: "Neon has no capacity or no data for what was asked.",
    412: "Neon's plan does not accept these settings.",
    422: "Neon's limit of projects or snapshots is reached, or it does not accept the request.",
    423: "Another operation runs on the project at Neon.",
    429: "Neon's rate limit is reached.",
}


@contextmanager
def understood() -> Iterator[None]:
    """Reading an answer: one of another shape is an error of the service, or of the address."""
    try:
        yield
    except (ArithmeticError, KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise ProvisioningFailed(
            "Neon's answer is not one that this version understands.", hint="Check NEON_API_HOST."
        ) from None


def project(item: dict[str, Any], organization: str | None, branch: dict[str, Any] | None = None) -> Project:
    return Project(item["id"], item["name"], branch["id"] if branch else None, item.get("created_at"), organization)


def refusal(response: httpx.Response) -> ProvisioningFailed:
    """What the status means, with Neon's request id for its support."""
    status = response.status_code
    request_id = _request_id(response)
    posted = status >= 500 and status not in NOT_BEGUN and response.request.method == "POST"
    where = f"HTTP {status}{', request ' + request_id if request_id else ''}"
    return ProvisioningFailed(
        f"{_MEANING.get(status, 'Neon failed.')} ({where}{'; the outcome is unknown' if posted else ''})",
        hint="Whoever runs the platform: check NEON_API_KEY and NEON_ORG_ID with `agentdb-mcp doctor`."
        if status in {401, 403, 404}
        else "Run it again later.",
        retryable=status in NOT_BEGUN or status >= 500,
    )


def _request_id(response: httpx.Response) -> str:
    try:
        request_id = str(response.json().get("request_id") or "")
    except (ValueError, AttributeError):
        request_id = ""
    return (request_id or response.headers.get("x-neon-ret-request-id", ""))[:64]


def unreachable(error: httpx.HTTPError) -> ProvisioningFailed:
    return ProvisioningFailed(
        f"Neon's API cannot be reached ({type(error).__name__}).", hint="Run it again later.", retryable=True
    )


def unknown_outcome(error: httpx.HTTPError, path: str) -> ProvisioningFailed:
    """A POST that nobody answered: it is not sent again."""
    return ProvisioningFailed(
        f"Neon did not answer a POST ({type(error).__name__}); its outcome is unknown.",
        hint="Run it again: the project is looked for by its name first."
        if path == "/projects"
        else "Run it again: doing it twice does no harm.",
        retryable=True,
    )


def rate_limited(seconds: float) -> ProvisioningFailed:
    return ProvisioningFailed(
        f"{_MEANING[429]} It takes calls again in {seconds:.0f} s.", hint="Run it again then.", retryable=True
    )


def retry_after(response: httpx.Response) -> float | None:
    """Seconds from a number or from an HTTP date, which is measured by the server's own clock where it tells it."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    then = _http_date(text)
    if then is None:
        return None
    now = _http_date(response.headers.get("Date", "")) or datetime.now(UTC)
    return max(0.0, (then - now).total_seconds())


def _http_date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
