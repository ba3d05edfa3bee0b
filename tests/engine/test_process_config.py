from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from typing import Any

import pytest

from yardmaster.engine.config import EngineConfig
from yardmaster.engine.scheduler import SchedulerConfig
from yardmaster.parallel.layout import ParallelConfig
from yardmaster.server.launch import World, layout


def test_what_the_ranks_get_is_what_was_sent() -> None:
    config = EngineConfig(
        model="/a b/ü",
        dtype="bfloat16",
        parallel=ParallelConfig(2, 3, 6),
        scheduler=SchedulerConfig(max_num_seqs=3, max_num_batched_tokens=77, max_model_len=99, max_waiting=5),
        max_model_len=1234,
        kv_cache_memory_bytes=1 << 40,
        seed=(1 << 63) - 1,
        num_cpu_threads=3,
    )
    assert EngineConfig.from_json(config.to_json()) == config
    assert EngineConfig.from_json(EngineConfig(model="m").to_json()) == EngineConfig(model="m")


@pytest.mark.parametrize(
    ("field", "value", "flag"),
    [
        ("model", "", "directory"),
        ("dtype", "float8", "--dtype"),
        ("expert_dtype", "int4", "--expert-dtype"),
        ("load_format", "pickle", "--load-format"),
        ("device", "tpu", "--device"),
        ("max_model_len", 1, "--max-model-len"),
        ("max_model_len", 1 << 40, "--max-model-len"),
        ("page_size", 0, "--block-size"),
        ("gpu_memory_utilization", 0.0, "--gpu-memory-utilization"),
        ("gpu_memory_utilization", float("nan"), "--gpu-memory-utilization"),
        ("kv_cache_memory_bytes", 0, "--kv-cache-memory-bytes"),
        ("seed", -1, "--seed"),
        ("collective_timeout", 0.5, "--collective-timeout"),
        ("collective_timeout", float("nan"), "--collective-timeout"),
        ("num_cpu_threads", 0, "--num-cpu-threads"),
    ],
)
def test_a_wrong_value_names_its_flag(field: str, value: Any, flag: str) -> None:
    with pytest.raises(ValueError, match=flag):
        dataclasses.replace(EngineConfig(model="m"), **{field: value})


def test_json_is_checked_like_everything_else() -> None:
    good = EngineConfig(model="m").to_json()
    for old, new in ((b'"seed":0', b'"seed":-1'), (b'"page_size":16', b'"page_size":"x"'), (b"{", b"")):
        assert old in good
        with pytest.raises(ValueError):  # noqa: PT011
            EngineConfig.from_json(good.replace(old, new, 1))


def test_ranks_share_the_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    config = EngineConfig(model="m")
    assert config.threads(1) == cores
    assert config.threads(10 * cores) == 1
    assert dataclasses.replace(config, num_cpu_threads=5).threads(2) == 5


@pytest.mark.parametrize(
    ("tp", "dp", "size", "expected"),
    [
        (None, None, None, (1, 1)),
        (2, None, None, (2, 1)),
        (None, 3, None, (1, 3)),
        (None, None, 4, (1, 4)),
        (2, None, 8, (2, 4)),
        (None, 2, 8, (4, 2)),
        (2, 2, 4, (2, 2)),
    ],
)
def test_sizes_left_out_follow_from_torchruns_world(
    tp: int | None, dp: int | None, size: int | None, expected: tuple[int, int]
) -> None:
    world = None if size is None else World(0, size, size, "localhost")
    parallel = layout(tp, dp, None, world)
    assert (parallel.tp, parallel.dp) == expected


@pytest.mark.parametrize(("tp", "dp", "size"), [(2, 2, 8), (3, None, 4), (None, 3, 4), (8, None, 4)])
def test_sizes_that_do_not_fit_name_the_flags(tp: int | None, dp: int | None, size: int) -> None:
    with pytest.raises(ValueError, match=r"--tensor-parallel-size .*--data-parallel-size .*--nproc-per-node"):
        layout(tp, dp, None, World(0, size, size, "localhost"))


def test_a_machine_carries_so_many_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert layout(4, 4, None, None).world_size == 16
    with pytest.raises(ValueError, match=r"--tensor-parallel-size 1 x --data-parallel-size 17 .* 16 at most"):
        layout(None, 17, None, None)
    assert layout(None, None, None, World(0, 17, 17, "localhost")).world_size == 17


def test_the_world_is_read_from_torchruns_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "node0"}
    made["MASTER_PORT"] = "29500"
    for name in made:
        monkeypatch.delenv(name, raising=False)
    for name, value in made.items():  # a job platform's are fewer
        assert World.of_environment() is None
        monkeypatch.setenv(name, value)
    world = World.of_environment()
    assert world == World(3, 8, 4, "node0")
    assert world.many_nodes
    monkeypatch.setenv("RANK", "three")
    with pytest.raises(ValueError, match="RANK"):
        World.of_environment()


def test_the_front_end_does_not_import_torch() -> None:
    code = "import sys, yardmaster.server.front; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
