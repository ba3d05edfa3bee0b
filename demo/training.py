"""The training loop: AdamW, warm-up and cosine, clipped gradients, the routers' loss, checkpoints to go on from.

Everything of a step is drawn from the seed and the step's number, so that a run that was cut off goes on as if it had
not been, on as many ranks as it likes. In the run's folder: tokenizer/, state.pt, and log.jsonl with a line every `LOG`
steps and every evaluation.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import torch

from ..server.text.tokenizer import Tokenizer
from .batch import Batch
from .config import DemoConfig, Schedule
from .exact import exact
from .ranks import Ranks
from .sample import Renderer, Sample
from .tasks.base import EFFORTS, Conversation
from .tasks.mix import Mix
from .tasks.registry import KINDS
from .trainee import Trainee, groups

LOG = 10
LOOK = 40  # steps, after which it is known how long one takes
STATE = "state.pt"
BETAS = (0.9, 0.98)
FIRST_DAY, DAYS = date(2024, 1, 1), 3650


class Training:
    """One run in `folder`, from where it stopped if it is there already."""

    def __init__(self, config: DemoConfig, folder: Path, device: str = "cpu", ranks: Ranks | None = None) -> None:
        self.config, self.folder, self.ranks = config, folder, ranks or Ranks()
        self.schedule, self._fitted = config.train, False
        self.renderer = Renderer(Tokenizer(folder / "tokenizer"))
        model_config = config.shape.model(Tokenizer(folder / "tokenizer").vocab_size)
        self.trainee = Trainee(model_config, config.train.seed, device=device)
        model, decay = self.trainee.model, config.train.weight_decay
        self.mix = Mix(config.mix)
        self.optimizer = torch.optim.AdamW(groups(model, decay), lr=0.0, betas=BETAS, fused=True)
        self.ranks.hold(model.parameters())
        self.step = self.tokens = 0
        self.seconds = 0.0
        self._load()

    def run(self, report: Callable[[dict[str, Any]], None], minutes: float | None = None) -> None:
        """To the end, which comes after as many steps as fit into `minutes` at most. `report` gets the log's lines."""
        times: list[float] = []
        while self.step < self.schedule.steps:
            began = time.monotonic()
            line = self._train_one()
            self.step += 1
            times.append(time.monotonic() - began)
            self.seconds += times[-1]
            if minutes is not None and not self._fitted and len(times) == LOOK:
                self._fit(60 * minutes, statistics.fmean(times[LOOK // 4 :]))
            schedule = self.schedule
            if not self.ranks.first:
                continue
            if self.step % LOG == 0 or self.step == schedule.steps:
                self._tell(line, report)
            if self.step % schedule.evaluate_every == 0 or self.step == schedule.steps:
                shares = exact(
                    self.trainee, self.renderer, [kind for kind, _ in KINDS], schedule.evaluate_on, schedule.seed
                )
                self._tell({"step": self.step, "exact": shares}, report)
            if self.step % schedule.save_every == 0 or self.step == schedule.steps:
                self._save()

    def _fit(self, seconds: float, step_seconds: float) -> None:
        """Make the schedule one that takes so many seconds in all, unless it is shorter; from now on it stays so."""
        left = max(0, int((seconds - self.seconds) / step_seconds))
        steps = self.ranks.least(self.step + left)
        self.schedule = replace(self.schedule, steps=min(self.schedule.steps, steps))
        self._fitted = True

    def _train_one(self) -> dict[str, Any]:
        schedule, trainee = self.schedule, self.trainee
        if self.step >= schedule.mxfp4_from * schedule.steps:
            trainee.pack_experts()
        rate = learning_rate(schedule, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        rng = random.Random(f"{schedule.seed} {self.step}")
        drawn = draw_samples(self.renderer, self.mix, rng, schedule.tokens)
        batch = Batch.of(self.ranks.share(drawn), trainee.windows, trainee.device)
        loss, imbalance = trainee.losses(batch)
        loss = loss * (len(batch.targets_S) / sum(sample.taught for sample in drawn))
        imbalance = imbalance / self.ranks.size
        (loss + schedule.router_aux_loss_coef * imbalance).backward()
        loads = torch.stack([router.counts() for router in trainee.routers])
        loss, imbalance, loads = self.ranks.add_up(loss, imbalance, loads)
        norm = torch.nn.utils.clip_grad_norm_(trainee.model.parameters(), schedule.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=self.ranks.size == 1)
        self.tokens += sum(len(sample.ids) for sample in drawn)
        return {
            "step": self.step + 1,
            "of": schedule.steps,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 1),
            "loss": round(loss.item(), 4),
            "router_loss": round(imbalance.item(), 4),
            "gradient_norm": round(norm.item(), 3),
            "learning_rate": rate,
            "max_over_mean_load": [round(x, 2) for x in (loads.amax(1) / loads.mean(1)).tolist()],
        }

    def _tell(self, line: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> None:
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        report(line)

    def _save(self) -> None:
        state = {
            "model": self.trainee.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "fitted": self.schedule.steps if self._fitted else 0,
        }
        part = self.folder / f"{STATE}.part"
        torch.save(state, part)
        part.replace(self.folder / STATE)

    def _load(self) -> None:
        """Raises ValueError where the state is of another model."""
        path = self.folder / STATE
        if not path.exists():
            return
        state = torch.load(path, map_location=self.trainee.device, weights_only=True)
        try:
            self.trainee.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, KeyError, ValueError):
            raise ValueError(f"{path} is of another model: choose another folder, or remove it") from None
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
        if steps := state.get("fitted", 0):
            self.schedule, self._fitted = replace(self.schedule, steps=min(self.schedule.steps, steps)), True
        if self.ranks.first:
            self._forget()
        if self.step >= self.schedule.mxfp4_from * self.schedule.steps:
            self.trainee.pack_experts()

    def _forget(self) -> None:
        """What the log says of steps after the state, which are to come again."""
        log = self.folder / "log.jsonl"
        if log.exists():
            lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
            log.write_text("".join(line for line in lines if json.loads(line)["step"] <= self.step), encoding="utf-8")


def draw_samples(renderer: Renderer, mix: Mix, rng: random.Random, tokens: int) -> list[Sample]:
    """Fresh conversations of about so many tokens, on one day, which all of them share with their system messages."""
    today = FIRST_DAY + timedelta(rng.randrange(DAYS))
    samples: list[Sample] = []
    while tokens > 0:
        conversation = mix.draw(rng)
        samples.append(renderer.render(conversation, draw_effort(rng, conversation), today))
        tokens -= len(samples[-1].ids)
    return samples


def draw_effort(rng: random.Random, conversation: Conversation) -> str:
    """Of a conversation of several turns only effort without thoughts teaches every answer: they are of the last one.

    Calls have thoughts at high effort alone.
    """
    several = sum(turn.role == "user" for turn in conversation.turns) > 1
    if conversation.tools:
        return rng.choices(EFFORTS, (4, 3, 3) if several else (2, 3, 5))[0]
    return rng.choices(EFFORTS, (7, 2, 1) if several else (3, 3, 4))[0]


def learning_rate(schedule: Schedule, step: int) -> float:
    """Warm-up in a straight line, then a cosine down to `least_rate` of the highest."""
    warm = min(1.0, (step + 1) / max(1, schedule.warm_up))
    fall = 0.5 * (1 + math.cos(math.pi * step / schedule.steps))
    return schedule.learning_rate * warm * (schedule.least_rate + (1 - schedule.least_rate) * fall)
