"""A rank whose model costs nothing: it speaks the engine's protocol and gives the letter x. For bench/frontend.py.

    python -m yardmaster.bench.null_rank ADDRESS MODEL

A request's seed is its pace. 0: the whole answer at once. Else microseconds between tokens, on a grid that all requests
of that pace share, as those of a batch do: every tick is one message with a token for each of them. The text begins
with the time of the tick before the first x, on the machine's monotonic clock.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from yardmaster.engine.channel import RankSocket
from yardmaster.engine.messages import (
    Abort,
    EngineStats,
    Hello,
    Outputs,
    RankReport,
    Ready,
    RequestOutput,
    Shutdown,
    Submit,
)
from yardmaster.server.text.tokenizer import Tokenizer

HEADER = "<|channel|>final<|message|>"
CONTEXT = 1 << 16
SPARE = 8  # tokens of a request's max_tokens that are not x: those of the header


@dataclass(slots=True)
class _Paced:
    interval: float
    left: int
    due: float


class NullRank:
    def __init__(self, address: str, model: Path) -> None:
        tokenizer = Tokenizer(model)
        self._header = tokenizer.encode_trusted(HEADER)
        self._encode = tokenizer.encode
        (self._letter,) = tokenizer.encode("x")
        self._socket = RankSocket(address, "rank-0")
        self._live: dict[str, _Paced] = {}
        self._steps = self._tokens = 0

    def run(self) -> None:
        self._socket.send(Hello(rank=0, world_size=1, group=0, leader=True))
        self._socket.send(Ready(rank=0, group=0, leader=True, max_model_len=CONTEXT, kv_tokens=1 << 20))
        parent, beat = os.getppid(), 0.0
        while os.getppid() == parent:
            now = time.monotonic()
            if now >= beat:
                self._socket.send(RankReport(rank=0))
                beat = now + 1.0
            due = min((each.due for each in self._live.values()), default=now + 0.5)
            outputs: list[RequestOutput] = []
            for message in self._socket.receive(max(0.0, due - time.monotonic())):
                match message:
                    case Submit():
                        outputs += self._take(message)
                    case Abort():
                        self._live.pop(message.request_id, None)
                    case Shutdown():
                        return
            outputs += self._tick(time.monotonic())
            if outputs:
                self._steps += 1
                self._tokens += sum(len(output.token_ids) for output in outputs)
                stats = EngineStats(
                    running=len(self._live), waiting=0, kv_usage=0.0, preemptions=0, steps=self._steps,
                    prompt_tokens=0, generation_tokens=self._tokens,
                )  # fmt: skip
                self._socket.send(Outputs(0, outputs, stats))

    def _take(self, request: Submit) -> list[RequestOutput]:
        count, interval = request.params.max_tokens - SPARE, (request.params.seed or 0) / 1e6
        if not interval:
            ids = [*self._header, *[self._letter] * count]
            return [RequestOutput(request_id=request.request_id, token_ids=ids, finish_reason="length")]
        tick = (time.monotonic() // interval + 1) * interval
        self._live[request.request_id] = _Paced(interval, count, tick + interval)
        ids = [*self._header, *self._encode(f"{tick:.6f} ")]
        return [RequestOutput(request_id=request.request_id, token_ids=ids, queue_seconds=0.0)]

    def _tick(self, now: float) -> list[RequestOutput]:
        outputs = []
        for name, each in list(self._live.items()):
            count = 0
            while each.due <= now and count < each.left:  # late tokens come at once, as after a step that took long
                each.due += each.interval
                count += 1
            if count:
                each.left -= count
                reason = None if each.left else "length"
                outputs.append(
                    RequestOutput(request_id=name, token_ids=[self._letter] * count, finish_reason=reason)  # type: ignore[arg-type]
                )
                if not each.left:
                    del self._live[name]
        return outputs


if __name__ == "__main__":
    NullRank(sys.argv[1], Path(sys.argv[2])).run()
