"""Log-probabilities in the two shapes that OpenAI has for them, and vLLM's for those of a prompt."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from ...engine.messages import TokenLogprob
from ..text.tokenizer import Tokenizer
from .choice import Piece

FLOOR = -9999.0  # JSON has no infinity
FEW = 64  # tokens whose log-probabilities are worded on the event loop: a thread would take longer to wake

T = TypeVar("T")


def scored(pieces: Iterable[Piece]) -> int:
    """Tokens of `pieces` that have log-probabilities."""
    return sum(len(piece.logprobs) + len(piece.prompt_logprobs or ()) for piece in pieces)


async def worded(word: Callable[[], T], tokens: int) -> T:
    """`word()`, which words the log-probabilities of so many tokens and makes JSON of them: in a thread, if of many."""
    return word() if tokens <= FEW else await asyncio.to_thread(word)


def chat_logprobs(tokenizer: Tokenizer, tokens: Iterable[TokenLogprob], top: int) -> dict[str, Any]:
    """`choices[].logprobs` of a chat completion. `bytes` are exact where `token` shows half a character as U+FFFD."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        return {
            "token": tokenizer.token_text(token_id),
            "logprob": max(logprob, FLOOR),
            "bytes": list(tokenizer.token_bytes(token_id)),
        }

    content = [
        entry(token.token_id, token.logprob) | {"top_logprobs": [entry(*each) for each in token.top[:top]]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


class CompletionLogprobs:
    """`choices[].logprobs` of one choice of a text completion, piece by piece: `text_offset` goes on where it was."""

    def __init__(self, tokenizer: Tokenizer, top: int, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._top = top
        self._hidden = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def skip(self, characters: int) -> None:
        """Text that is sent without logprobs."""
        self._offset += characters

    def take(self, token_ids: Sequence[int], tokens: Sequence[TokenLogprob | None]) -> dict[str, Any]:
        """A None has no log-probability: nothing comes before the first token of a prompt."""
        best: list[dict[str, float] | None] = []
        offsets: list[int] = []
        for token_id, token in zip(token_ids, tokens, strict=True):
            offsets.append(self._offset)
            if token_id not in self._hidden:
                self._offset += len(self._decoder.decode(self._tokenizer.token_bytes(token_id)))
            if token is None or not self._top:
                best.append(None)
            else:
                pairs = [*token.top[: self._top], (token.token_id, token.logprob)]
                best.append({self._name(each): max(logprob, FLOOR) for each, logprob in pairs})
        return {
            "tokens": [self._name(token_id) for token_id in token_ids],
            "token_logprobs": [None if token is None else max(token.logprob, FLOOR) for token in tokens],
            "top_logprobs": best,
            "text_offset": offsets,
        }

    def _name(self, token_id: int) -> str:
        """The token's text, or its bytes spelled out where it is half a character: the names must stay distinct."""
        raw = self._tokenizer.token_bytes(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def prompt_logprobs(tokenizer: Tokenizer, tokens: Sequence[TokenLogprob | None]) -> list[dict[str, Any] | None]:
    """vLLM's `prompt_logprobs`: by position, token id to logprob, rank and text; None for the first."""
    return [
        None
        if token is None
        else {
            str(token_id): {
                "logprob": max(logprob, FLOOR),
                "rank": rank,
                "decoded_token": tokenizer.token_text(token_id),
            }
            for token_id, logprob, rank in (
                *((each, logprob, place) for place, (each, logprob) in enumerate(token.top, 1)),
                (token.token_id, token.logprob, token.rank),
            )
        }
        for token in tokens
    ]
