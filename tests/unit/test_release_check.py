"""What a release must not be: `make release-check` tells each of these."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "scripts" / "release_check.py"
INFO = "agentdb_mcp-1.2.0.dist-info"
EXPECTED = {
    f"agentdb_mcp/{name}" for name in ("__init__.py", "py.typed", "policies/default.toml", "x/0001_initial.sql")
}
EXPECTED.add("agentdb_mcp/web/explorer/static/explorer.css")
WHOLE = EXPECTED | {
    f"{INFO}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
}
PROJECT = {
    "name": "agentdb-mcp",
    "license": "Apache-2.0",
    "requires-python": ">=3.11",
    "optional-dependencies": {"local": []},
}
METADATA = """Metadata-Version: 2.4
Name: agentdb-mcp
Version: 1.2.0
License-Expression: Apache-2.0
Requires-Python: >=3.11
Description-Content-Type: text/markdown
Provides-Extra: local

# words
"""


@pytest.fixture(scope="module")
def checks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release_check", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert spec.name not in sys.modules
    return module


def test_a_wheel_that_is_whole_passes(checks: ModuleType) -> None:
    checks.check_wheel_names(WHOLE, EXPECTED, "1.2.0")


@pytest.mark.parametrize("lost", sorted(WHOLE - {f"{INFO}/WHEEL"}))
def test_a_file_that_the_wheel_lacks_is_named(checks: ModuleType, lost: str) -> None:
    with pytest.raises(checks.WrongError, match=lost.rpartition("/")[2]):
        checks.check_wheel_names(WHOLE - {lost}, EXPECTED, "1.2.0")


@pytest.mark.parametrize("extra", ["tests/unit/test_x.py", "benchmarks/x.py", "agentdb_mcp/.env"])
def test_what_does_not_belong_into_the_wheel_is_named(checks: ModuleType, extra: str) -> None:
    with pytest.raises(checks.WrongError, match=extra):
        checks.check_wheel_names(WHOLE | {extra}, EXPECTED, "1.2.0")


@pytest.mark.parametrize("line", METADATA.splitlines()[1:7])
def test_metadata_that_lack_a_field_are_refused(checks: ModuleType, line: str) -> None:
    checks.check_metadata(METADATA, PROJECT, "1.2.0")
    with pytest.raises(checks.WrongError):
        checks.check_metadata(METADATA.replace(line + "\n", ""), PROJECT, "1.2.0")


@pytest.mark.parametrize(
    ("text", "section"),
    [
        ("## [Unreleased]\n\n- New.\n", "Unreleased"),
        ("## [Unreleased]\n\n## [1.2.0] - 2026-01-02\n\n### Added\n\n- New.\n", "1.2.0"),
    ],
)
def test_the_changelog_s_section_is_that_of_the_version_or_what_is_unreleased(
    checks: ModuleType, text: str, section: str
) -> None:
    assert checks.check_changelog(text, "1.2.0") == section


@pytest.mark.parametrize(
    "text",
    ["", "## [Unreleased]\n\n### Added\n", "## [Unreleased]\n\n## [1.1.0] - 2026-01-01\n\n- Old.\n"],
    ids=["empty", "headings alone", "of another version"],
)
def test_a_changelog_without_a_word_on_the_version_is_refused(checks: ModuleType, text: str) -> None:
    with pytest.raises(checks.WrongError, match=r"CHANGELOG\.md"):
        checks.check_changelog(text, "1.2.0")


def test_a_module_that_repeats_the_version_is_named(
    checks: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checks.check_one_version("1.2.0")
    monkeypatch.setattr(checks, "SOURCE", tmp_path)
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    (tmp_path / "x.py").write_text('__version__ = "1.2.0"\n')
    with pytest.raises(checks.WrongError, match=r"x\.py"):
        checks.check_one_version("1.2.0")
