"""How much of a host's memory the cache takes when nobody says."""

from __future__ import annotations

import pytest
import torch

from yardmaster.engine import build
from yardmaster.engine.config import EngineConfig
from yardmaster.models.random_checkpoint import small_gpt_oss
from yardmaster.parallel.mesh import Mesh

GIB = 1 << 30


def taken(budget: int, **flags: object) -> tuple[float, int]:
    """GiB of the cache's pages, and the longest request."""
    model = small_gpt_oss(head_dim=64, num_kv_heads=8, num_heads=8)
    spec, longest = build.cache_spec(
        model, EngineConfig(model="-", **flags), Mesh.single(torch.device("cpu")), torch.float32, budget
    )
    page = 2 * 2 * 16 * 8 * 64 * 4  # two layers a group, keys and values
    return sum(group.num_pages * page for group in spec.groups) / GIB, longest


def test_a_cpus_cache_stops_at_four_gib_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    size, longest = taken(60 * GIB)
    assert 3.99 < size <= 4
    assert longest == 131072
    assert taken(60 * GIB, kv_cache_memory_bytes=60 * GIB)[0] > 59
    assert 1.99 < taken(2 * GIB)[0] <= 2
    monkeypatch.setattr(build, "CPU_CACHE_BYTES", GIB // 2)
    size, longest = taken(60 * GIB)  # one request of the whole context takes more
    assert 1 < size < 1.01
    assert longest == 131072
