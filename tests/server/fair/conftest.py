"""The house that most tests over HTTP ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from yardmaster.tests.server.fair.house import House


@pytest.fixture
def house(plain: Any, tmp_path: Path) -> House:
    return House(plain, tmp_path)
