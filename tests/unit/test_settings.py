"""The environment, read once: right settings typed, wrong ones named and never quoted."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from agentdb_mcp.errors import ConfigurationError
from agentdb_mcp.models import Secret
from agentdb_mcp.settings import NeonOrganization, Settings, load_settings

KEY, OLDER = "a1" * 32, "B2" * 32
URL = "postgresql://owner:s3cret@db.example:5432/control"


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load_settings({}) == Settings()
    assert Settings().neon_api_host == "https://console.neon.tech/api/v2"
    assert (Settings().log_format, Settings().log_level) == ("text", "info")


def test_the_process_environment_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTDB_USER_ID", "from-process")
    assert load_settings().user_id == "from-process"


@pytest.mark.parametrize(
    ("name", "value", "field", "answer"),
    [
        ("AGENTDB_USER_ID", " user-1\n", "user_id", "user-1"),
        ("AGENTDB_USER_ID", "x" * 240, "user_id", "x" * 240),
        ("AGENTDB_USER_ID", "  ", "user_id", None),
        ("AGENTDB_USER_ID", "${USER_ID}", "user_id", None),
        ("AGENTDB_WORKSPACE_ID", "ws {{WORKSPACE}}", "workspace_id", None),
        ("AGENTDB_WORKSPACE_ID", "Wörk ✓", "workspace_id", "Wörk ✓"),
        ("AGENT_DB_URL", " as given ", "agent_db_url", Secret(" as given ")),
        ("AGENT_DB_URL", "${AGENT_DB_URL}", "agent_db_url", Secret("${AGENT_DB_URL}")),
        ("GLOBAL_DB_URL", " \t", "global_db_url", None),
        ("GLOBAL_DB_URL", "agentdb://global", "global_db_url", Secret("agentdb://global")),
        ("AGENTDB_CONTROL_URL", URL, "control_url", Secret(URL)),
        ("AGENTDB_CONTROL_URL", f" {URL}\n", "control_url", Secret(URL)),
        ("AGENTDB_CONTROL_URL", "postgres://h", "control_url", Secret("postgres://h")),
        ("AGENTDB_CONTROL_URL", "postgresql://a:1,b:2/db", "control_url", Secret("postgresql://a:1,b:2/db")),
        ("AGENTDB_CONTROL_URL", "postgresql://[::1]/db", "control_url", Secret("postgresql://[::1]/db")),
        (
            "AGENTDB_CONTROL_URL",
            "postgresql:///d?host=/run/pg",
            "control_url",
            Secret("postgresql:///d?host=/run/pg"),
        ),
        ("AGENTDB_PROVIDER_URL", URL, "provider_url", Secret(URL)),
        ("AGENTDB_PROVIDER_URL", "", "provider_url", None),
        ("AGENTDB_EMULATOR_PG", URL, "emulator_pg", Secret(URL)),
        ("AGENTDB_ENCRYPTION_KEYS", f" {KEY}, {OLDER}\n", "encryption_keys", (Secret(KEY), Secret(OLDER))),
        ("AGENTDB_ENCRYPTION_KEYS", f"{OLDER}\n{KEY},", "encryption_keys", (Secret(OLDER), Secret(KEY))),
        ("AGENTDB_ENCRYPTION_KEYS", " , ", "encryption_keys", ()),
        ("NEON_CONNECTION_ENCRYPTION_KEY", KEY, "neon_connection_encryption_key", Secret(KEY)),
        ("ENCRYPTION_KEY", f"{KEY} ", "sim_encryption_key", Secret(KEY)),
        ("AGENTDB_SERVICE_KEY", " sixteen-and-more ", "service_key", Secret("sixteen-and-more")),
        ("AGENTDB_SERVICE_KEY", "${AGENTDB_SERVICE_KEY}", "service_key", None),
        ("NEON_API_KEY", "{{NEON_API_KEY}}", "neon", ()),
        ("AGENTDB_TRUSTED_PROXIES", " 10.0.0.0/8, ::1 ", "trusted_proxies", ("10.0.0.0/8", "::1")),
        ("AGENTDB_POLICY", "policies/mine.toml", "policy_path", Path("policies/mine.toml")),
        ("AGENTDB_PG_BIN", "/opt/pg/bin", "pg_bin", Path("/opt/pg/bin")),
        ("NEON_COMPUTE_PRICE_PER_CU_HOUR", "0.16", "compute_price", Decimal("0.16")),
        ("NEON_STORAGE_PRICE_PER_GB_MONTH", "0", "storage_price", Decimal(0)),
    ],
)
def test_a_setting_is_read(name: str, value: str, field: str, answer: object) -> None:
    assert getattr(load_settings({name: value}), field) == answer


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("", "https://console.neon.tech/api/v2"),
        ("https://console.neon.tech/api/v2", "https://console.neon.tech/api/v2"),
        ("https://console.neon.tech/api/v2/", "https://console.neon.tech/api/v2"),
        ("https://console.neon.tech", "https://console.neon.tech/api/v2"),
        ("https://proxy.example/neon/", "https://proxy.example/neon"),
        ("http://127.0.0.1:1234", "http://127.0.0.1:1234/api/v2"),
        ("http://127.0.0.1:1234/", "http://127.0.0.1:1234/api/v2"),
        ("http://localhost:1234/api/v2", "http://localhost:1234/api/v2"),
        ("http://[::1]:1234", "http://[::1]:1234/api/v2"),
    ],
)
def test_neons_address_ends_in_its_path_and_without_a_slash(given: str, host: str) -> None:
    assert load_settings({"NEON_API_HOST": given}).neon_api_host == host


DEFAULT = {"NEON_API_KEY": "napi_d"}
FREE = {"NEON_FREE_ORG_API_KEY": "napi_f", "NEON_FREE_ORG_ID": "org-f"}
PAID = {"NEON_PAID_ORG_API_KEY": "napi_p", "NEON_PAID_ORG_ID": "org-p"}


@pytest.mark.parametrize(
    ("env", "organizations"),
    [
        ({}, ()),
        (DEFAULT, (NeonOrganization("default", Secret("napi_d")),)),
        (DEFAULT | {"NEON_ORG_ID": "org-d"}, (NeonOrganization("default", Secret("napi_d"), "org-d"),)),
        (
            PAID | FREE,
            (
                NeonOrganization("free", Secret("napi_f"), "org-f"),
                NeonOrganization("paid", Secret("napi_p"), "org-p"),
            ),
        ),
        (
            PAID | DEFAULT,
            (
                NeonOrganization("default", Secret("napi_d")),
                NeonOrganization("paid", Secret("napi_p"), "org-p"),
            ),
        ),
    ],
    ids=["none", "key alone", "key and organization", "free and paid", "default and paid"],
)
def test_neon_organizations_are_pairs(env: dict[str, str], organizations: tuple[NeonOrganization, ...]) -> None:
    assert load_settings(env).neon == organizations


@pytest.mark.parametrize(
    ("given", "log"),
    [
        ("", ("text", "info")),
        ("text", ("text", "info")),
        ("json", ("json", "info")),
        ("debug", ("text", "debug")),
        ("json,debug", ("json", "debug")),
        ("json:debug", ("json", "debug")),
        (" WARNING , Text ", ("text", "warning")),
    ],
)
def test_the_log_setting_is_a_format_a_level_or_both(given: str, log: tuple[str, str]) -> None:
    settings = load_settings({"AGENTDB_LOG": given})
    assert (settings.log_format, settings.log_level) == log


HIDDEN = "h1dden"


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"AGENTDB_USER_ID": f"{HIDDEN}\x00"}, "AGENTDB_USER_ID must not contain control characters"),
        ({"AGENTDB_USER_ID": f"{HIDDEN}\nx"}, "AGENTDB_USER_ID must not contain control characters"),
        ({"AGENTDB_WORKSPACE_ID": HIDDEN * 50}, "AGENTDB_WORKSPACE_ID must be at most 240 characters, it has 300"),
        (
            {"AGENTDB_ENCRYPTION_KEYS": f"{KEY},{HIDDEN * 2}"},
            "AGENTDB_ENCRYPTION_KEYS: key 2 must be 64 hexadecimal characters, it has 12",
        ),
        (
            {"AGENTDB_ENCRYPTION_KEYS": "${" + HIDDEN + "}"},
            "AGENTDB_ENCRYPTION_KEYS: key 1 must be 64 hexadecimal characters, it has 9",
        ),
        ({"ENCRYPTION_KEY": HIDDEN}, "ENCRYPTION_KEY must be 64 hexadecimal characters, it has 6"),
        (
            {"NEON_CONNECTION_ENCRYPTION_KEY": HIDDEN + "z" * 58},
            "NEON_CONNECTION_ENCRYPTION_KEY must be 64 hexadecimal characters, and not all of its 64 are",
        ),
        ({"NEON_API_KEY": f"{HIDDEN} x"}, "NEON_API_KEY must be printable ASCII"),
        ({"AGENTDB_SERVICE_KEY": "fifteen-letters"}, "AGENTDB_SERVICE_KEY must be at least 16 characters, it has 15"),
        ({"AGENTDB_SERVICE_KEY": f"{HIDDEN}é"}, "AGENTDB_SERVICE_KEY must be printable ASCII"),
        ({"AGENTDB_TRUSTED_PROXIES": f"10.0.0.1,{HIDDEN}"}, "AGENTDB_TRUSTED_PROXIES must be a list with commas"),
        ({"AGENTDB_TRUSTED_PROXIES": "10.0.0.1/8"}, "AGENTDB_TRUSTED_PROXIES must be a list with commas"),
        ({"NEON_ORG_ID": HIDDEN}, "NEON_API_KEY is not set, and NEON_ORG_ID needs it"),
        ({"NEON_FREE_ORG_API_KEY": HIDDEN}, "NEON_FREE_ORG_ID is not set, and NEON_FREE_ORG_API_KEY needs it"),
        ({"NEON_PAID_ORG_ID": HIDDEN}, "NEON_PAID_ORG_API_KEY is not set, and NEON_PAID_ORG_ID needs it"),
        ({"AGENTDB_PROVIDER_URL": f"mysql://u:{HIDDEN}@h/db"}, "AGENTDB_PROVIDER_URL must be a postgresql:// URL"),
        (
            {"AGENTDB_PROVIDER_URL": f"postgresql://u:{HIDDEN}@h/db", "NEON_API_KEY": HIDDEN},
            "AGENTDB_PROVIDER_URL and NEON_API_KEY are both set",
        ),
        (
            {"AGENTDB_PROVIDER_URL": f"postgresql://u:{HIDDEN}@h/db"} | PAID,
            "AGENTDB_PROVIDER_URL and NEON_PAID_ORG_API_KEY are both set",
        ),
        ({"NEON_COMPUTE_PRICE_PER_CU_HOUR": HIDDEN}, "NEON_COMPUTE_PRICE_PER_CU_HOUR must be a price in dollars"),
        ({"NEON_COMPUTE_PRICE_PER_CU_HOUR": "-0.1"}, "NEON_COMPUTE_PRICE_PER_CU_HOUR must be a price in dollars"),
        ({"NEON_STORAGE_PRICE_PER_GB_MONTH": "NaN"}, "NEON_STORAGE_PRICE_PER_GB_MONTH must be a price in dollars"),
        ({"NEON_STORAGE_PRICE_PER_GB_MONTH": "1e99"}, "NEON_STORAGE_PRICE_PER_GB_MONTH must be a price"),
        ({"AGENTDB_LOG": HIDDEN}, "AGENTDB_LOG must be text or json, a level"),
        ({"AGENTDB_LOG": "text,json"}, "AGENTDB_LOG must be"),
        ({"AGENTDB_LOG": "debug:info"}, "AGENTDB_LOG must be"),
    ],
)
def test_a_wrong_setting_is_named_and_not_quoted(env: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(env)
    error = caught.value
    assert error.message.startswith(told)
    assert "\n" not in error.message
    assert HIDDEN not in repr(error) + str(error.hint)
    assert error.__cause__ is error.__context__ is None


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://u:{HIDDEN}@h/db",
        f"u:{HIDDEN}@h/db",
        f"postgresql:{HIDDEN}",
        f"postgresql:///{HIDDEN}",
        f"postgresql://u:{HIDDEN}@/db",
        f"postgresql://u:{HIDDEN}@h:notaport/db",
        f"postgresql://u:{HIDDEN}@h:0/db",
        f"postgresql://u:{HIDDEN}@h:99999/db",
        f"postgresql://u:{HIDDEN}@[::1/db",
        f"postgresql://u:{HIDDEN}#rest@h/db",
        f"postgresql://u:{HIDDEN}\n@h/db",
        "${" + HIDDEN + "}",
    ],
)
def test_a_control_url_that_is_not_one_of_postgres_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^AGENTDB_CONTROL_URL must be a postgresql:// URL") as caught:
        load_settings({"AGENTDB_CONTROL_URL": url})
    assert HIDDEN not in repr(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize(
    "host",
    [
        "console.neon.tech/api/v2",
        "ftp://console.neon.tech",
        "https://",
        f"https://u:{HIDDEN}@console.neon.tech",
        f"https://console.neon.tech/?key={HIDDEN}",
        "https://console.neon.tech/#x",
        "https://console.neon.tech:port",
        "http://console.neon.tech/api/v2",
        "http://127.0.0.1.evil.example/api/v2",
        "http://127.0.0.1:80,evil.example/",
        "http://127.0.0.1\\@evil.example/",
        "http://0.0.0.0:1234",
    ],
)
def test_neons_address_is_https_or_this_machine(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^NEON_API_HOST must be ") as caught:
        load_settings({"NEON_API_HOST": host})
    assert HIDDEN not in repr(caught.value)


def test_settings_show_no_secret() -> None:
    env = {"AGENT_DB_URL": HIDDEN, "AGENTDB_CONTROL_URL": f"postgresql://u:{HIDDEN}@h/db"}
    env |= {"AGENTDB_SERVICE_KEY": f"{HIDDEN}-of-the-backend", "NEON_API_KEY": HIDDEN}
    assert HIDDEN not in repr(load_settings(env))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AGENTDB_ALLOWED_HOSTS", "db.example.com,*, [::1]:8080"),
        ("AGENTDB_ALLOWED_ORIGINS", "https://app.example.com , http://localhost:3000"),
        ("AGENTDB_PUBLIC_URL", "https://agents.example.com/databases/"),
    ],
)
def test_names_and_origins_are_read(name: str, value: str) -> None:
    settings = load_settings({name: value})
    read = {
        "AGENTDB_ALLOWED_HOSTS": settings.allowed_hosts == ("db.example.com", "*", "[::1]:8080"),
        "AGENTDB_ALLOWED_ORIGINS": settings.allowed_origins == ("https://app.example.com", "http://localhost:3000"),
        "AGENTDB_PUBLIC_URL": settings.public_url == "https://agents.example.com/databases",
    }
    assert read[name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AGENTDB_ALLOWED_HOSTS", "https://db.example.com"),
        ("AGENTDB_ALLOWED_HOSTS", "a b"),
        ("AGENTDB_ALLOWED_ORIGINS", "app.example.com"),
        ("AGENTDB_ALLOWED_ORIGINS", "*"),
        ("AGENTDB_PUBLIC_URL", "agents.example.com"),
        ("AGENTDB_PUBLIC_URL", "https://me:secret@agents.example.com"),
    ],
)
def test_names_and_origins_of_another_form_are_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} ") as caught:
        load_settings({name: value})
    assert "secret" not in str(caught.value)
