"""What is only needed by some calls is not loaded when a server starts."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["agentdb_mcp.mcp_server.stdio", "agentdb_mcp.bootstrap", "agentdb_mcp.services"])
def test_the_sql_parser_is_not_loaded_by(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(name.split('.')[0] == 'sqlglot' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_server_over_stdio_starts_without_the_sdk() -> None:
    code = "import sys, agentdb_mcp.mcp_server.stdio, agentdb_mcp.bootstrap; sys.exit('mcp_types' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
