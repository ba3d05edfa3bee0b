"""One sequence while the engine works on it: what was asked, how far it is, and when it ends."""

from __future__ import annotations

import math
from enum import Enum

from .messages import FinishReason, RequestOutput, Submit, TokenLogprob
from .step import SamplingRow

NO_SLOT = -1


class Status(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Request:
    """A submitted sequence. `num_computed` of its `num_tokens` (prompt and output) are in the cache.

    `seed` is the sampler's when the parameters name none: drawn once, so that a recomputed request repeats itself.
    """

    __slots__ = (
        "arrival",
        "eos",
        "finish_reason",
        "first_scheduled",
        "num_computed",
        "num_tokens",
        "order",
        "output",
        "params",
        "priority",
        "prompt",
        "prompt_logprobs",
        "request_id",
        "row",
        "slot",
        "status",
        "stop_reason",
        "stop_token_ids",
    )

    def __init__(self, submit: Submit, seed: int) -> None:
        if not math.isfinite(submit.arrival):
            raise ValueError(f"arrival must be a finite time, got {submit.arrival}")
        params = submit.params
        self.request_id = submit.request_id
        self.params = params
        self.priority = submit.priority
        self.arrival = submit.arrival
        self.prompt = submit.prompt_token_ids
        self.output: list[int] = []
        self.eos = frozenset() if params.ignore_eos else frozenset(submit.eos_token_ids)
        self.stop_token_ids = frozenset(params.stop_token_ids)
        # What the sampler needs, made once: the lists are borrowed and grow with the request.
        self.row = SamplingRow(
            params=params,
            prompt_token_ids=self.prompt,
            output_token_ids=self.output,
            seed=seed if params.seed is None else params.seed,
            eos_token_ids=submit.eos_token_ids,
        )
        self.order: tuple[int, float, int] = (self.priority, self.arrival, 0)  # the scheduler sets the last, a tiebreak
        self.status = Status.WAITING
        self.slot = NO_SLOT
        self.num_tokens = len(self.prompt)
        self.num_computed = 0
        self.first_scheduled: float | None = None
        self.prompt_logprobs: list[TokenLogprob | None] | None = None  # gathered until the first token takes them along
        self.restart()
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | None = None

    @property
    def seed(self) -> int:
        return self.row.seed

    @property
    def pending(self) -> int:
        return self.num_tokens - self.num_computed

    def tokens(self, start: int, count: int) -> list[int]:
        """The tokens at positions [start, start + count) of prompt and output."""
        split = len(self.prompt)
        if start >= split:
            return self.output[start - split : start - split + count]
        piece = self.prompt[start : start + count]
        return piece + self.output[: count - len(piece)] if len(piece) < count else piece

    def restart(self) -> None:
        """Nothing is computed any more; the output stays and is computed again like a prompt."""
        self.num_computed = 0
        wanted = self.params.prompt_logprobs is not None and not self.output
        self.prompt_logprobs = [None] if wanted else None

    def append(self, token_id: int, max_model_len: int) -> None:
        """Take a new token in and decide whether it is the last one: `finish_reason` and `stop_reason` say so.

        End-of-generation and stop tokens end nothing before `min_tokens` are out; the two limits of length always do.
        """
        self.output.append(token_id)
        self.num_tokens += 1
        length = len(self.output)
        if length >= self.params.min_tokens and (token_id in self.eos or token_id in self.stop_token_ids):
            self.finish_reason = "stop"
            self.stop_reason = None if token_id in self.eos else token_id
        elif length >= self.params.max_tokens or self.num_tokens >= max_model_len:
            self.finish_reason = "length"

    def take_output(self, logprob: TokenLogprob | None) -> RequestOutput:
        """The message of the token just appended; with the first go the prompt's logprobs and the time in the queue."""
        if len(self.output) > 1:
            return RequestOutput(
                request_id=self.request_id,
                token_ids=[self.output[-1]],
                logprobs=None if logprob is None else [logprob],
                finish_reason=self.finish_reason,
                stop_reason=self.stop_reason,
            )
        prompt_logprobs, self.prompt_logprobs = self.prompt_logprobs, None
        scheduled = self.arrival if self.first_scheduled is None else self.first_scheduled
        return RequestOutput(
            request_id=self.request_id,
            token_ids=[self.output[-1]],
            logprobs=None if logprob is None else [logprob],
            prompt_logprobs=prompt_logprobs,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            queue_seconds=max(0.0, scheduled - self.arrival),  # two clocks: the front end may run on another machine
        )
