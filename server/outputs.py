"""What `LLM` returns. Names follow vLLM's outputs, where it has them: there is no `request_id`, the order says it."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.messages import TokenLogprob
from .offline import Answer, Job


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model calls a function; `arguments` are its own text, JSON if it did well."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One answer. Of a Harmony chat `text` is the final channel and `reasoning` the analysis.

    `token_ids` are all that were generated, the one that ended it included; `logprobs`, where asked for, are theirs.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None
    finish_reason: str | None
    stop_reason: int | str | None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def cumulative_logprob(self) -> float | None:
        """Of all its tokens together; None without `logprobs`."""
        return None if self.logprobs is None else sum(entry.logprob for entry in self.logprobs)


@dataclass(frozen=True, slots=True)
class RequestResult:
    """One prompt and what came of it. `prompt` is None when it was given as token ids."""

    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[TokenLogprob | None] | None
    outputs: list[CompletionOutput]
    finished = True  # what is not, is not returned

    @classmethod
    def of(cls, prompt: str | None, job: Job, answer: Answer) -> RequestResult:
        """What came of a job, of a prompt that was this text."""
        piece = answer.piece
        output = CompletionOutput(
            0,
            piece.text,
            answer.token_ids,
            answer.logprobs,
            piece.finish_reason,
            piece.stop_reason,
            piece.reasoning,
            tuple(ToolCall(call.id or "", call.name or "", call.arguments) for call in piece.joined_calls),
        )
        return cls(prompt, job.prompt_token_ids, piece.prompt_logprobs, [output])
