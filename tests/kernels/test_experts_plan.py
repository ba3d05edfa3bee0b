"""The choice of tiles: pure arithmetic, held to what a device can run; and the files of measured choices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from yardmaster.kernels.gpu.experts_plan import FEW_PAIRS, Layer, Plan, Tile, choose, rounded
from yardmaster.kernels.gpu.tuning import (
    MOST_SHARED,
    Plans,
    TuningError,
    neighbours,
    search,
    shared_bytes,
    tuning_file,
)

LAYERS = [
    Layer("mxfp4", 32, 2880, 2880),
    Layer("mxfp4", 128, 2880, 2880),
    Layer("dense", 8, 4096, 14336),
    Layer("dense", 128, 2048, 768),
    Layer("fp8", 256, 7168, 2048),
    Layer("dense", 1, 1, 1),
]
PLAN = Plan(True, Tile(64, 16, 128, 4, 4), Tile(64, 16, 128, 4, 4, split=2))


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_every_plan_fits_a_device(layer: Layer) -> None:
    for power in range(20):
        plan = choose(layer, 1 << power, 132)
        assert not plan.few or ((1 << power) <= FEW_PAIRS and plan.up.block_m <= 32)
        assert plan.few or (1 << power) > 64 or layer.experts < 8
        assert plan.up.split == 1
        for tile in (plan.up, plan.down):
            assert shared_bytes(layer.format, tile) <= MOST_SHARED
            assert tile.block_n % (16 * tile.warps) == 0  # each warp has 16 rows of its own
            assert layer.format != "fp8" or 128 % tile.block_k == 0  # a step lies within one square of scales
            assert tile.split == 1 or -(-layer.width // tile.block_k) // tile.split >= 8


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_plans_are_few_enough_to_compile_before_serving(layer: Layer) -> None:
    assert len({choose(layer, pairs, 132) for pairs in range(1, 70000)}) <= 12
    assert choose(layer, 5, 132) == choose(layer, 8, 132)


def test_the_second_product_is_split_where_it_would_leave_multiprocessors_idle() -> None:
    assert choose(Layer("mxfp4", 128, 2880, 2880), 4, 132).down.split == 2
    assert choose(Layer("mxfp4", 128, 2880, 2880), 64, 132).down.split == 1
    assert choose(Layer("dense", 8, 4096, 14336), 2, 132).down.split == 4


def test_rounded() -> None:
    assert [rounded(pairs) for pairs in (0, 1, 2, 3, 4, 5, 1023, 1025)] == [1, 1, 2, 4, 4, 8, 1024, 2048]


@pytest.mark.parametrize("layer", LAYERS[:5], ids=str)
def test_a_search_sees_only_plans_that_can_run(layer: Layer) -> None:
    for pairs in (1, 512):
        plan = choose(layer, pairs, 132)
        near = list(neighbours(layer, plan))
        assert len(near) == len(set(near)) >= 10
        for other in near:
            assert (other.up != plan.up) + (other.down != plan.down) == 1
            assert other.few == plan.few
            for tile in (other.up, other.down):
                assert shared_bytes(layer.format, tile) <= MOST_SHARED
                assert tile.block_n >= 16 * tile.warps


def test_measured_plans_come_first_and_survive_a_file(tmp_path: Path) -> None:
    plans = Plans(132)
    plans.measured[LAYERS[0], 8] = PLAN
    path = tuning_file("NVIDIA H100 80GB HBM3", tmp_path)
    assert path.name == "tuning-nvidia-h100-80gb-hbm3.json"
    plans.save(path, {"device": "test"})
    assert [child.name for child in tmp_path.iterdir()] == [path.name]

    fresh = Plans(132)
    assert fresh(LAYERS[0], 7) == choose(LAYERS[0], 7, 132) != PLAN
    assert fresh.load(path) == 1
    assert fresh(LAYERS[0], 7) == PLAN
    assert fresh(LAYERS[0], 9) == choose(LAYERS[0], 9, 132)
    assert fresh(LAYERS[1], 7) == choose(LAYERS[1], 7, 132)
    assert fresh.load(tmp_path / "absent.json") == 0


def _change(content: dict[str, Any], place: list[Any], value: Any) -> None:
    for step in place[:-1]:
        content = content[step]
    content[place[-1]] = value


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["version"], 0),
        (["plans"], None),
        (["plans"], [3]),
        (["plans", 0, "experts"], True),
        (["plans", 0, "experts"], 0),
        (["plans", 0, "pairs"], 1e9),
        (["plans", 0, "format"], 7),
        (["plans", 0, "few"], 1),
        (["plans", 0, "pairs"], 513),
        (["plans", 0, "up"], {}),
        (["plans", 0, "up", "block_n"], 63),
        (["plans", 0, "up", "block_k"], 32),
        (["plans", 0, "down", "warps"], 64),
        (["plans", 0, "down", "stages"], -1),
        (["plans", 0, "down", "split"], 1 << 20),
        (["plans", 0, "up", "split"], 2),
        (["plans", 0, "down", "last_m"], 16),
        (["plans", 0, "down", "last_m"], -1),
    ],
)
def test_a_damaged_file_is_named_with_the_mend(tmp_path: Path, place: list[Any], value: Any) -> None:
    plans, path = Plans(132, {(LAYERS[0], 8): PLAN}), tmp_path / "tuning-x.json"
    plans.save(path, {})
    content = json.loads(path.read_text())
    _change(content, place, value)
    path.write_text(json.dumps(content))
    with pytest.raises(TuningError, match=r"tuning-x.json .*: delete it and run `yardmaster tune`"):
        plans.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b" " * (9 << 20)])
def test_a_file_that_is_no_json_is_named_too(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tuning-x.json"
    path.write_bytes(content)
    with pytest.raises(TuningError, match="delete it and run"):
        Plans(132).load(path)


def test_a_search_walks_to_the_best_plan_and_stops() -> None:
    layer, asked = LAYERS[2], []
    target = Plan(True, Tile(128, 32, 64, 4, 5), Tile(64, 16, 64, 4, 3, split=4))

    def distance(plan: Plan) -> float:
        """What a smooth device would measure: 1 for the target, 10 % more for each thing that is off."""
        asked.append(plan)
        if plan.up.warps == 8:
            return float("inf")  # cannot run
        off = sum(
            getattr(tile, name) != getattr(goal, name)
            for tile, goal in ((plan.up, target.up), (plan.down, target.down))
            for name in ("block_n", "block_m", "block_k", "stages", "split")
        )
        return 1 + 0.1 * off

    best, took = search(layer, choose(layer, 4, 132), distance)
    assert (best, took) == (target, 1.0)
    assert len(asked) == len(set(asked)), "a plan was measured twice"


def test_a_search_stays_where_nothing_gains_enough() -> None:
    start = choose(LAYERS[0], 4, 132)
    best, took = search(LAYERS[0], start, lambda plan: 1.0 if plan == start else 0.99)
    assert (best, took) == (start, 1.0)
