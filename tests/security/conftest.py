"""The attack files are programs too: their folder is on the path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"
