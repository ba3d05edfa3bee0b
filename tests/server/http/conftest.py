"""Servers with a batch directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from yardmaster.server.batch.config import BatchConfig
from yardmaster.server.fair.keyring import Keyring
from yardmaster.server.http.config import HttpConfig
from yardmaster.tests.server.http.batch_server import Served


@pytest.fixture
def serve(plain: Any, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """`serve(**bounds)`: a server over the stage's engine, always in the same directory."""
    running_now: list[Served] = []

    def start(
        keys: tuple[str, ...] = (), http: dict[str, Any] | None = None, keyring: Keyring | None = None, **bounds: Any
    ) -> Served:
        batch = BatchConfig(str(tmp_path / "batches"), **{"poll": 0.02, "retry": 0.05} | bounds)
        config = HttpConfig(("test-model",), api_keys=keys, batch=batch, **http or {})
        running_now.append(Served(plain, config, keyring))
        return running_now[-1]

    yield start
    for served in running_now:
        served.stop()
