"""The one reader of the environment: every setting checked once, named when wrong, never quoted."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from agentdb_mcp.errors import ConfigurationError
from agentdb_mcp.models import Secret

NEON_API_PATH = "/api/v2"
NEON_API_HOST = f"https://console.neon.tech{NEON_API_PATH}"
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
# Guessing is limited over HTTP, but a word of a few letters is no key.
MIN_SERVICE_KEY = 16
# A project's name is a prefix and an id, and Neon takes 256 characters.
MAX_ID_LENGTH = 240

_HEX_KEY = re.compile(r"[0-9a-fA-F]{64}")
_HOST = re.compile(r"\*|(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9._\-\[\]:]+")
_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]+")
_DOLLARS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,12})?")

OrganizationKind = Literal["default", "free", "paid"]
LogFormat = Literal["text", "json"]

_KEY_NAMES: dict[OrganizationKind, str] = {
    "default": "NEON_API_KEY",
    "free": "NEON_FREE_ORG_API_KEY",
    "paid": "NEON_PAID_ORG_API_KEY",
}


@dataclass(frozen=True, slots=True)
class NeonOrganization:
    """One Neon account that projects are made in."""

    kind: OrganizationKind
    api_key: Secret
    org_id: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says. URLs of databases are as given: references in them are not judged here."""

    user_id: str | None = None
    workspace_id: str | None = None
    agent_db_url: Secret | None = None
    global_db_url: Secret | None = None
    control_url: Secret | None = None
    encryption_keys: tuple[Secret, ...] = ()
    neon_connection_encryption_key: Secret | None = None
    sim_encryption_key: Secret | None = None
    neon: tuple[NeonOrganization, ...] = ()
    neon_api_host: str = NEON_API_HOST
    provider_url: Secret | None = None
    service_key: Secret | None = None
    public_url: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    frame_ancestors: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    policy_path: Path | None = None
    compute_price: Decimal | None = None
    storage_price: Decimal | None = None
    log_format: LogFormat = "text"
    log_level: str = "info"
    pg_bin: Path | None = None
    emulator_pg: Secret | None = None
    otel_endpoint: str | None = None
    otel_headers: tuple[tuple[str, Secret], ...] = ()
    worker_listen: tuple[str, int] | None = None

    @property
    def secrets(self) -> list[Secret]:
        """Everything here that no log may show."""
        keys = (self.neon_connection_encryption_key, self.sim_encryption_key, self.service_key)
        urls = (self.control_url, self.provider_url, self.agent_db_url, self.global_db_url, self.emulator_pg)
        found = [secret for secret in (*keys, *urls) if secret is not None]
        found += [*self.encryption_keys, *(value for _, value in self.otel_headers)]
        return found + [organization.api_key for organization in self.neon]


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read all settings; the first that is wrong is a ConfigurationError that names it.

    `AGENTDB_ENV_FILE` names a file of NAME=value lines for what the environment itself does not set.
    """
    env = _with_file(os.environ if environ is None else environ)
    log_format, log_level = _log(env)
    neon, provider_url = _organizations(env), _postgres_url(env, "AGENTDB_PROVIDER_URL")
    if neon and provider_url:
        raise ConfigurationError(
            f"AGENTDB_PROVIDER_URL and {_KEY_NAMES[neon[0].kind]} are both set: databases are made by one of them.",
            hint="Unset one of the two.",
        )
    return Settings(
        user_id=_identifier(env, "AGENTDB_USER_ID"),
        workspace_id=_identifier(env, "AGENTDB_WORKSPACE_ID"),
        agent_db_url=_as_given(env, "AGENT_DB_URL"),
        global_db_url=_as_given(env, "GLOBAL_DB_URL"),
        control_url=_postgres_url(env, "AGENTDB_CONTROL_URL"),
        encryption_keys=_encryption_keys(env),
        neon_connection_encryption_key=_encryption_key(env, "NEON_CONNECTION_ENCRYPTION_KEY"),
        sim_encryption_key=_encryption_key(env, "ENCRYPTION_KEY"),
        neon=neon,
        neon_api_host=_neon_api_host(env),
        provider_url=provider_url,
        service_key=_service_key(env),
        public_url=_web_url(env, "AGENTDB_PUBLIC_URL"),
        allowed_hosts=_list(env, "AGENTDB_ALLOWED_HOSTS", _HOST, "names such as db.example.com or [::1]:8080, or *"),
        allowed_origins=_list(env, "AGENTDB_ALLOWED_ORIGINS", _ORIGIN, "origins such as https://app.example.com"),
        frame_ancestors=_list(env, "AGENTDB_FRAME_ANCESTORS", _ORIGIN, "origins such as https://app.example.com"),
        trusted_proxies=_networks(env, "AGENTDB_TRUSTED_PROXIES"),
        policy_path=_path(env, "AGENTDB_POLICY"),
        compute_price=_dollars(env, "NEON_COMPUTE_PRICE_PER_CU_HOUR"),
        storage_price=_dollars(env, "NEON_STORAGE_PRICE_PER_GB_MONTH"),
        log_format=log_format,
        log_level=log_level,
        pg_bin=_path(env, "AGENTDB_PG_BIN"),
        emulator_pg=_postgres_url(env, "AGENTDB_EMULATOR_PG"),
        otel_endpoint=_otel_endpoint(env),
        otel_headers=_otel_headers(env),
        worker_listen=_listen(env, "AGENTDB_WORKER_LISTEN"),
    )


def _with_file(env: Mapping[str, str]) -> Mapping[str, str]:
    path = _path(env, "AGENTDB_ENV_FILE")
    if path is None:
        return env
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(
            f"AGENTDB_ENV_FILE names {path}, which cannot be read.", hint="Name a file of NAME=value lines."
        ) from None
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.lstrip().startswith("#"))
    return {name.strip(): value.strip() for name, value in pairs} | dict(env)


def checked_encryption_key(setting: str, text: str, ordinal: int | None = None) -> Secret:
    """Return the key, or raise a ConfigurationError that names the setting and tells the length alone."""
    if _HEX_KEY.fullmatch(text):
        return Secret(text)
    subject = setting if ordinal is None else f"{setting}: key {ordinal}"
    found = f"it has {len(text)}" if len(text) != 64 else "and not all of its 64 are"
    raise ConfigurationError(
        f"{subject} must be 64 hexadecimal characters, {found}",
        hint="`openssl rand -hex 32` prints a new key.",
    )


def _text(env: Mapping[str, str], name: str) -> str | None:
    return env.get(name, "").strip() or None


def _literal(env: Mapping[str, str], name: str) -> str | None:
    """The text, unless a client left a reference in it: as an id or a key that would be one all users share."""
    text = _text(env, name)
    return None if text and ("${" in text or "{{" in text) else text


def _as_given(env: Mapping[str, str], name: str) -> Secret | None:
    return Secret(env[name]) if _text(env, name) else None


def _path(env: Mapping[str, str], name: str) -> Path | None:
    text = _text(env, name)
    return Path(text) if text else None


def _identifier(env: Mapping[str, str], name: str) -> str | None:
    text = _literal(env, name)
    if text is None:
        return None
    if len(text) > MAX_ID_LENGTH:
        raise ConfigurationError(f"{name} must be at most {MAX_ID_LENGTH} characters, it has {len(text)}")
    if not text.isprintable():
        raise ConfigurationError(f"{name} must not contain control characters")
    return text


def _header_secret(env: Mapping[str, str], name: str) -> Secret | None:
    text = _literal(env, name)
    if text and not _HEADER_VALUE.fullmatch(text):
        raise ConfigurationError(f"{name} must be printable ASCII characters without spaces")
    return Secret(text) if text else None


def _service_key(env: Mapping[str, str]) -> Secret | None:
    name = "AGENTDB_SERVICE_KEY"
    key = _header_secret(env, name)
    if key and (length := len(key.reveal())) < MIN_SERVICE_KEY:
        raise ConfigurationError(
            f"{name} must be at least {MIN_SERVICE_KEY} characters, it has {length}",
            hint="`openssl rand -hex 32` prints one.",
        )
    return key


def _list(env: Mapping[str, str], name: str, form: re.Pattern[str], what: str) -> tuple[str, ...]:
    """Parts of a list with commas, each of the form."""
    parts = tuple(part.strip() for part in env.get(name, "").split(",") if part.strip())
    if not all(form.fullmatch(part) for part in parts):
        raise ConfigurationError(f"{name} must be a list with commas of {what}")
    return parts


def _networks(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Addresses and networks of a list with commas."""
    parts = [_network(part.strip()) for part in env.get(name, "").split(",") if part.strip()]
    if None in parts:
        raise ConfigurationError(f"{name} must be a list with commas of addresses and networks such as 10.0.0.0/8")
    return tuple(part for part in parts if part is not None)


