"""An answer in Anthropic's words: a message of content blocks, whole or as the events that build it up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import msgspec

from ..http.choice import Piece
from ..http.notes import Notes, Said
from ..http.splitter import CallDelta
from ..http.usage import Usage
from .call_id import shown
from .tool_input import ToolInput

Shown = Literal["summarized", "omitted"]
SIGNATURE = "unsigned"
"""Of a thinking block. Nothing is proved by it here; but clients leave out what has none when they send it back."""
MENDED = "mended_arguments"
"""The kind of repair that is counted for a call whose arguments were no JSON object."""

_PING = {"type": "ping"}


class Answer:
    """The one answer to a request, in the order of its pieces: `first`, `chunks` for each, `last`; or `whole`.

    `thinking`: how it is shown; None leaves its blocks out. `context_bound`: the answer may only be as long as the
    context leaves room for, which is less than was asked for. `notes`: of what the pieces hold, in its order.
    """

    def __init__(
        self,
        identity: str,
        model: str,
        usage: Usage,
        thinking: Shown | None,
        context_bound: bool,
        notes: Notes,
        on_mended: Callable[[str], None],
    ) -> None:
        self._head = {"id": identity, "type": "message", "role": "assistant", "model": model}
        self._usage = usage
        self._thinking = thinking
        self._context_bound = context_bound
        self._mended = on_mended
        self._notes = notes
        self._waiting: deque[Said] = deque()
        self._index = 0  # of the open block, or of the next one
        self._open: str | None = None  # its type
        self._call = -1  # its place among the calls
        self._input = ToolInput()
        self._piece = Piece()  # the latest

    def first(self) -> Iterator[dict[str, Any]]:
        self._usage.take(0, 0, 0)
        end = {"stop_reason": None, "stop_sequence": None}
        yield {"type": "message_start", "message": {**self._head, "content": [], **end, "usage": self._counts()}}
        yield _PING

    def chunks(self, index: int, piece: Piece) -> Iterator[dict[str, Any]]:
        """What is new."""
        self._piece = piece
        self._usage.take(index, piece.completion_tokens, piece.reasoning_tokens)
        for said in self._said(piece):
            if said.call is not None:
                yield from self._tool_use(said.call, said.text)
            elif said.kind != "reasoning":
                yield from self._text("text", said.text)
            elif self._thinking is not None:
                yield from self._text("thinking", said.text)
        if piece.finish_reason is not None:
            if self._open is None and not self._index:  # clients look at the first block unasked
                yield from self._begin("text", {"text": ""})
            yield from self._end()

    def last(self) -> Iterator[dict[str, Any]]:
        yield {"type": "message_delta", "delta": self._reason(), "usage": self._counts()}
        yield {"type": "message_stop"}

    def whole(self, pieces: list[Piece]) -> dict[str, Any]:
        """What the events add up to."""
        blocks: list[dict[str, Any]] = []
        inputs: list[str] = []
        for event in self.chunks(0, pieces[0]):
            if event["type"] == "content_block_start":
                blocks.append(event["content_block"])
                inputs.clear()
            elif event["type"] == "content_block_stop":
                if inputs:
                    blocks[-1]["input"] = msgspec.Raw("".join(inputs).encode())
            else:
                delta = event["delta"]
                match delta["type"]:
                    case "input_json_delta":
                        inputs.append(delta["partial_json"])
                    case "signature_delta":
                        blocks[-1]["signature"] = delta["signature"]
                    case "text_delta":
                        blocks[-1]["text"] += delta["text"]
                    case "thinking_delta":
                        blocks[-1]["thinking"] += delta["thinking"]
        return {**self._head, "content": blocks, **self._reason(), "usage": self._counts()}

    def _said(self, piece: Piece) -> Iterator[Said]:
        """In order. Of the text only what the piece has: the rest may yet become a stop sequence, or was cut off."""
        text = piece.text
        self._waiting += self._notes.take()
        while self._waiting:
            said = self._waiting[0]
            if said.kind in ("commentary", "final"):
                certain, text = said.text[: len(text)], text[len(said.text) :]
                if certain:
                    yield replace(said, text=certain)
                if certain != said.text:
                    said.text = said.text[len(certain) :]
                    return
            else:
                yield said
            self._waiting.popleft()

    def _text(self, kind: str, text: str) -> Iterator[dict[str, Any]]:
        if self._open != kind:
            yield from self._begin(kind, {"text": ""} if kind == "text" else {"thinking": "", "signature": ""})
        if kind == "text" or self._thinking == "summarized":
            yield self._delta(f"{kind}_delta", {kind: text})

    def _tool_use(self, call: CallDelta, arguments: str) -> Iterator[dict[str, Any]]:
        if self._open != "tool_use" or call.index != self._call:
            yield from self._begin("tool_use", {"id": shown(call.id or ""), "name": call.name, "input": {}})
            self._call, self._input = call.index, ToolInput()
        if text := self._input.feed(arguments):
            yield self._delta("input_json_delta", {"partial_json": text})

    def _begin(self, kind: str, fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from self._end()
        self._open = kind
        yield {"type": "content_block_start", "index": self._index, "content_block": {"type": kind, **fields}}

    def _end(self) -> Iterator[dict[str, Any]]:
        """Of the open block, if there is one."""
        if self._open is None:
            return
        if self._open == "thinking":
            yield self._delta("signature_delta", {"signature": SIGNATURE})
        elif self._open == "tool_use":
            if rest := self._input.finish():
                yield self._delta("input_json_delta", {"partial_json": rest})
            if self._input.mended:
                self._mended(MENDED)
        yield {"type": "content_block_stop", "index": self._index}
        self._open = None
        self._index += 1

    def _delta(self, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": {"type": kind, **fields}}

    def _reason(self) -> dict[str, Any]:
        reason, stop = self._piece.finish_reason, self._piece.stop_reason
        if isinstance(stop, str):
            return {"stop_reason": "stop_sequence", "stop_sequence": stop}
        if reason == "length":
            said = "model_context_window_exceeded" if self._context_bound else "max_tokens"
        else:
            said = "tool_use" if reason == "tool_calls" else "end_turn"
        return {"stop_reason": said, "stop_sequence": None}

    def _counts(self) -> dict[str, Any]:
        """Tokens that were found in a cache count apart from the others of the prompt, unlike in OpenAI's usage."""
        usage = self._usage.body
        cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
        counts: dict[str, Any] = {
            "input_tokens": usage["prompt_tokens"] - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": usage["completion_tokens"],
        }
        if "completion_tokens_details" in usage:
            thinking = usage["completion_tokens_details"]["reasoning_tokens"]
            counts["output_tokens_details"] = {"thinking_tokens": thinking}
        return counts
