"""The attack files are programs too: their folder is on the path, and the one of REST's tests for its helper."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "integration" / "web"))


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"