def _network(text: str) -> str | None:
    try:
        return str(ip_network(text) if "/" in text else ip_address(text))
    except ValueError:
        return None


def _encryption_keys(env: Mapping[str, str]) -> tuple[Secret, ...]:
    name = "AGENTDB_ENCRYPTION_KEYS"
    keys = [key for key in re.split(r"[,\s]", env.get(name, "")) if key]
    return tuple(checked_encryption_key(name, key, ordinal) for ordinal, key in enumerate(keys, start=1))


def _encryption_key(env: Mapping[str, str], name: str) -> Secret | None:
    text = _text(env, name)
    return checked_encryption_key(name, text) if text else None


def _organizations(env: Mapping[str, str]) -> tuple[NeonOrganization, ...]:
    found = (
        _organization(env, "default", "NEON_ORG_ID"),
        _organization(env, "free", "NEON_FREE_ORG_ID"),
        _organization(env, "paid", "NEON_PAID_ORG_ID"),
    )
    return tuple(organization for organization in found if organization)


def _organization(env: Mapping[str, str], kind: OrganizationKind, org_name: str) -> NeonOrganization | None:
    key_name = _KEY_NAMES[kind]
    api_key, org_id = _header_secret(env, key_name), _identifier(env, org_name)
    if org_id and not api_key:
        raise ConfigurationError(f"{key_name} is not set, and {org_name} needs it")
    if api_key and not org_id and kind != "default":
        raise ConfigurationError(f"{org_name} is not set, and {key_name} needs it")
    return NeonOrganization(kind, api_key, org_id) if api_key else None


