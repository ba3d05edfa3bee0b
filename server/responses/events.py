"""The course of a response as typed, numbered events, and the response object that they amount to.

An answer that is not streamed goes the same way, and its events are dropped: so both are always alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, Literal

from ...engine.messages import TokenLogprob
from ..http.choice import Piece
from ..http.errors import ApiError
from ..http.notes import Kind, Said
from .items import Kept, new_id, seal
from .resource import Resource, ended, usage

Event = dict[str, Any]
Logprobs = Callable[[Iterable[TokenLogprob]], list[dict[str, Any]]]
ReasoningName = Literal["reasoning_text", "reasoning"]
"""What the events of reasoning are named by: OpenAI's word, and Open Responses'."""


@dataclass(slots=True)
class _Open:
    """The item that is being said. Its text is joined once, at its end."""

    message: int
    kind: Kind
    item: Kept
    texts: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)


class Narrator:
    """Of one response. Events are to be encoded as they come: they share what they hold with the resource.

    `logprobs` words those of the answer's tokens, where they were asked for. `sealed`: reasoning goes out as
    `encrypted_content` too. `reasoning`: the name of its events.
    """

    def __init__(
        self,
        resource: Resource,
        prompt_tokens: int,
        logprobs: Logprobs | None,
        sealed: bool,
        reasoning: ReasoningName = "reasoning_text",
    ) -> None:
        self.resource = resource
        self._prompt_tokens = prompt_tokens
        self._logprobs = logprobs
        self._sealed = sealed
        self._reasoning = reasoning
        self._numbers = count()
        self._open: _Open | None = None
        self._untold: list[dict[str, Any]] = []  # logprobs of half a character, whose other half is yet to come

    def begin(self) -> Iterator[Event]:
        yield self._whole("response.created")
        if self.resource["status"] == "queued":
            yield self._whole("response.queued")
            self.resource["status"] = "in_progress"
        yield self._whole("response.in_progress")

    def tell(self, said: Iterable[Said], piece: Piece) -> Iterator[Event]:
        """What is new. `piece` has the counts, and the log-probabilities of `said`."""
        self.resource["usage"] = usage(self._prompt_tokens, piece)
        logprobs = iter(piece.logprobs)
        for each in said:
            if self._logprobs is not None and each.tokens:
                self._untold += self._logprobs(islice(logprobs, each.tokens))
            if self._open is None or (self._open.message, self._open.kind) != (each.message, each.kind):
                if not each.text and each.kind != "call":
                    continue
                yield from self._close("completed")
                yield from self._begin_item(each)
            if each.text and self._open is not None:
                yield self._delta(self._open, each.text)

    def end(self, finish_reason: str | None) -> Iterator[Event]:
        """It is over. `finish_reason` None: it was cancelled, and has no event of its own."""
        status = {None: "cancelled", "length": "incomplete"}.get(finish_reason, "completed")
        yield from self._close("completed" if status == "completed" else "incomplete")
        ended(self.resource, status, now=int(time.time()))
        if status != "cancelled":
            yield self._whole(f"response.{status}")

    def fail(self, error: ApiError) -> Iterator[Event]:
        yield from self._close("incomplete")
        ended(self.resource, "failed", error)
        yield self._whole("response.failed")

    def _event(self, kind: str, **fields: Any) -> Event:
        return {"type": f"response.{kind}", "sequence_number": next(self._numbers), **fields}

    def _whole(self, kind: str) -> Event:
        return {"type": kind, "sequence_number": next(self._numbers), "response": self.resource}

    @property
    def _index(self) -> int:
        """Of the open item: it joins the output at its end."""
        return len(self.resource["output"])

    def _begin_item(self, said: Said) -> Iterator[Event]:
        status = {"status": "in_progress"}
        if said.kind == "call":
            call = said.call
            assert call is not None
            head = {"id": new_id("fc"), "type": "function_call", **status}
            item: Kept = {**head, "call_id": call.id, "name": call.name, "arguments": ""}
        elif said.kind == "reasoning":
            item = {"id": new_id("rs"), "type": "reasoning", **status, "summary": [], "content": []}
        else:
            phase = "commentary" if said.kind == "commentary" else "final_answer"
            head = {"id": new_id("msg"), "type": "message", **status}
            item = {**head, "role": "assistant", "phase": phase, "content": []}
        self._open = _Open(said.message, said.kind, item)
        yield self._event("output_item.added", output_index=self._index, item=item)
        if said.kind != "call":
            yield self._event("content_part.added", **self._place(item), part=self._part(self._open, ""))

    def _delta(self, open: _Open, text: str) -> Event:
        open.texts.append(text)
        if open.kind == "call":
            return self._event(
                "function_call_arguments.delta", item_id=open.item["id"], output_index=self._index, delta=text
            )
        if open.kind == "reasoning":
            return self._event(f"{self._reasoning}.delta", **self._place(open.item), delta=text)
        logprobs, self._untold = self._untold, []
        open.logprobs += logprobs
        return self._event("output_text.delta", **self._place(open.item), delta=text, logprobs=logprobs)

    def _close(self, status: str) -> Iterator[Event]:
        """The end of the open item, if there is one."""
        open, self._open = self._open, None
        if open is None:
            return
        item, text = open.item, "".join(open.texts)
        place = self._place(item)
        if open.kind == "call":
            item["arguments"] = text
            yield self._event(
                "function_call_arguments.done",
                item_id=item["id"], output_index=self._index, name=item["name"], arguments=text,
            )  # fmt: skip
        else:
            if open.kind == "reasoning":
                yield self._event(f"{self._reasoning}.done", **place, text=text)
            else:
                yield self._event("output_text.done", **place, text=text, logprobs=open.logprobs)
            part = self._part(open, text)
            yield self._event("content_part.done", **place, part=part)
            item["content"] = [part]
            if open.kind == "reasoning" and self._sealed:
                item["encrypted_content"] = seal(text)
        item["status"] = status
        yield self._event("output_item.done", output_index=self._index, item=item)
        self.resource["output"].append(item)

    def _place(self, item: Kept) -> dict[str, Any]:
        return {"item_id": item["id"], "output_index": self._index, "content_index": 0}

    def _part(self, open: _Open, text: str) -> dict[str, Any]:
        if open.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "annotations": [], "logprobs": open.logprobs, "text": text}
