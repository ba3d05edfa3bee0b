"""The order that the Open Responses specification gives to the events of a stream, and what must agree in them.

Items and their parts are state machines: each is added, grows by deltas, and is done, one after another; events are
numbered without gaps; the last one has the response as its deltas made it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Event = dict[str, Any]

ENDS = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
}


def faults(events: Sequence[Event], first: int = 0, reasoning: str = "reasoning_text") -> list[str]:
    """What is wrong with the events of one stream, from number `first` on; a stream is whole when that is 0.

    `reasoning`: what the events of parts of type reasoning_text are named by.
    """
    numbers = [event["sequence_number"] for event in events]
    if numbers != list(range(first, first + len(events))):
        return [f"numbers {numbers} have gaps"]
    if first:
        return []
    try:
        _Course(events, reasoning).run()
    except _Broken as broken:
        return [str(broken)]
    return []


class _Broken(Exception): ...


class _Course:
    def __init__(self, events: Sequence[Event], reasoning: str) -> None:
        self._events = list(events)
        self._reasoning = reasoning
        self._at = 0

    def run(self) -> None:
        created = self._take("response.created")["response"]
        self._hold(created["output"] == [], "a response is created with output")
        if created["status"] == "queued":
            self._take("response.queued")
        begun = self._take("response.in_progress")["response"]
        self._hold(begun["status"] == "in_progress", "response.in_progress says another status")
        output: list[Any] = []
        while self._next == "response.output_item.added":
            output.append(self._item(len(output)))
        last = self._take(*ENDS)
        response = last["response"]
        self._hold(self._at == len(self._events), "events follow the last one")
        self._hold(response["status"] == ENDS[last["type"]], "the last event and its status differ")
        self._hold(response["output"] == output, "the last event's output is not what was streamed")
        for broken in ended(response):
            raise _Broken(broken)
        self._hold(response["id"] == created["id"] == begun["id"], "the response changes its id")

    def _item(self, place: int) -> Any:
        added = self._take("response.output_item.added")
        item = added["item"]
        self._hold(added["output_index"] == place, "output_index does not count on")
        self._hold(item["status"] == "in_progress", "an item is added that is not in progress")
        where = {"item_id": item["id"], "output_index": place}
        if item["type"] == "function_call":
            self._hold(bool(item["name"] and item["call_id"]), "a call is added without its name or call_id")
            self._hold(item["arguments"] == "", "a call is added with arguments")
            grown = self._text("function_call_arguments", "arguments", where)
        else:
            self._hold(item["content"] == [], "an item is added with content")
            parts: list[Any] = []
            while self._next == "response.content_part.added":
                parts.append(self._part(where | {"content_index": len(parts)}))
            grown = {"content": parts}
        done = self._take("response.output_item.done")
        self._hold(done["output_index"] == place, "another item is done than was added")
        new = {name: done["item"][name] for name in ("status", "encrypted_content") if name in done["item"]}
        self._hold(done["item"] == item | grown | new, "an item that is done is not what it grew to")
        self._hold(done["item"]["status"] in ("completed", "incomplete"), "an item that is done is not over")
        return done["item"]

    def _part(self, where: dict[str, Any]) -> Any:
        added = self._take("response.content_part.added")
        part = added["part"]
        field = "refusal" if part["type"] == "refusal" else "text"
        self._hold(_stands(added, where), "a part is not where it should be")
        self._hold(part[field] == "", "a part is added with text")
        kind = self._reasoning if part["type"] == "reasoning_text" else part["type"]
        grown = self._text(kind, field, where)
        done = self._take("response.content_part.done")
        self._hold(_stands(done, where), "another part is done than was added")
        self._hold(done["part"] == part | grown, "a part that is done is not what it grew to")
        return done["part"]

    def _text(self, kind: str, field: str, where: dict[str, Any]) -> dict[str, Any]:
        """What deltas add up to."""
        deltas = []
        while self._next == f"response.{kind}.delta":
            deltas.append(self._take(f"response.{kind}.delta"))
            self._hold(_stands(deltas[-1], where), "a delta is of something else than was added")
            self._hold(deltas[-1]["delta"] != "", "a delta is empty")
        grown: dict[str, Any] = {field: "".join(delta["delta"] for delta in deltas)}
        if kind == "output_text":
            grown["logprobs"] = [each for delta in deltas for each in delta["logprobs"]]
        done = self._take(f"response.{kind}.done")
        self._hold(_stands(done, where | grown), "deltas do not add up to what is done")
        return grown

    @property
    def _next(self) -> str | None:
        return self._events[self._at]["type"] if self._at < len(self._events) else None

    def _take(self, *kinds: str) -> Event:
        self._hold(self._next in kinds, f"{self._next} stands where one of {kinds} should")
        self._at += 1
        return self._events[self._at - 1]

    def _hold(self, right: bool, fault: str) -> None:
        if not right:
            raise _Broken(f"event {self._at}: {fault}")


def ended(response: dict[str, Any]) -> Iterator[str]:
    """What is wrong with how a response that is over says so. Whole answers keep these rules too."""
    status, output = response["status"], response["output"]
    statuses = [item["status"] for item in output]
    if "in_progress" in statuses:
        yield "an item is in progress in a response that is over"
    if "incomplete" in statuses[:-1]:
        yield "an item that is not the last is incomplete"
    if statuses[-1:] == ["incomplete"] and status == "completed":
        yield "a completed response ends with an item that is incomplete"
    if (response["incomplete_details"] is not None) != (status == "incomplete"):
        yield "incomplete_details goes with status incomplete, and with no other"
    if (response["error"] is not None) != (status == "failed"):
        yield "error goes with status failed, and with no other"
    if (response["completed_at"] is not None) != (status == "completed"):
        yield "completed_at goes with status completed, and with no other"
    if len({item["id"] for item in output}) != len(output):
        yield "two items have one id"


def _stands(event: Event, where: dict[str, Any]) -> bool:
    return all(event.get(name) == value for name, value in where.items())