def _neon_api_host(env: Mapping[str, str]) -> str:
    text = _text(env, "NEON_API_HOST")
    if text is None:
        return NEON_API_HOST
    parts = _split(text)
    if parts is None or parts.scheme not in ("http", "https") or set(text) & set("@?,\\"):
        raise ConfigurationError(f"NEON_API_HOST must be an https:// URL, like {NEON_API_HOST}")
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise ConfigurationError(
            "NEON_API_HOST must be https://: http:// is for this machine alone, as in http://127.0.0.1:4010"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or NEON_API_PATH}"


def _web_url(env: Mapping[str, str], name: str) -> str | None:
    text = _text(env, name)
    if text is None:
        return None
    parts = _split(text)
    if parts is None or parts.scheme not in ("http", "https") or set(text) & set("@?,\\#"):
        raise ConfigurationError(f"{name} must be the https:// URL that the server is reached by")
    return text.rstrip("/")


def _otel_endpoint(env: Mapping[str, str]) -> str | None:
    """Where traces go; OpenTelemetry's own variables, of which the one for traces alone wins."""
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or env.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return None
    for name, path in (("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", ""), ("OTEL_EXPORTER_OTLP_ENDPOINT", "/v1/traces")):
        if (text := _text(env, name)) is None:
            continue
        parts = _split(text)
        if parts is None or parts.scheme not in ("http", "https") or set(text) & set("@?,\\"):
            raise ConfigurationError(f"{name} must be a collector's http:// or https:// URL, without a password")
        _otel_protocol(env)
        return text.rstrip("/") + path
    return None


