"""Logs: ours and the libraries' alike, to stderr alone, with every credential taken out."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar, Token
from types import TracebackType
from typing import cast
from urllib.parse import quote, unquote

import structlog
from structlog.stdlib import BoundLogger, ProcessorFormatter
from structlog.typing import EventDict, Processor

from agentdb_mcp.models import Secret

HIDDEN = "…"
MIN_SECRET_LENGTH = 8
MAX_SECRETS = 256
MAX_DEPTH = 8
QUIET_LOGGERS = ("asyncio", "httpcore", "httpx", "mcp", "sqlglot", "uvicorn", "uvicorn.access", "uvicorn.error")

# Hiding these words as somebody's password would hide what the patterns below look for.
_ORDINARY = "postgresql:// password authorization bearer"

_POSTGRES_URL = re.compile(r"(postgres(?:ql)?(?:\+\w{1,20})?://)(?=[^\w\s]{0,3}\w)\S*", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"://[^\s/@]*?:([^\s@]*)@")
_VALUE = r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\\"[^"]*"|\S+)"""
_NAMED = r"(?:password|passwd|passphrase|pwd|secret|api[_-]?key|encryption_key)"
_ASSIGNED = re.compile(rf"({_NAMED}(?:\\?[\"']?\s*[:=]\s*|\s+(?=')))(?:bearer\s+)?{_VALUE}", re.IGNORECASE)
_BEARER = re.compile(r"\b(bearer\s+)\S+", re.IGNORECASE)
_SEALED = re.compile(r"[0-9a-f]{32}:[0-9a-f]*:[0-9a-f]*", re.IGNORECASE)
_SECRET_KEY = re.compile(rf"{_NAMED}$|^(?:authorization|token|x-internal-api-key)$", re.IGNORECASE)
# Our tokens, and Neon's keys.
_TOKEN = re.compile(r"(?:adb|napi)_[A-Za-z0-9_-]{16,}")
_CONTROL = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])

_REQUEST: ContextVar[str | None] = ContextVar("agentdb_request", default=None)

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


