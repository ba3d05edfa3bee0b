"""One sequence on its way back: token ids in, text and calls out, stop strings applied, tokens counted.

Pure: no HTTP and no waiting. A `Piece` is what became certain of the sequence; pieces merge when a client is slower
than the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ...engine.messages import RequestOutput, Submit, TokenLogprob
from ..text.stop import StopMatcher
from .splitter import CallDelta, Owner, PlainSplitter, Split, Splitter


@dataclass(slots=True)
class Piece:
    """News of one choice. Texts are lists so that a long answer is joined once."""

    texts: list[str] = field(default_factory=list)
    reasonings: list[str] = field(default_factory=list)
    calls: list[CallDelta] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)  # of the tokens of the content
    prompt_logprobs: list[TokenLogprob | None] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    completion_tokens: int = 0  # so far
    reasoning_tokens: int = 0  # so far
    token_ids: list[int] = field(default_factory=list)  # all that were generated, one that ended it included

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def reasoning(self) -> str:
        return "".join(self.reasonings)

    @property
    def joined_calls(self) -> list[CallDelta]:
        """One delta a call."""
        parts: dict[int, list[CallDelta]] = {}
        for delta in self.calls:
            parts.setdefault(delta.index, []).append(delta)
        return [replace(same[0], arguments="".join(each.arguments for each in same)) for same in parts.values()]

    @property
    def empty(self) -> bool:
        """Nothing that a client could see."""
        return not (self.texts or self.reasonings or self.calls or self.finish_reason)

    def merge(self, later: Piece) -> None:
        self.texts += later.texts
        self.reasonings += later.reasonings
        self.calls += later.calls
        self.logprobs += later.logprobs
        self.token_ids += later.token_ids
        self.prompt_logprobs = self.prompt_logprobs or later.prompt_logprobs
        self.finish_reason, self.stop_reason = later.finish_reason, later.stop_reason
        self.completion_tokens, self.reasoning_tokens = later.completion_tokens, later.reasoning_tokens


class Choice:
    """The state of one sequence. `feed` takes the engine's outputs in order until `finish_reason` is set.

    `most`: tokens at which it ends, however many the engine may generate.
    """

    def __init__(self, index: int, submit: Submit, splitter: Splitter, most: int | None = None) -> None:
        params = submit.params
        self.index = index
        self.submit = submit
        self.finish_reason: str | None = None
        self.completion_tokens = 0
        self.reasoning_tokens = 0
        self._splitter = splitter
        self._most = most
        self._stop = (
            StopMatcher(params.stop, params.include_stop_str_in_output, params.min_tokens) if params.stop else None
        )
        self._ends = frozenset((*submit.eos_token_ids, *params.stop_token_ids))
        self._show_end = params.include_stop_str_in_output
        self._called = False
        # Whole outputs at once where nothing asks at which token something happened.
        self._whole = isinstance(splitter, PlainSplitter) and not params.stop and params.logprobs is None
        self._undecided: list[TokenLogprob] = []
        self._undecided_tokens = 0

    def feed(self, output: RequestOutput) -> Piece:
        """Raises nothing: whatever the tokens are, they become text."""
        piece = Piece(prompt_logprobs=output.prompt_logprobs)
        ids = output.token_ids
        ended = output.finish_reason == "stop" and bool(ids) and ids[-1] in self._ends
        shown = len(ids) - (ended and not self._show_end and ids[-1] not in self._splitter.silent_ids)
        step = max(len(ids), 1) if self._whole else 1
        for at in range(0, shown, step):
            self._take(ids[at : min(at + step, shown)], at, output.logprobs, piece)
            if self._stop is not None and self._stop.matched is not None:
                self._close(piece, "stop", self._stop.matched)
                return piece
            if self._splitter.done:
                self._flush(piece)
                self._close(piece, "stop", None)
                return piece
            if self.completion_tokens == self._most and (at + step < len(ids) or output.finish_reason is None):
                self._flush(piece)
                self._close(piece, "length", None)
                return piece
        self.completion_tokens += len(ids) - shown
        piece.token_ids += ids[shown:]
        if output.finish_reason is not None:
            self._flush(piece)
            if self._stop is not None and self._stop.matched is not None:
                self._close(piece, "stop", self._stop.matched)
            else:
                self._close(piece, output.finish_reason, output.stop_reason)
        piece.completion_tokens, piece.reasoning_tokens = self.completion_tokens, self.reasoning_tokens
        return piece

    def _take(self, ids: list[int], at: int, logprobs: list[TokenLogprob] | None, piece: Piece) -> None:
        split = self._splitter.feed(ids)
        self.completion_tokens += len(ids)
        piece.token_ids += ids
        if ids[-1] in self._splitter.silent_ids:  # it decides whose the tokens before it were, and is nobody's itself
            self._settle("nobody" if split.owner == "undecided" else split.owner, piece)
        else:
            if logprobs is not None:
                self._undecided += logprobs[at : at + len(ids)]
            self._undecided_tokens += len(ids)
            self._settle(split.owner, piece)
        self._emit(split, len(ids), piece)

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

    def _emit(self, split: Split, tokens: int, piece: Piece) -> None:
        content = split.content if self._stop is None else self._stop.feed(split.content, tokens)
        if content:
            piece.texts.append(content)
        if split.reasoning:
            piece.reasonings.append(split.reasoning)
        if split.calls:
            self._called = True
            piece.calls += split.calls

    def _flush(self, piece: Piece) -> None:
        """What parser, detokenizer and matcher held back."""
        split = self._splitter.finish()
        self._settle("nobody" if split.owner == "undecided" else split.owner, piece)
        self._emit(split, 0, piece)
        if self._stop is not None and self._stop.matched is None:
            rest = self._stop.finish()
            if rest:
                piece.texts.append(rest)

    def _close(self, piece: Piece, reason: str, stop_reason: int | str | None) -> None:
        if reason == "stop" and self._called:
            reason = "tool_calls"
        self.finish_reason = reason
        piece.finish_reason, piece.stop_reason = reason, stop_reason
        piece.completion_tokens, piece.reasoning_tokens = self.completion_tokens, self.reasoning_tokens
