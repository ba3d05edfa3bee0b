"""One sequence while the engine works on it: what was asked, how far it is, and when it ends."""

from __future__ import annotations

import math
from enum import Enum

from .grammar import Grammar
from .messages import FinishReason, RequestOutput, Submit, TokenLogprob
from .plan import PENDING
from .step import SamplingRow

NO_SLOT = -1
MAX_AHEAD = 1  # steps that may be planned before the tokens of the one before are known


class Status(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Request:
    """A submitted sequence. `num_computed` of its `num_tokens` are in the cache, once the planned steps have run.

    `num_tokens` are prompt, output, and the `promised` tokens that planned steps sample. `runs` counts how often it was
    started: what a step of an earlier run brings is not looked at.

    `seed` is the sampler's when the parameters name none: drawn once, so that a recomputed request repeats itself.
    """

    __slots__ = (
        "arrival",
        "eos",
        "finish_reason",
        "first_scheduled",
        "grammar",
        "num_computed",
        "num_tokens",
        "order",
        "output",
        "params",
        "priority",
        "promised",
        "prompt",
        "prompt_logprobs",
        "request_id",
        "rows",
        "runs",
        "slot",
        "status",
        "stop_reason",
        "stop_token_ids",
    )

    def __init__(self, submit: Submit, seed: int, grammar: Grammar | None = None) -> None:
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
        self.grammar = grammar
        # What the sampler needs, made once, by the tokens ahead: the lists are borrowed and grow with the request.
        self.rows = [
            SamplingRow(
                params=params,
                prompt_token_ids=self.prompt,
                output_token_ids=self.output,
                seed=seed if params.seed is None else params.seed,
                eos_token_ids=submit.eos_token_ids,
                grammar=grammar,
                ahead=ahead,
            )
            for ahead in range(MAX_AHEAD + 1)
        ]
        self.order: tuple[int, float, int] = (self.priority, self.arrival, 0)  # the scheduler sets the last, a tiebreak
        self.status = Status.WAITING
        self.slot = NO_SLOT
        self.runs = 0
        self.first_scheduled: float | None = None
        self.prompt_logprobs: list[TokenLogprob | None] | None = None  # gathered until the first token takes them along
        self.restart()
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | None = None

    @property
    def seed(self) -> int:
        return self.rows[0].seed

    @property
    def row(self) -> SamplingRow:
        """What the sampler needs for the last token promised."""
        return self.rows[self.promised - 1]

    @property
    def pending(self) -> int:
        return self.num_tokens - self.num_computed

    def may_continue(self, max_model_len: int) -> bool:
        """Whether it needs a further step, by what is known now: a promised token may turn out to be the last."""
        if not self.promised:
            return True
        reached = len(self.output) + self.promised >= self.params.max_tokens or self.num_tokens >= max_model_len
        return not reached and not self.params.looks_back and self.grammar is None

    def tokens(self, start: int, count: int) -> list[int]:
        """The tokens at positions [start, start + count) of prompt and output; PENDING where it is only promised."""
        split = len(self.prompt)
        if start >= split:
            piece = self.output[start - split : start - split + count]
        else:
            piece = self.prompt[start : start + count]
            if len(piece) < count:
                piece = piece + self.output[: count - len(piece)]
        return piece + [PENDING] * (count - len(piece)) if len(piece) < count else piece

    def plan(self, count: int, sample: bool) -> None:
        """A step will compute `count` more positions and, with `sample`, bring a token."""
        self.num_computed += count
        if sample:
            self.promised += 1
            self.num_tokens += 1

    def restart(self) -> None:
        """Nothing is computed any more; the output stays and is computed again like a prompt."""
        self.runs += 1
        self.num_computed = self.promised = 0
        self.num_tokens = len(self.prompt) + len(self.output)
        wanted = self.params.prompt_logprobs is not None and not self.output
        self.prompt_logprobs = [None] if wanted else None

    def append(self, token_id: int, max_model_len: int) -> None:
        """Take a promised token in and decide whether it is the last one: `finish_reason` and `stop_reason` say so.

        End-of-generation and stop tokens end nothing before `min_tokens` are out; the two limits of length always do,
        and so does the end of a grammar. Raises GrammarError when the token may not stand here.
        """
        if self.grammar is not None:
            self.grammar.accept(token_id)
        self.output.append(token_id)
        self.promised -= 1
        length = len(self.output)
        stops = token_id in self.eos or token_id in self.stop_token_ids
        if (self.grammar is not None and self.grammar.ended) or (stops and length >= self.params.min_tokens):
            self.finish_reason = "stop"
            self.stop_reason = token_id if stops and token_id not in self.eos else None
        elif length >= self.params.max_tokens or len(self.prompt) + length >= max_model_len:
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
