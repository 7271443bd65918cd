"""Policy files: the shipped ones, overriding them, and being told what is wrong with one."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from agentdb_mcp.errors import ConfigurationError
from agentdb_mcp.models import AccessMode, BudgetState, Kind, Limits
from agentdb_mcp.policy import UnknownRule, default_path, load_policy, to_microcents


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    return tmp_path / "mine.toml"


def refusal(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as refused:
        load_policy(path)
    assert refused.value.message.startswith(f"{path}: ")
    return refused.value.message.removeprefix(f"{path}: ")


def test_the_shipped_policy_holds_what_the_documents_promise() -> None:
    policy = load_policy(None)
    assert dict(policy.tiers) == {"free": 200, "paid": 2000, "enterprise": 10000}
    budget = policy.budget
    assert (budget.warning_percent, budget.exceeded_percent, budget.paused_percent) == (80, 100, 110)
    assert policy.limits.for_call() == Limits(timeout_s=15, max_rows=1000, max_bytes=1_000_000)
    assert (policy.limits.pool_size, policy.limits.max_connections) == (4, 100)
    assert policy.access.mode is AccessMode.UNRESTRICTED
    assert policy.analysis.build_max_bytes == 32 * 1024 * 1024


def test_prices_are_exact_and_dated() -> None:
    prices = load_policy(None).prices
    assert prices.compute_per_cu_hour == Decimal("0.106")
    assert prices.version == "neon-launch-2026-11"
    assert isinstance(prices.date, datetime.date)
    assert to_microcents(prices.compute_per_cu_hour) == 10_600_000
    assert to_microcents(Decimal("0.00000001")) == 1


@pytest.mark.parametrize(
    ("book", "figures"),
    [
        ("neon-launch-2026-11", ("0.106", "0.35", "0.20", "0.10", 500, "1.50")),
        ("neon-scale-2026-11", ("0.222", "0.35", "0.20", "0.10", 500, "1.50")),
        ("neon-agent-2026-11", ("0.106", "0.35", "0.20", "0.10", 100, "1.50")),
        ("design-2025", ("0.16", "0.35", "0.35", "0.09", 0, "0")),
    ],
)
def test_a_shipped_price_book_is_used_by_its_name(
    policy_file: Path, book: str, figures: tuple[str, str, str, str, int, str]
) -> None:
    policy_file.write_text(f'name = "mine"\n[prices]\nbook = "{book}"\n', encoding="utf-8")
    prices = load_policy(policy_file).prices
    assert prices.version == book
    compute, storage, history, egress, free_gb, branch = figures
    assert (prices.compute_per_cu_hour, prices.storage_per_gb_month) == (Decimal(compute), Decimal(storage))
    assert (prices.history_per_gb_month, prices.branch_month) == (Decimal(history), Decimal(branch))
    assert (prices.egress_per_gb, prices.egress_free_gb) == (Decimal(egress), free_gb)


OWN_BOOK = """
[price_books.ours]
date = 2027-01-01
source = "our contract"
compute_per_cu_hour = "0.09"
storage_per_gb_month = "0.30"
history_per_gb_month = "0.10"
egress_per_gb = "0.05"
egress_free_gb = 1000
branch_month = "1"
"""


def test_a_file_may_bring_a_price_book_of_its_own(policy_file: Path) -> None:
    policy_file.write_text(f'name = "mine"\n[prices]\nbook = "ours"\n{OWN_BOOK}', encoding="utf-8")
    policy = load_policy(policy_file)
    assert (policy.prices.version, policy.prices.source) == ("ours", "our contract")
    assert policy.prices.compute_per_cu_hour == Decimal("0.09")
    assert policy.price_books.keys() == {*load_policy(None).price_books, "ours"}


def test_a_book_that_is_not_in_use_changes_no_price(policy_file: Path) -> None:
    policy_file.write_text(f'name = "mine"\n{OWN_BOOK}', encoding="utf-8")
    assert load_policy(policy_file).prices == load_policy(None).prices


def test_the_demo_is_dear_and_sleeps_at_once() -> None:
    demo = load_policy(default_path().with_name("demo.toml"))
    assert (demo.prices.version, demo.prices.compute_per_cu_hour) == ("demo", Decimal(3600))
    assert demo.compute.suspend_timeout_s == 0


def test_computes_metering_and_organizations_are_what_is_provisioned_and_measured_by() -> None:
    policy = load_policy(None)
    assert (policy.compute.max_cu, policy.compute.max_mcu) == (Decimal("0.25"), 250)
    assert policy.compute.suspend_timeout_s == 300
    assert (policy.metering.flush_s, policy.metering.settle_s, policy.metering.size_sample_s) == (5, 5400, 60)
    assert policy.organizations.paid_tiers == {"paid", "enterprise"}


def test_a_tier_of_the_files_own_may_be_paid(policy_file: Path) -> None:
    text = 'name = "mine"\n[tiers]\nteam = 4000\n[organizations]\npaid_tiers = ["team"]\n'
    policy_file.write_text(text, encoding="utf-8")
    assert load_policy(policy_file).organizations.paid_tiers == {"team"}


def test_rules_are_found_by_state() -> None:
    statements = load_policy(None).statements
    assert statements.of(BudgetState.OK).unknown is UnknownRule.READ_WRITE
    assert statements.of(BudgetState.EXCEEDED).allow == {Kind.READ, Kind.RECLAIM}
    assert statements.of(BudgetState.PAUSED).allow == frozenset()


def test_every_shipped_policy_loads() -> None:
    names = {load_policy(path).name for path in default_path().parent.glob("*.toml")}
    assert names >= {"default", "read-only"}


def test_the_read_only_policy_differs_in_access_alone() -> None:
    default = load_policy(None)
    read_only = load_policy(default_path().with_name("read-only.toml"))
    assert read_only.access.mode is AccessMode.RESTRICTED
    same = {"name": default.name, "version": default.version, "access": default.access}
    assert read_only.model_copy(update=same) == default


def test_a_file_states_only_what_differs(policy_file: Path) -> None:
    policy_file.write_text(
        'name = "mine"\n[limits]\nmax_rows = 5\n[tiers]\nteam = 4000\n[statements.ok]\nallow = ["read"]\n',
        encoding="utf-8",
    )
    policy, default = load_policy(policy_file), load_policy(None)
    assert (policy.name, policy.limits.max_rows, policy.tiers["team"], policy.tiers["free"]) == ("mine", 5, 4000, 200)
    assert policy.statements.ok.allow == {Kind.READ}
    assert policy.statements.ok.unknown is default.statements.ok.unknown
    assert policy.prices == default.prices


def test_a_policy_cannot_be_changed() -> None:
    policy = load_policy(None)
    with pytest.raises(ValidationError):
        policy.name = "other"
    with pytest.raises(TypeError):
        policy.tiers["free"] = 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[limits]\nmax_rows = 0", "limits.max_rows must be at least 1 (got 0)"),
        ('[limits]\nmax_rows = "many"', "limits.max_rows must be a whole number (got many)"),
        ("[limits]\nmax_rows = 1.5", "limits.max_rows must be a whole number (got 1.5)"),
        ("[limits]\nmax_rows = true", "limits.max_rows must be a whole number (got True)"),
        ("[limits]\ntimeout_s = 0", "limits.timeout_s must be more than 0.0 (got 0)"),
        ("[limits]\ntimeout_s = nan", "limits.timeout_s must be a finite number (got nan)"),
        ("[limits]\nmax_row = 1", "limits.max_row is not a known key (did you mean max_rows?)"),
        ("[audit]\nkeep_day = 1", "audit.keep_day is not a known key (did you mean keep_days?)"),
        (
            "[limits]\nmax_per_database = 1",
            "limits.max_per_database is not a known key (did you mean checkpoints.max_per_database?)",
        ),
        ("[limits]\ntiers = 1", "limits.tiers is not a known key (did you mean tiers?)"),
        ("[limits]\npool_size = 41", "limits pool_size must not be larger than connection_limit"),
        ("[limits]\nmax_connections = 3", "limits pool_size must not be larger than max_connections"),
        ("[limits]\nmax_connections = 0", "limits.max_connections must be at least 1 (got 0)"),
        ("limits = 1", "limits must be a table (got 1)"),
        ('[sim]\nvariables = "uri"', "sim.variables must be 'reference' or 'token' (got uri)"),
        ("[sim]\nvariable = 1", "sim.variable is not a known key (did you mean variables?)"),
        ("[sim]\narchived_keep_days = -1", "sim.archived_keep_days must be at least 0 (got -1)"),
        ("[tiers]\nfree = -1", "tiers.free must be at least 0 (got -1)"),
        (
            "[budget]\nwarning_percent = 120",
            "budget must rise: warning_percent, exceeded_percent, paused_percent",
        ),
        (
            '[prices]\nbook = "neon-lunch-2026-11"',
            (
                "prices.book must be of: neon-launch-2026-11, neon-scale-2026-11, neon-agent-2026-11, design-2025"
                " (got neon-lunch-2026-11; did you mean neon-launch-2026-11?)"
            ),
        ),
        (
            '[prices]\nbranch_month = "1.5"',
            "prices.branch_month is not a known key (did you mean price_books.NAME.branch_month?)",
        ),
        (
            '[price_books.design-2025]\nbranch_month = "1.5"',
            "price_books.design-2025 is shipped as it is: give your book another name",
        ),
        ("[price_books]\ndesign-2025 = 1", "price_books.design-2025 is shipped as it is: give your book another name"),
        (f'{OWN_BOOK}\nversion = "2"', "price_books must not state a version: that of ours is its name"),
        ("price_books = 1", "price_books must be a table (got 1)"),
        ("[price_books]\nours = 1", "price_books.ours must be a table (got 1)"),
        ("prices = 1", "prices must be a table (got 1)"),
        (
            '[organizations]\npaid_tiers = ["payed"]',
            "organizations.paid_tiers must be of: free, paid, enterprise (got payed; did you mean paid?)",
        ),
        ("[metering]\nflush_s = 0", "metering.flush_s must be more than 0.0 (got 0)"),
        ("[metering]\nsettle_s = -1", "metering.settle_s must be at least 0 (got -1)"),
        ('[compute]\nmax_cu = "0.0001"', "compute.max_cu must have at most 3 decimals (got 0.0001)"),
        ("[compute]\nsuspend_timeout_s = -1", "compute.suspend_timeout_s must be at least 0 (got -1)"),
        ('[access]\nmode = "open"', "access.mode must be one of: unrestricted, restricted (got open)"),
        (
            '[statements.ok]\nunknown = "maybe"',
            "statements.ok.unknown must be one of: read_write, read_only, refuse (got maybe)",
        ),
        ('[statements.ok]\nallow = "read"', "statements.ok.allow must be a list (got read)"),
        ("[statements.broke]\nallow = []", "statements.broke is not a known key"),
    ],
)
def test_a_mistake_is_named_by_file_and_key(policy_file: Path, text: str, message: str) -> None:
    assert refusal(policy_file, f'name = "mine"\n{text}\n') == message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("1.5", 'must be a decimal number in quotes, such as "0.106"'),
        ('"x"', 'must be a decimal number, such as "0.106"'),
        ('"-1"', "must be at least 0 (got -1)"),
        ('"inf"', "must be a finite number (got Infinity)"),
        ('"0.000000001"', "must have at most 8 decimals (got 0.000000001)"),
    ],
)
def test_a_price_is_a_decimal_in_quotes(policy_file: Path, given: str, message: str) -> None:
    book = OWN_BOOK.replace('branch_month = "1"', f"branch_month = {given}")
    assert refusal(policy_file, f'name = "mine"\n{book}') == f"price_books.ours.branch_month {message}"


def test_a_book_is_dated(policy_file: Path) -> None:
    message = refusal(policy_file, f'name = "mine"\n{OWN_BOOK.replace("2027-01-01", repr("soon"))}')
    assert message == "price_books.ours.date must be a date, such as 2026-01-31 (got soon)"


@pytest.mark.parametrize("kind", ["unknown", "everything", "READ"])
def test_only_kinds_that_a_rule_can_name_are_allowed(policy_file: Path, kind: str) -> None:
    message = refusal(policy_file, f'name = "mine"\n[statements.ok]\nallow = ["read", "{kind}"]\n')
    assert message.startswith("statements.ok.allow may hold read, write, schema")
    assert message.endswith(f"(got '{kind}')")


def test_all_mistakes_are_told_at_once(policy_file: Path) -> None:
    message = refusal(policy_file, 'name = "mine"\n[limits]\nmax_rows = 0\nmax_bytes = 0\n')
    assert "limits.max_rows" in message
    assert "limits.max_bytes" in message


def test_a_policy_has_a_name_of_its_own(policy_file: Path) -> None:
    assert refusal(policy_file, 'version = "1"\n') == "name is missing"


def test_broken_toml_is_told_with_its_place(policy_file: Path) -> None:
    message = refusal(policy_file, "name = \n")
    assert message.startswith("is not valid TOML: ")
    assert "line 1" in message


def test_a_file_that_is_not_text_is_told(policy_file: Path) -> None:
    policy_file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="is not UTF-8 text"):
        load_policy(policy_file)


def test_a_missing_file_or_a_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml: there is no such file"):
        load_policy(tmp_path / "none.toml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_policy(tmp_path)


def test_prices_can_be_overridden() -> None:
    policy = load_policy(None)
    prices = policy.with_prices(compute="0.16").prices
    assert (prices.compute_per_cu_hour, prices.storage_per_gb_month) == (Decimal("0.16"), Decimal("0.35"))
    assert prices.version == "neon-launch-2026-11+env"
    assert prices.date == policy.prices.date
    assert policy.prices.compute_per_cu_hour == Decimal("0.106")
    assert policy.with_prices() is policy


def test_a_wrong_price_override_names_the_price() -> None:
    with pytest.raises(ConfigurationError, match="price override: storage_per_gb_month must be at least 0"):
        load_policy(None).with_prices(storage="-1")
