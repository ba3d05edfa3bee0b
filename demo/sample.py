"""A conversation as the model sees it: the ids that the server would send, and what is to be said at which of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from ..server.text.harmony.conversation import HarmonyChat
from ..server.text.harmony.encoder import HarmonyEncoder
from ..server.text.harmony.tokens import HarmonyTokens
from ..server.text.tokenizer import Tokenizer
from .tasks.base import Conversation, Reply, Turn

NOTHING = -1  # a target where nothing is to be said


@dataclass(frozen=True, slots=True)
class Sample:
    """`head` is the system message, which many conversations share; targets[i] is what follows ids[i], or NOTHING.

    `spans[turn]` are the first and last place in `ids` of what is said to a turn, None where nothing is trained.
    """

    head: tuple[int, ...]
    ids: list[int]
    targets: list[int]
    spans: list[tuple[int, int] | None]

    @property
    def taught(self) -> int:
        """How many targets it has."""
        return len(self.targets) - self.targets.count(NOTHING)


def messages(turns: tuple[Turn, ...], instructions: str, effort: str) -> list[dict[str, object]]:
    """In OpenAI's form, replies included."""
    found: list[dict[str, object]] = [{"role": "developer", "content": instructions}] if instructions else []
    for place, turn in enumerate(turns):
        found.append({"role": turn.role, "content": turn.text})
        if turn.role == "tool":
            found[-1]["tool_call_id"] = f"call-{place - 1}"
        found.append(_said(turn.reply, effort, f"call-{place}"))
    return found


def _said(reply: Reply, effort: str, call_id: str) -> dict[str, object]:
    said: dict[str, object] = {"role": "assistant", "content": reply.said(effort)}
    if thought := reply.thoughts.get(effort):
        said["reasoning_content"] = thought
    if reply.call is not None:
        function = {"name": reply.call.name, "arguments": json.dumps(reply.call.arguments, ensure_ascii=False)}
        said["tool_calls"] = [{"id": call_id, "type": "function", "function": function}]
    return said


class Renderer:
    """Conversations to samples, through the server's own encoder."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._chat = HarmonyChat(HarmonyEncoder(tokenizer))
        self._tokens = HarmonyTokens.of(tokenizer)
        (self._assistant,) = tokenizer.encode("assistant")

    def render(self, conversation: Conversation, effort: str, today: date) -> Sample:
        ids = self._chat.encode(
            messages(conversation.turns, conversation.instructions, effort),
            conversation.tools,
            add_generation_prompt=False,
            reasoning_effort=effort,
            current_date=today.isoformat(),
        )
        border = ids.index(self._tokens.end) + 1
        head, ids = tuple(ids[:border]), ids[border:]
        targets = [NOTHING] * len(ids)
        spans = self._teach(targets, ids, conversation.turns, effort)
        return Sample(head, ids, targets, spans)

    def _teach(
        self, targets: list[int], ids: list[int], turns: tuple[Turn, ...], effort: str
    ) -> list[tuple[int, int] | None]:
        """What the model says, but for answers whose thoughts have been left out as those of an earlier turn."""
        spans = self._spans(ids)
        taught: list[tuple[int, int] | None] = []
        for place, turn in enumerate(turns):
            thought = turn.reply.thoughts.get(effort)
            current = not any(later.role == "user" for later in turns[place + 1 :])
            first = next(spans)
            last = next(spans) if thought and current else first
            if thought and not current:
                taught.append(None)
                continue
            begin, end = first[0], last[1]
            targets[begin : end + 1] = ids[begin + 1 : end + 2]
            if turn.reply.call is None:
                targets[end] = self._tokens.return_  # in a prompt an earlier answer ends in another token
            taught.append((begin, end))
        return taught

    def _spans(self, ids: list[int]) -> Iterator[tuple[int, int]]:
        """Of each assistant message: the place of `assistant`, and the one before its end token."""
        ends = {self._tokens.end, self._tokens.call, self._tokens.return_}
        begin = None
        for place, token in enumerate(ids):
            if begin is None and token == self._assistant and place and ids[place - 1] == self._tokens.start:
                begin = place
            elif begin is not None and token in ends:
                yield begin, place - 1
                begin = None
