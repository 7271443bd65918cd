"""What each variable of the environment is, in words: docs/configuration.md is written from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Variable:
    """`field` is where `Settings` keeps it, which tells default and secrecy; None for what is not kept."""

    name: str
    field: str | None
    form: str
    meaning: str


_KEY = "64 hexadecimal characters"
_ORGANIZATIONS = "two organizations instead of one; to move projects between them, Neon wants a key that both share"

VARIABLES = (
    Variable("AGENTDB_USER_ID", "user_id", "text", "the user of a stdio server's tenant"),
    Variable("AGENTDB_WORKSPACE_ID", "workspace_id", "text", "the workspace of a stdio server's tenant"),
    Variable(
        "AGENT_DB_URL",
        "agent_db_url",
        "`postgresql://` URL",
        "the agent's database, plain or encrypted; an unresolved `${…}` or `{{…}}` counts as missing",
    ),
    Variable("GLOBAL_DB_URL", "global_db_url", "`postgresql://` URL", "the user's global database, the same way"),
    Variable(
        "AGENTDB_CONTROL_URL",
        "control_url",
        "`postgresql://` URL",
        "the control database, the platform's own Postgres; not through a transaction pooler",
    ),
    Variable(
        "AGENTDB_ENCRYPTION_KEYS",
        "encryption_keys",
        f"list of {_KEY}",
        "keys of stored connection strings, newest first: the first encrypts, all decrypt",
    ),
    Variable(
        "NEON_CONNECTION_ENCRYPTION_KEY", "neon_connection_encryption_key", _KEY, "a further key that only decrypts"
    ),
    Variable(
        "ENCRYPTION_KEY",
        "sim_encryption_key",
        _KEY,
        "Sim Studio's: decrypts too, and encrypts what is written into Sim's variables ([Sim Studio](sim.md))",
    ),
    Variable("NEON_API_KEY", "neon", "text", "Neon's API key, of an organization or a person"),
    Variable("NEON_ORG_ID", "neon", "text", "the organization in which projects are made"),
    Variable("NEON_FREE_ORG_API_KEY", "neon", "text", _ORGANIZATIONS),
    Variable("NEON_FREE_ORG_ID", "neon", "text", "the organization of tiers that do not pay"),
    Variable("NEON_PAID_ORG_API_KEY", "neon", "text", _ORGANIZATIONS),
    Variable("NEON_PAID_ORG_ID", "neon", "text", "the organization of `[organizations] paid_tiers`"),
    Variable("NEON_API_HOST", "neon_api_host", "`https://` URL", "Neon's API; `http://` on this machine alone"),
    Variable(
        "AGENTDB_PROVIDER_URL",
        "provider_url",
        "`postgresql://` URL",
        "instead of Neon: a cluster of Postgres 16 or newer, by a login with `CREATEDB` and `CREATEROLE`",
    ),
    Variable(
        "AGENTDB_SERVICE_KEY",
        "service_key",
        "16 characters or more",
        "the backend's key for REST; without it only tokens are answered",
    ),
    Variable("AGENTDB_PUBLIC_URL", "public_url", "`https://` URL", "where others reach the HTTP server"),
    Variable(
        "AGENTDB_ALLOWED_HOSTS",
        "allowed_hosts",
        "list of names, or `*`",
        "names that the HTTP server is reached by; this machine's own are always known",
    ),
    Variable(
        "AGENTDB_ALLOWED_ORIGINS",
        "allowed_origins",
        "list of origins",
        "origins of web pages that may ask, such as `https://app.example.com`",
    ),
    Variable(
        "AGENTDB_FRAME_ANCESTORS",
        "frame_ancestors",
        "list of origins",
        "origins of the pages that may show the explorer in a frame",
    ),
    Variable(
        "AGENTDB_TRUSTED_PROXIES",
        "trusted_proxies",
        "list of addresses and networks",
        "proxies in front, whose `X-Forwarded-For` tells who calls",
    ),
    Variable("AGENTDB_POLICY", "policy_path", "path", "a [policy](policies.md) file; else the shipped default alone"),
    Variable(
        "NEON_COMPUTE_PRICE_PER_CU_HOUR",
        "compute_price",
        "dollars, such as `0.106`",
        "overrides `compute_per_cu_hour` of the price book in use",
    ),
    Variable(
        "NEON_STORAGE_PRICE_PER_GB_MONTH",
        "storage_price",
        "dollars, such as `0.35`",
        "overrides `storage_per_gb_month` of the price book in use",
    ),
    Variable(
        "AGENTDB_LOG",
        "log_format",
        "`text` or `json`, a level, or both",
        "the log on stderr, such as `json,debug`; the level is `info` unless given",
    ),
    Variable(
        "AGENTDB_WORKER_LISTEN",
        "worker_listen",
        "address and port, such as `127.0.0.1:9464`",
        "where a worker shows `/metrics` and `/healthz`",
    ),
    Variable(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "otel_endpoint",
        "URL",
        "a collector for [traces](operating.md#traces) over OTLP/HTTP; takes the extra `otel`",
    ),
    Variable(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "otel_endpoint", "URL", "the same, as the whole URL that traces go to"
    ),
    Variable("OTEL_EXPORTER_OTLP_HEADERS", "otel_headers", "list of `name=value`", "headers for the collector"),
    Variable("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "otel_headers", "list of `name=value`", "the same, for traces alone"),
    Variable("OTEL_EXPORTER_OTLP_PROTOCOL", None, "`http/protobuf`", "anything else stops the start"),
    Variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", None, "`http/protobuf`", "the same, for traces alone"),
    Variable("OTEL_TRACES_EXPORTER", None, "`otlp` or `none`", "anything but `otlp` sends no traces"),
    Variable("OTEL_SDK_DISABLED", None, "`true` or `false`", "`true` sends no traces"),
    Variable("AGENTDB_PG_BIN", "pg_bin", "path", "the programs of a Postgres to embed instead of the wheel's"),
    Variable(
        "AGENTDB_EMULATOR_PG",
        "emulator_pg",
        "`postgresql://` URL",
        "of `neon-emulator`: a superuser's, where it embeds none; `--pg` would show it to who lists processes",
    ),
    Variable(
        "AGENTDB_ENV_FILE",
        None,
        "path",
        "a file of `NAME=value` lines for what the environment itself does not set",
    ),
)

# Those whose part of `neon` is a secret.
SECRET_PARTS = frozenset({"NEON_API_KEY", "NEON_FREE_ORG_API_KEY", "NEON_PAID_ORG_API_KEY"})
