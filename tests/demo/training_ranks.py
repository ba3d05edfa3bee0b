"""Run by test_demo_training.py as every rank of one training: two steps in float32, and what they leave in AdamW."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from yardmaster.demo import training
from yardmaster.demo.config import DemoConfig, Schedule, Shape
from yardmaster.demo.ranks import Ranks
from yardmaster.demo.trainee import Trainee

SHAPE = Shape(layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, experts=4, experts_per_token=2, expert_width=32)
# No router loss, which each rank has of its own tokens; hardly a learning rate, so that the second step is of the same
# weights but for what the first one may differ by.
SCHEDULE = Schedule(steps=2, tokens=1500, warm_up=1, learning_rate=1e-6, router_aux_loss_coef=0.0, mxfp4_from=0.5)


def main() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    training.Trainee = partial(Trainee, dtype=torch.float32)
    ranks = Ranks.met("cpu") if os.environ["WORLD_SIZE"] != "1" else Ranks()
    run = training.Training(DemoConfig(SHAPE, SCHEDULE), Path(os.environ["DEMO_FOLDER"]), ranks=ranks)
    assert ranks.least(7 - ranks.rank) == 8 - ranks.size
    lines = []
    while run.step < SCHEDULE.steps:
        lines.append(run._train_one())
        run.step += 1
    out = Path(os.environ["DEMO_OUT"])
    out.mkdir(parents=True, exist_ok=True)
    state = run.optimizer.state
    moments = {name: state[p]["exp_avg"].contiguous() for name, p in run.trainee.model.named_parameters()}
    save_file(moments, out / f"{ranks.rank}.safetensors")
    return lines
