"""The front end's own process, as far as it can be had without one."""

from __future__ import annotations

import io
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from yardmaster.engine.config import EngineConfig
from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint
from yardmaster.parallel.layout import ParallelConfig
from yardmaster.server import front
from yardmaster.server.http.config import HttpConfig


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_signal_is_heard_though_nobody_reads_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Broken())
    with socket.socket() as listener:
        process = front._Front(EngineConfig(model="-"), HttpConfig(("m",)), listener)
        process._on_signal()
        assert process._signalled.is_set()
        process._on_signal()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"max_model_len": 4097}, "--max-model-len 4097 .* 4096"),
        ({"expert_dtype": "mxfp4"}, "--expert-dtype mxfp4 needs a checkpoint in MXFP4"),
        ({"parallel": ParallelConfig(3)}, "--tensor-parallel-size"),
    ],
)
def test_what_a_model_cannot_have_is_said_before_ranks_start(tmp_path: Path, flags: dict[str, Any], words: str) -> None:
    shape = {"hidden_size": 32, "num_layers": 1, "head_dim": 16, "num_heads": 2, "expert_width": 32, "num_experts": 4}
    model = replace(small_gpt_oss(vocab_size=512, **shape), max_position=4096)
    write_random_checkpoint(tmp_path / "tiny", model)
    engine = EngineConfig(model=str(tmp_path / "tiny"), **flags)
    with pytest.raises(ValueError, match=words):
        front.run(engine, HttpConfig(("m",), port=0), "ipc:///nowhere", lambda bound: pytest.fail("ranks were started"))
