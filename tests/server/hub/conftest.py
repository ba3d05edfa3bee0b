"""The model that servers of these tests are started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub-model")
    write_random_checkpoint(folder, small_gpt_oss(num_layers=1, hidden_size=64))
    return folder
