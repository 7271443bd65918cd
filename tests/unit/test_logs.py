"""Logs go to stderr alone and carry no credential, whoever wrote the entry."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from agentdb_mcp import logs
from agentdb_mcp.logs import Identified, configure_logging, get_logger, register_secret, request_id, scrub_text
from agentdb_mcp.models import Secret

URL = "postgresql://owner:s3cret-pw@ep-cool.neon.tech:5432/neondb"
TOKEN = "adb_" + "aB3-_" * 8 + "xyz"
SEALED = f"{'0a' * 16}:{'1b' * 40}:{'2c' * 16}"
CREDENTIALS = ("owner", "s3cret-pw", "ep-cool", "1b1b", "bearer-token-1", "registered-value", "hunter2")


@pytest.fixture(autouse=True)
def logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(logs, "_secrets", type(logs._secrets)())
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in logs.QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


def json_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        (f"connect to {URL}?sslmode=require now", "connect to postgresql://…@… now"),
        ("POSTGRES://u:p@h/db", "POSTGRES://…@…"),
        ("postgresql+asyncpg://u:p@h/db", "postgresql+asyncpg://…@…"),
        ("postgresql://host/db", "postgresql://…@…"),
        ("'postgresql://u:it's@h/db'", "'postgresql://…@…"),
        ("it must be a postgresql:// URL", "it must be a postgresql:// URL"),
        ("postgresql://…@…", "postgresql://…@…"),
        ("GET https://user:pass@api.example/x", "GET https://…@api.example/x"),
        ("redis://:p@ss/w@cache:6379/0", "redis://…@cache:6379/0"),
        (f"GET /x?token={TOKEN}&y=1", "GET /x?token=…&y=1"),
        (f"['{TOKEN}', x{TOKEN[:24]}]", "['…', x…]"),
        (f"Authorization: Bearer {TOKEN}", "Authorization: Bearer …"),
        (f"key napi_{'a1b2' * 16}, used", "key …, used"),
        ("postgre\x00sql://u:p@h/db", "postgresql://…@…"),
        ("agentdb_token adb_notes", "agentdb_token adb_notes"),
        ("https://token@host", "https://…@host"),
        ("https://api.example/v2?x=1", "https://api.example/v2?x=1"),
        ("mail bob@example.com", "mail bob@example.com"),
        ("host=h password=hunter2 dbname=d", "host=h password=… dbname=d"),
        ("password='hun ter2' x", "password=… x"),
        (r"password='it\'s hunter2' x", "password=… x"),
        ('{"password": "hun ter2", "x": 1}', '{"password": …, "x": 1}'),
        (r"{\"password\": \"hun ter2\", \"x\": 1}", r"{\"password\": …, \"x\": 1}"),
        ("PGPASSWORD=hunter2", "PGPASSWORD=…"),
        ("ALTER ROLE r PASSWORD 'hun ter2' LOGIN", "ALTER ROLE r PASSWORD … LOGIN"),
        ("password authentication failed", "password authentication failed"),
        ("Authorization: Bearer abc.def-1", "Authorization: Bearer …"),
        ("api_key: bearer abc", "api_key: …"),
        (f"stored {SEALED} here", "stored … here"),
        (f"empty {'0A' * 16}::{'2c' * 16}.", "empty …."),
        ("commit 0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a", "commit 0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"),
        ("red \x1b[31mtext\x00\r", "red [31mtext"),
        ("two\nlines\tkept", "two\nlines\tkept"),
    ],
)
def test_credentials_are_taken_out_of_a_text(text: str, scrubbed: str) -> None:
    assert scrub_text(text) == scrubbed


def test_scrubbing_twice_changes_nothing_more() -> None:
    once = scrub_text(f"{URL} password=x Bearer y {SEALED} https://u:p@h/")
    assert scrub_text(once) == once


def test_a_registered_secret_is_hidden_wherever_it_stands() -> None:
    register_secret(Secret("registered-value"))
    assert scrub_text("xregistered-valuey") == "x…y"


def test_a_registered_url_hides_its_password_standing_alone() -> None:
    register_secret(Secret("postgresql://owner:s3cret%2Dpw@h/db"))
    assert scrub_text("tried s3cret-pw and s3cret%2Dpw") == "tried … and …"


def test_the_longest_secret_is_hidden_first() -> None:
    register_secret(Secret("12345678"))
    register_secret(Secret("12345678-and-more"))
    assert scrub_text("12345678-and-more") == "…"


@pytest.mark.parametrize("value", ["", "short", "1234567"])
def test_short_values_are_not_registered(value: str) -> None:
    register_secret(Secret(value))
    assert scrub_text("a short 1234567 text") == "a short 1234567 text"


@pytest.mark.parametrize("value", ["password", "postgres", "postgresql"])
def test_a_secret_that_is_an_ordinary_word_does_not_blind_the_patterns(value: str) -> None:
    register_secret(Secret(value))
    assert scrub_text("password=hunter2 postgres://u:p@h/") == "password=… postgres://…@…"


def test_the_registry_forgets_the_oldest_but_none_that_was_configured() -> None:
    configure_logging("json", "info", [Secret("kept-for-good")])
    for number in range(logs.MAX_SECRETS + 1):
        register_secret(Secret(f"passing-{number:06}"))
    assert scrub_text("kept-for-good passing-000000 passing-000001") == "… passing-000000 …"
    assert len(logs._secrets.longest_first) == logs.MAX_SECRETS + 1


@dataclass
class Connection:
    url: str


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_every_value_of_an_entry_is_scrubbed_however_deep(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info", [Secret("registered-value")])
    cycle: list[object] = [URL]
    cycle.append(cycle)
    get_logger("test").info(
        f"opening {URL}",
        mapping={URL: [(URL, {"x": URL})], "password": "hunter2", 3: None},
        items={URL},
        error=ValueError(f"cannot reach {URL}"),
        raw=f"Bearer bearer-token-1 {SEALED}".encode(),
        shown=Connection(URL),
        unshowable=Unshowable(),
        cycle=cycle,
        authorization="hunter2",
        api_key=Secret("registered-value"),
        note="registered-value",
        count=3,
        ratio=0.5,
        ready=True,
        nothing=None,
    )
    (entry,) = json_lines(capsys)
    text = json.dumps(entry)
    assert not [word for word in CREDENTIALS if word in text]
    assert entry["event"] == "opening postgresql://…@…"
    assert entry["mapping"] == {
        "postgresql://…@…": [["postgresql://…@…", {"x": "postgresql://…@…"}]],
        "password": "…",
        "3": None,
    }
    assert entry["error"] == "ValueError: cannot reach postgresql://…@…"
    assert entry["unshowable"] == "<Unshowable>"
    assert (entry["count"], entry["ratio"], entry["ready"], entry["nothing"]) == (3, 0.5, True, None)
    assert (entry["level"], entry["logger"]) == ("info", "test")
    assert str(entry["timestamp"]).endswith("Z")


def fail_with_locals() -> None:
    local_value = "only-in-a-local"
    try:
        raise KeyError(f"{URL}{len(local_value)}")
    except KeyError as cause:
        raise ValueError(f"Bearer bearer-token-1 at {URL}") from cause


@pytest.mark.parametrize("log", [get_logger, logging.getLogger], ids=["structlog", "stdlib"])
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_an_exception_is_its_type_message_and_frames(
    log: Callable[[str], logging.Logger], log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(log_format, "info")
    try:
        fail_with_locals()
    except ValueError:
        log("test").exception("it failed")
    out, err = capsys.readouterr()
    assert out == ""
    assert "it failed" in err
    assert "ValueError: Bearer … at postgresql://…@…" in err
    assert "KeyError: " in err
    assert "in fail_with_locals" in err
    assert "= 'only-in-a-local'" not in err
    assert not [word for word in CREDENTIALS if word in err]


def test_an_exception_may_be_given_itself(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")
    get_logger("test").error("it failed", exc_info=ExceptionGroup("many", [ValueError(URL)]))
    get_logger("test").error("none is being handled", exc_info=True)
    first, second = json_lines(capsys)
    assert "ValueError: postgresql://…@…" in str(first["exception"])
    assert "exception" not in second


def test_library_logs_are_rendered_and_scrubbed_alike(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")
    logging.getLogger("some.library").warning("cannot reach %s", URL)
    (entry,) = json_lines(capsys)
    assert entry["event"] == "cannot reach postgresql://…@…"
    assert (entry["level"], entry["logger"]) == ("warning", "some.library")


@pytest.mark.parametrize("name", ["httpx", "httpcore.http11", "asyncio", "mcp.server", "uvicorn.error"])
@pytest.mark.parametrize(("level", "kept"), [("debug", ["warning", "error"]), ("error", ["error"])])
def test_talkative_libraries_are_held_at_warning(
    name: str, level: str, kept: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("json", level)
    for method in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger(name), method)("said")
    assert [entry["level"] for entry in json_lines(capsys)] == kept


def test_entries_under_the_level_are_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "WARNING")
    log = get_logger("test")
    log.info("dropped")
    log.warning("kept %s", "too")
    configure_logging("json", "debug")
    log.debug("now kept")
    assert [entry["event"] for entry in json_lines(capsys)] == ["kept too", "now kept"]


def test_bound_and_context_values_are_scrubbed(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")
    with structlog.contextvars.bound_contextvars(request_id="r-1", target=URL):
        get_logger("test").bind(url=URL).info("said")
    (entry,) = json_lines(capsys)
    assert (entry["request_id"], entry["target"], entry["url"]) == ("r-1", "postgresql://…@…", "postgresql://…@…")


def test_text_is_one_readable_line_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text", "info")
    get_logger("test").info("opened\nforged entry", scope="agent", rows=3)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "\x1b" not in err
    for part in ("[info", "opened\\nforged entry", "[test]", "rows=3", "scope=agent"):
        assert part in err


def test_text_has_colours_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    configure_logging("text", "info")
    get_logger("test").info("said")
    assert "\x1b[" in terminal.getvalue()


def test_configuring_again_does_not_write_twice(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")
    configure_logging("json", "info")
    get_logger("test").info("once")
    assert len(json_lines(capsys)) == 1


def test_a_record_that_cannot_be_written_shows_nothing_of_itself(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")
    logging.getLogger("careless").warning("%d rows", URL)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "a log record of careless could not be written\n")


@pytest.mark.parametrize(
    "unit",
    [
        "postgres://",
        "postgres:// ",
        "://",
        "a",
        "@",
        'password="',
        "password='\\",
        "password ",
        "bearer ",
        "0",
        f"{'0' * 32}:",
    ],
)
def test_hostile_text_takes_linear_time(unit: str) -> None:
    hostile = unit * (200_000 // len(unit))
    started = time.process_time()
    scrub_text(hostile)
    assert time.process_time() - started < 5


PROGRAM = f"""
import logging, sys
from agentdb_mcp.logs import configure_logging, get_logger, register_secret
from agentdb_mcp.models import Secret
log = get_logger("early")
log.warning("before configuration: {URL}")
log.info("dropped")
configure_logging(sys.argv[1], "info", [Secret("registered-value")])
log.info("own: {URL}", stored="{SEALED}", note="registered-value")
logging.getLogger("library").error("theirs: %s", "Bearer bearer-token-1")
import structlog
structlog.get_logger("direct").info("direct: password=hunter2")
try:
    raise RuntimeError("{URL}")