class _Secrets:
    """The live secrets to take out: some for good, and the newest of those that come and go."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: set[str] = set()
        self._recent: dict[str, None] = {}
        self.longest_first: tuple[str, ...] = ()

    def add(self, secret: Secret, *, keep: bool = False) -> None:
        with self._lock:
            for value in _forms(secret.reveal()):
                if keep:
                    self._kept.add(value)
                else:
                    self._recent.pop(value, None)
                    self._recent[value] = None
            while len(self._recent) > MAX_SECRETS:
                del self._recent[next(iter(self._recent))]
            self.longest_first = tuple(sorted(self._kept | self._recent.keys(), key=len, reverse=True))


def _forms(value: str) -> list[str]:
    """The secret itself and, of a URL, its password, which servers repeat without the rest; plain and as quoted."""
    forms = [value]
    if match := _URL_PASSWORD.search(value):
        forms += match[1], unquote(match[1])
    for form in tuple(forms):
        forms += json.dumps(form)[1:-1], repr(form)[1:-1], ascii(form)[1:-1], quote(form), quote(form, safe="")
    forms = list(dict.fromkeys(form.translate(_CONTROL) for form in forms))
    return [form for form in forms if len(form) >= MIN_SECRET_LENGTH and form.lower() not in _ORDINARY]


_secrets = _Secrets()


def register_secret(secret: Secret) -> None:
    """Take this value out of all logs from now on; the oldest are forgotten when there are many."""
    _secrets.add(secret)


def scrub_text(text: str) -> str:
    """Hide credentials in a text: live secrets, URLs, passwords, tokens, Neon's keys, encrypted strings."""
    text = text.translate(_CONTROL)
    for secret in _secrets.longest_first:
        text = text.replace(secret, HIDDEN)
    if "://" in text:
        text = _POSTGRES_URL.sub(rf"\1{HIDDEN}@{HIDDEN}", text)
        text = re.sub(r"\S+", _without_userinfo, text)
    text = _TOKEN.sub(HIDDEN, text)
    text = _ASSIGNED.sub(rf"\1{HIDDEN}", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    return _SEALED.sub(HIDDEN, text)


class Identified:
    """`with Identified(id)`: log lines and audit entries of the block, and of tasks begun in it, have this id."""

    __slots__ = ("_id", "_token")

    def __init__(self, identifier: str) -> None:
        self._id = identifier

    def __enter__(self) -> None:
        self._token: Token[str | None] = _REQUEST.set(self._id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        _REQUEST.reset(self._token)


def request_id() -> str | None:
    """Of the request that this is done for."""
    return _REQUEST.get()


def _add_request_id(_logger: object, _method: str, event: EventDict) -> EventDict:
    if (identifier := _REQUEST.get()) is not None:
        event.setdefault("request_id", identifier)
    return event


def _without_userinfo(word: re.Match[str]) -> str:
    scheme, separator, rest = word[0].partition("://")
    _, at, host = rest.rpartition("@")
    return f"{scheme}{separator}{HIDDEN}@{host}" if at else word[0]


def _scrub(value: object, depth: int = 0) -> object:
    """Return the value made of plain types, with every string in it scrubbed."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return scrub_text(value)
    if depth >= MAX_DEPTH:
        return HIDDEN
    if isinstance(value, Mapping):
        return {scrub_text(str(key)): _scrub_item(str(key), item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_scrub(item, depth + 1) for item in value]
    return scrub_text(_described(value))


def _scrub_item(key: str, item: object, depth: int) -> object:
    return HIDDEN if item is not None and _SECRET_KEY.search(key) else _scrub(item, depth)


def _described(value: object) -> str:
    try:
        return f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else repr(value)
    except Exception:  # noqa: BLE001 - a value that cannot be shown must not lose the event
        return f"<{type(value).__name__}>"


def _scrub_event(_logger: object, _method: str, event: EventDict) -> EventDict:
    # structlog's own entries, which begin with an underscore, never reach the output.
    return {key: item if key.startswith("_") else _scrub_item(key, item, 0) for key, item in event.items()}


def _render_exception(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Write the exception and its causes as text: frames without their locals."""
    found = event.pop("exc_info", None)
    if isinstance(found, BaseException):
        found = (type(found), found, found.__traceback__)
    elif found and not isinstance(found, tuple):
        found = sys.exc_info()
    if found and found[1] is not None:
        kind, error, frames = cast(ExcInfo, found)
        rendered = traceback.TracebackException(kind, error, frames, compact=True)
        event["exception"] = "".join(rendered.format()).rstrip()
    return event


def _one_line(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Keep an event on its line, so that nothing logged can pass for another entry."""
    event["event"] = str(event.get("event", "")).replace("\n", "\\n")
    return event


_CHAIN: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    _add_request_id,
    structlog.processors.StackInfoRenderer(),
    _render_exception,
    _scrub_event,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
_OWN_CHAIN: list[Processor] = [
    structlog.stdlib.filter_by_level,
    structlog.stdlib.PositionalArgumentsFormatter(),
    *_CHAIN,
    ProcessorFormatter.wrap_for_formatter,
]


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to stderr; a record that fails is named, not printed as logging would print it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        with suppress(OSError, ValueError):
            self.stream.write(f"a log record of {record.name} could not be written\n")


def _renderer(log_format: str) -> list[Processor]:
    if log_format == "json":
        return [structlog.processors.JSONRenderer(ensure_ascii=False)]
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
    )
    return [_one_line, console]


def configure_logging(settings_log_format: str, level: str, secrets: Iterable[Secret] = ()) -> None:
    """Send all logging to stderr as `text` or `json`; `secrets` are hidden for good."""
    for secret in secrets:
        _secrets.add(secret, keep=True)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    handler = _Handler(sys.stderr)
    final: list[Processor] = [ProcessorFormatter.remove_processors_meta, *_renderer(settings_log_format)]
    handler.setFormatter(ProcessorFormatter(foreign_pre_chain=_CHAIN, processors=final))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for name in QUIET_LOGGERS:
        quiet = logging.getLogger(name)
        quiet.handlers.clear()
        quiet.propagate = True
        quiet.setLevel(max(threshold, logging.WARNING))
    structlog.configure(
        processors=_OWN_CHAIN, wrapper_class=BoundLogger, logger_factory=structlog.stdlib.LoggerFactory()
    )


def get_logger(name: str) -> BoundLogger:
    """Return a logger that goes by way of the standard library, configured or not: never to stdout."""
    logger = structlog.wrap_logger(
        logging.getLogger(name), processors=_OWN_CHAIN, wrapper_class=BoundLogger, cache_logger_on_first_use=True
    )
    return cast(BoundLogger, logger)