def _otel_protocol(env: Mapping[str, str]) -> None:
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if (text := _text(env, name)) is not None:
            if text != "http/protobuf":
                raise ConfigurationError(
                    f"{name} must be http/protobuf: traces are sent that way alone.",
                    hint="A collector takes it at port 4318; OTEL_TRACES_EXPORTER=none sends none.",
                )
            return


def _otel_headers(env: Mapping[str, str]) -> tuple[tuple[str, Secret], ...]:
    """`name=value` pairs with commas, values percent-encoded."""
    name = "OTEL_EXPORTER_OTLP_TRACES_HEADERS"
    name = name if _text(env, name) else "OTEL_EXPORTER_OTLP_HEADERS"
    pairs = [pair.partition("=") for pair in (_text(env, name) or "").split(",") if pair.strip()]
    found = [(header.strip().lower(), unquote(value.strip())) for header, _, value in pairs]
    if not all(_HEADER_NAME.fullmatch(header) and value.isascii() and value.isprintable() for header, value in found):
        raise ConfigurationError(f"{name} must be a list with commas of name=value")
    return tuple((header, Secret(value)) for header, value in found)


def _listen(env: Mapping[str, str], name: str) -> tuple[str, int] | None:
    """An address and a port; the address is this machine's own unless told."""
    text = _text(env, name)
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not (port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise ConfigurationError(f"{name} must be an address and a port, like 127.0.0.1:9464, or a port alone")
    if not _is_loopback(host) and _text(env, "AGENTDB_SERVICE_KEY") is None:
        raise ConfigurationError(
            f"AGENTDB_SERVICE_KEY is missing, and {name} lets other machines ask.",
            hint=f"Set the key that they are to send, or let {name} be 127.0.0.1:{port}.",
        )
    return host, int(port)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _postgres_url(env: Mapping[str, str], name: str) -> Secret | None:
    text = _text(env, name)
    if text is None:
        return None
    parts = _split(text)
    if parts is None or not text.startswith(("postgresql://", "postgres://")):
        raise ConfigurationError(
            f"{name} must be a postgresql:// URL with a host, like postgresql://user:password@host:5432/database",
            hint="Percent-encode special characters in the user and the password.",
        )
    return Secret(text)


def _split(url: str) -> SplitResult | None:
    """Take a URL apart; None unless each of its hosts is named and its ports are ports."""
    try:
        parts = urlsplit(url)
        hosts = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
        whole = all(host.hostname and host.port != 0 for host in hosts) or "host" in parse_qs(parts.query)
    except ValueError:
        return None
    return parts if whole and url.isprintable() and "#" not in url else None


def _dollars(env: Mapping[str, str], name: str) -> Decimal | None:
    text = _text(env, name)
    if text and not _DOLLARS.fullmatch(text):
        raise ConfigurationError(f"{name} must be a price in dollars that is not negative, like 0.16")
    return Decimal(text) if text else None


def _log(env: Mapping[str, str]) -> tuple[LogFormat, str]:
    words = [word for word in re.split(r"[,:\s]", env.get("AGENTDB_LOG", "").lower()) if word]
    formats = [word for word in words if word in ("text", "json")]
    levels = [word for word in words if word in LOG_LEVELS]
    if len(formats) > 1 or len(levels) > 1 or len(formats) + len(levels) != len(words):
        raise ConfigurationError(
            f"AGENTDB_LOG must be text or json, a level ({', '.join(LOG_LEVELS)}), or both, like json,debug"
        )
    return "json" if "json" in formats else "text", levels[0] if levels else "info"
