"""Helper modules of this folder are imported by their plain names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def without_pauses() -> Iterator[None]:
    """Repetitions follow each other at once; their number stays what it is."""
    with stamina.set_testing(True, attempts=100, cap=True):
        yield
