"""One sequence on its way back: token ids in, text by channel out, stop strings applied, tokens counted.

Pure: no HTTP and no waiting. A `Piece` is what became certain of the sequence; pieces merge when a client is slower
than the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ...engine.messages import RequestOutput, Submit, TokenLogprob
from ..text.detokenizer import Detokenizer
from ..text.harmony import Delta, HarmonyParser
from ..text.stop import StopMatcher
from ..text.tokenizer import Tokenizer

Owner = Literal["content", "reasoning", "control", "undecided"]


@dataclass(slots=True)
class Piece:
    """News of one choice. Texts are lists so that a long answer is joined once."""

    texts: list[str] = field(default_factory=list)
    reasonings: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)  # of the tokens of the content
    prompt_logprobs: list[TokenLogprob | None] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    completion_tokens: int = 0  # so far
    reasoning_tokens: int = 0  # so far

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def reasoning(self) -> str:
        return "".join(self.reasonings)

    @property
    def empty(self) -> bool:
        """Nothing that a client could see."""
        return not (self.texts or self.reasonings or self.finish_reason)

    def merge(self, later: Piece) -> None:
        self.texts += later.texts
        self.reasonings += later.reasonings
        self.logprobs += later.logprobs
        self.prompt_logprobs = self.prompt_logprobs or later.prompt_logprobs
        self.finish_reason, self.stop_reason = later.finish_reason, later.stop_reason
        self.completion_tokens, self.reasoning_tokens = later.completion_tokens, later.reasoning_tokens


class Splitter(Protocol):
    """Token ids to (content, reasoning, whose the tokens were)."""

    def feed(self, token_ids: Sequence[int]) -> tuple[str, str, Owner]: ...

    def finish(self) -> tuple[str, str]: ...


class PlainSplitter:
    """All text is content."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool) -> None:
        self._detokenizer = Detokenizer(tokenizer, skip_special_tokens)

    def feed(self, token_ids: Sequence[int]) -> tuple[str, str, Owner]:
        return self._detokenizer.feed(token_ids), "", "content"

    def finish(self) -> tuple[str, str]:
        return self._detokenizer.finish(), ""


class HarmonySplitter:
    """The analysis channel is reasoning; final, and commentary addressed to nobody, are content. Feed single tokens.

    `primer`: tokens of the prompt that already stand in the message to be continued, after `<|start|>assistant`.
    """

    def __init__(self, tokenizer: Tokenizer, primer: Sequence[int] = ()) -> None:
        self._parser = HarmonyParser(tokenizer)
        self._control = tokenizer.special_ids
        self._parser.feed(primer)

    def feed(self, token_ids: Sequence[int]) -> tuple[str, str, Owner]:
        content, reasoning = self._sort(self._parser.feed(token_ids))
        if token_ids[-1] in self._control:
            return content, reasoning, "control"
        return content, reasoning, "content" if content else "reasoning" if reasoning else "undecided"

    def finish(self) -> tuple[str, str]:
        return self._sort(self._parser.finish())

    @staticmethod
    def _sort(deltas: Sequence[Delta]) -> tuple[str, str]:
        content = reasoning = ""
        for delta in deltas:
            if delta.channel == "analysis":
                reasoning += delta.text
            elif delta.recipient is None:
                content += delta.text
        return content, reasoning


class Choice:
    """The state of one sequence. `feed` takes the engine's outputs in order until `finish_reason` is set."""

    def __init__(self, index: int, submit: Submit, splitter: Splitter) -> None:
        params = submit.params
        self.index = index
        self.submit = submit
        self.finish_reason: str | None = None
        self.completion_tokens = 0
        self.reasoning_tokens = 0
        self._splitter = splitter
        self._stop = (
            StopMatcher(params.stop, params.include_stop_str_in_output, params.min_tokens) if params.stop else None
        )
        self._ends = frozenset((*submit.eos_token_ids, *params.stop_token_ids))
        self._show_end = params.include_stop_str_in_output
        # Whole outputs at once where nothing asks at which token something happened.
        self._whole = isinstance(splitter, PlainSplitter) and not params.stop and params.logprobs is None
        self._undecided: list[TokenLogprob] = []
        self._undecided_tokens = 0

    def feed(self, output: RequestOutput) -> Piece:
        """Raises nothing: whatever the tokens are, they become text."""
        piece = Piece(prompt_logprobs=output.prompt_logprobs)
        ids = output.token_ids
        ended = output.finish_reason == "stop" and bool(ids) and ids[-1] in self._ends
        shown = len(ids) - (ended and not self._show_end)
        step = max(len(ids), 1) if self._whole else 1
        for at in range(0, shown, step):
            self._take(ids[at : min(at + step, shown)], at, output.logprobs, piece)
            if self._stop is not None and self._stop.matched is not None:
                self._close(piece, "stop", self._stop.matched)
                return piece
        self.completion_tokens += len(ids) - shown
        if output.finish_reason is not None:
            self._flush(piece)
            if self._stop is not None and self._stop.matched is not None:
                self._close(piece, "stop", self._stop.matched)
            else:
                self._close(piece, output.finish_reason, output.stop_reason)
        piece.completion_tokens, piece.reasoning_tokens = self.completion_tokens, self.reasoning_tokens
        return piece

    def _take(self, ids: list[int], at: int, logprobs: list[TokenLogprob] | None, piece: Piece) -> None:
        content, reasoning, owner = self._splitter.feed(ids)
        self.completion_tokens += len(ids)
        if logprobs is not None:
            self._undecided += logprobs[at : at + len(ids)]
        self._undecided_tokens += len(ids)
        self._settle(owner, piece)
        self._emit(content, reasoning, len(ids), piece)

    def _settle(self, owner: Owner, piece: Piece) -> None:
        """Half a character is nobody's yet: its tokens wait for the one that completes it."""
        if owner == "undecided":
            return
        if owner == "content":
            piece.logprobs += self._undecided
        elif owner == "reasoning":
            self.reasoning_tokens += self._undecided_tokens
        self._undecided = []
        self._undecided_tokens = 0

    def _emit(self, content: str, reasoning: str, tokens: int, piece: Piece) -> None:
        if self._stop is not None:
            content = self._stop.feed(content, tokens)
        if content:
            piece.texts.append(content)
        if reasoning:
            piece.reasonings.append(reasoning)

    def _flush(self, piece: Piece) -> None:
        """What parser, detokenizer and matcher held back."""
        content, reasoning = self._splitter.finish()
        self._settle("content" if content else "reasoning" if reasoning else "control", piece)
        self._emit(content, reasoning, 0, piece)
        if self._stop is not None and self._stop.matched is None:
            rest = self._stop.finish()
            if rest:
                piece.texts.append(rest)

    def _close(self, piece: Piece, reason: str, stop_reason: int | str | None) -> None:
        self.finish_reason = reason
        piece.finish_reason, piece.stop_reason = reason, stop_reason
        piece.completion_tokens, piece.reasoning_tokens = self.completion_tokens, self.reasoning_tokens