except RuntimeError:
    log.exception("failed")
"""


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_real_process_logs_to_stderr_alone_and_scrubbed(log_format: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, log_format],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    assert done.stdout == ""
    assert not [word for word in CREDENTIALS if word in done.stderr]
    assert "\x1b" not in done.stderr
    for part in ("before configuration: ", "own: postgresql://…@…", "theirs: Bearer …", "direct: password=…", "failed"):
        assert part in done.stderr
    assert "RuntimeError: postgresql://…@…" in done.stderr
    if log_format == "json":
        entries = [json.loads(line) for line in done.stderr.splitlines()[1:]]
        assert [entry["logger"] for entry in entries] == ["early", "library", "direct", "early"]


# --- whatever stands around it ----------------------------------------------------------------------------------------

PASSWORDS = st.text(
    st.characters(categories=("L", "N", "P", "S"), exclude_characters="/@:?#[]…"), min_size=8, max_size=30
)
KEYS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", min_size=32, max_size=64)
AROUND = st.text() | st.sampled_from(
    ["://", "@", "postgresql://", "password=", "bearer ", "adb_", "'", '"', "\\", "\x00"]
)


def hides(secret: str, before: str, after: str, *parts: str) -> None:
    hidden = scrub_text(before + secret + after)
    for part in parts or (secret,):
        assert part not in hidden or part in before + after


@given(KEYS, st.sampled_from(["adb_", "napi_"]), AROUND, AROUND)
def test_a_token_or_a_key_never_survives(key: str, prefix: str, before: str, after: str) -> None:
    hides(prefix + key, before, after, key)


@given(PASSWORDS, st.sampled_from(["postgresql", "postgres", "POSTGRES", "https", "redis"]), AROUND, AROUND)
def test_a_password_in_a_url_never_survives(password: str, scheme: str, before: str, after: str) -> None:
    hides(f"{scheme}://owner:{password}@ep-cool.neon.tech:5432/db", before, after, password)


@given(PASSWORDS, AROUND, AROUND, st.sampled_from([str, repr, json.dumps, quote, ascii]))
def test_a_live_value_never_survives_as_it_is_or_as_it_is_written(
    value: str, before: str, after: str, written: Callable[[str], str]
) -> None:
    logs._secrets = type(logs._secrets)()
    register_secret(Secret(value))
    shown = written(value)[1:-1] if written in (repr, json.dumps, ascii) else written(value)
    hides(shown, before, after, shown)


@given(PASSWORDS, AROUND)
def test_a_live_urls_password_never_survives_alone(password: str, around: str) -> None:
    logs._secrets = type(logs._secrets)()
    register_secret(Secret(f"postgresql://owner:{quote(password, safe='')}@h/db"))
    hides(password, around, around, password)
    hides(quote(password, safe=""), around, around, quote(password, safe=""))


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_an_entry_has_the_id_of_the_request_that_it_is_for(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(log_format, "info")
    log = get_logger("test")
    with Identified("asked-1"):
        assert request_id() == "asked-1"
        with Identified("inner-2"):
            log.info("within")
        log.info("after")
        logging.getLogger("library").warning("a library's")
    log.info("outside")
    within, after, library, outside = capsys.readouterr().err.splitlines()
    assert "inner-2" in within
    assert "asked-1" in after
    assert "asked-1" in library
    assert "request_id" not in outside
    assert request_id() is None
