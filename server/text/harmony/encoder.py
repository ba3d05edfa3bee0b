"""Messages to the token ids of a prompt.

Control tokens are put in by id, and everything else is encoded as text from outside: whatever stands in a message or
a name, it is text to the model. The ids are those of OpenAI's own renderer (openai-harmony 0.0.8), as tests confirm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal

from ..tokenizer import Tokenizer
from .messages import Message
from .tokens import CONSTRAIN, HarmonyTokens

_KNOWN_WORDS, _LONGEST_WORD = 64, 2048  # texts that come in every prompt are encoded once; characters of one

Ending = Literal["prompt", "closed", "done", "open"]


class HarmonyEncoder:
    """Of one checkpoint. Thread-safe. Raises ValueError where the tokenizer has no Harmony tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens = HarmonyTokens.of(tokenizer)
        self._known = lru_cache(_KNOWN_WORDS)(lambda text: tuple(tokenizer.encode(text)))

    def encode(self, messages: Sequence[Message], ending: Ending = "prompt") -> list[int]:
        """The ids of a conversation. Raises TokenizerError.

        `ending`: "prompt" begins the assistant's next message; "closed" leaves it at the messages; "done" closes the
        last one as the model does when it has answered; "open" leaves the last one for the model to go on with.
        """
        parts = [part for message in messages for part in self._message(message)]
        if messages and ending == "done":
            parts[-1] = self._tokens.return_
        elif messages and ending == "open":
            parts.pop()
        elif ending == "prompt":
            parts += [self._tokens.start, *self._known("assistant")]
        texts = iter(self._tokenizer.encode_each([part for part in parts if isinstance(part, str)]))
        return [token for part in parts for token in (next(texts) if isinstance(part, str) else (part,))]

    def _message(self, message: Message) -> Iterator[int | str]:
        """Ids and texts of one message. A text is encoded by itself: no token reaches over the border of two."""
        tokens = self._tokens
        yield tokens.start
        if message.role == "tool":
            yield message.name or "tool"
        else:
            yield from self._known(message.role)
            if message.name is not None:
                yield f":{message.name}"
        if message.recipient not in (None, "all"):
            yield f" to={message.recipient}"
        if message.channel is not None:
            yield tokens.channel
            yield from self._known(message.channel)
        if message.content_type is not None:
            kind = message.content_type.removeprefix(CONSTRAIN)
            if kind != message.content_type and tokens.constrain is not None:
                yield " "
                yield tokens.constrain
                yield kind
            else:
                yield f" {kind}"
        yield tokens.message
        if message.role == "system" and len(message.text) <= _LONGEST_WORD:  # the server's own words
            yield from self._known(message.text)
        else:
            yield message.text
        yield tokens.call if message.role == "assistant" and message.recipient is not None else tokens.end
