"""Held-out questions put to a server over HTTP, and the share of right answers: what the model card reports."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from typing import Any

import httpx

from .sample import messages
from .tasks.base import EFFORTS, Conversation, Kind, Turn
from .tasks.registry import KINDS, UNSEEN

LONGEST = 320  # tokens of a reply


def check(url: str, count: int, at_once: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """For each kind and effort the share of `count` held-out conversations whose graded replies are all right.

    Greedy; each reply is asked for behind the right replies to the turns before it. Raises httpx.HTTPError.
    """
    return asyncio.run(_check(url.rstrip("/"), count, at_once, seed))


async def _check(url: str, count: int, at_once: int, seed: int) -> dict[str, dict[str, float]]:
    gate, found = asyncio.Semaphore(at_once), defaultdict[str, dict[str, float]](dict)
    async with httpx.AsyncClient(timeout=600) as client:
        for kind in (*(kind for kind, _ in KINDS), UNSEEN):
            for effort in EFFORTS:
                rng = random.Random(f"{seed} {kind.name}")
                drawn = [kind.draw(rng, True) for _ in range(count)]
                marks = await asyncio.gather(*(_answers(client, gate, url, kind, each, effort) for each in drawn))
                found[kind.name][effort] = sum(marks) / count
    return dict(found)


async def _answers(
    client: httpx.AsyncClient, gate: asyncio.Semaphore, url: str, kind: Kind, conversation: Conversation, effort: str
) -> bool:
    """Whether all graded replies are right."""
    for place, turn in enumerate(conversation.turns):
        if turn.graded:
            said = messages(conversation.turns[: place + 1], conversation.instructions, effort)[:-1]
            body = {"messages": said, "reasoning_effort": effort, "temperature": 0, "max_tokens": LONGEST}
            if conversation.tools:
                body["tools"] = list(conversation.tools)
            async with gate:
                response = await client.post(f"{url}/chat/completions", json=body)
            response.raise_for_status()
            if not right(kind, turn, response.json()["choices"][0]["message"]):
                return False
    return True


def right(kind: Kind, turn: Turn, message: dict[str, Any]) -> bool:
    """Whether an assistant's message is what the turn wants: that call and no other, or a right text."""
    calls = message.get("tool_calls") or []
    if turn.reply.call is None:
        return not calls and kind.right(turn, turn.reply.result(message.get("content") or ""))
    if len(calls) != 1 or calls[0]["function"]["name"] != turn.reply.call.name:
        return False
    try:
        return json.loads(calls[0]["function"]["arguments"]) == turn.reply.call.arguments
    except ValueError:
        return False
