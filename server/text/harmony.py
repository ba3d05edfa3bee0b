"""The output of gpt-oss, taken apart by channel as its tokens come.

A message is `<|start|>{role}{ to=recipient}<|channel|>{channel}{ to=recipient} <|constrain|>{type}<|message|>{text}`
and an end token. The prompt ends in `<|start|>assistant`, so the first message begins behind its role. About one turn
in 25 of the real model is malformed somewhere in a header; each deviation is repaired, so that text is never lost and
lands in the channel that the header can still be read to mean, or else in `final`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from .detokenizer import Detokenizer
from .tokenizer import Tokenizer

Channel = Literal["analysis", "commentary", "final"]

MAX_HEADER = 256  # characters; what is longer is text whose header was never closed
_CHANNELS: dict[str, Channel] = {"analysis": "analysis", "commentary": "commentary", "final": "final"}
_CHANNEL = re.compile("|".join(_CHANNELS))
_RECIPIENT = re.compile(r"to=(\S+)")
_HEADER_WORD = re.compile(rf"\s*(?:(?P<channel>{_CHANNEL.pattern})|{_RECIPIENT.pattern})")
_ROLE_WORDS = ("assistant", *_CHANNELS)


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of one message. Content: `final`, and `commentary` without recipient. Reasoning: `analysis`."""

    channel: Channel
    text: str
    recipient: str | None = None
    """Whom it is for, as in `functions.get_weather`: a tool call's arguments, not content."""
    message: int = 0
    """Which message of the output, from 0; messages without text are not counted."""


def is_harmony(tokenizer: Tokenizer) -> bool:
    """The vocabulary has Harmony's control tokens."""
    return {"<|start|>", "<|channel|>", "<|message|>", "<|end|>"} <= tokenizer.special_texts.keys()


def primer(tokenizer: Tokenizer, prompt: list[int]) -> list[int]:
    """What of Harmony's last message, after `<|start|>assistant`, the prompt holds already.

    Nothing where the model begins the message itself; the header where the template does; text as well where the
    request wants its last message continued. The parser reads it first, so that the rest falls into its channel.
    """
    start = tokenizer.special_texts.get("<|start|>")
    if start is None or start not in prompt:
        return []
    tail = prompt[len(prompt) - prompt[::-1].index(start) :]
    role = tokenizer.encode("assistant")
    return tail[len(role) :] if tail[: len(role)] == role else []


class HarmonyParser:
    """Of one sequence, generated after `<|start|>assistant`. Never raises, whatever the tokens.

    The joined texts of each (message, channel, recipient) do not depend on how the tokens are split over `feed`s.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        specials = tokenizer.special_texts
        on: dict[str, Callable[[], None]] = {
            "<|start|>": self._on_start,
            "<|channel|>": self._on_channel,
            "<|constrain|>": self._on_constrain,
            "<|message|>": self._on_message,
        }
        on |= dict.fromkeys(("<|end|>", "<|return|>", "<|call|>", "<|endoftext|>"), self._close)
        self._on = {specials[text]: action for text, action in on.items() if text in specials}
        self._special_ids = tokenizer.special_ids
        self._deltas: list[Delta] = []
        self._message = 0
        self._has_text = False
        self._begin(opened=False)

    def feed(self, token_ids: Sequence[int]) -> list[Delta]:
        """The text that is now certain, in order, one delta for each message it belongs to."""
        for token_id in token_ids:
            if token_id in self._special_ids:
                self._take(self._detokenizer.finish())
                action = self._on.get(token_id)
                if action is not None:
                    action()
            else:
                self._take(self._detokenizer.feed((token_id,)))
        deltas, self._deltas = self._deltas, []
        return deltas

    def finish(self) -> list[Delta]:
        """What was held back, when the sequence has ended."""
        self._take(self._detokenizer.finish())
        self._close()
        deltas, self._deltas = self._deltas, []
        return deltas

    # Control tokens

    def _begin(self, opened: bool) -> None:
        self._state: Literal["role", "header", "type", "body"] = "role"
        self._opened = opened  # by <|start|>: then any word may be the role
        self._role = self._header = self._type = ""
        self._channel: Channel = "final"
        self._recipient: str | None = None
        self._message += self._has_text
        self._has_text = False

    def _on_start(self) -> None:
        self._close()
        self._opened = True

    def _on_channel(self) -> None:
        if self._state == "body":
            self._close()
        self._state = "header"
        self._header += " "  # a second channel in one header: the last one counts

    def _on_constrain(self) -> None:
        if self._state != "body":
            self._state = "type"

    def _on_message(self) -> None:
        if self._state != "body":
            self._open()

    def _close(self) -> None:
        """The message is over. A header that never became a message may hold its text."""
        if self._state in ("header", "type"):
            self._repair()
        elif self._state == "role" and not self._opened and not re.match(r"\s*(assistant|to=|$)", self._role):
            self._emit(self._role)
        self._begin(opened=False)

    # Text

    def _take(self, text: str) -> None:
        if not text:
            return
        if self._state == "body":
            self._emit(text)
        elif self._state == "role":
            self._role += text
            if not self._may_be_role():
                self._state = "body"
                self._emit(self._role)
        elif self._state == "header":
            self._header += text
            if not self._may_be_header():
                self._repair()
        else:
            self._type += text
            if len(self._type) > MAX_HEADER or len(self._type.split()) > 1 or "\n" in self._type.lstrip():
                self._repair()

    def _may_be_role(self) -> bool:
        """The text so far can begin a header: role words and a recipient."""
        if len(self._role) > MAX_HEADER or "\n" in self._role.strip():
            return False
        words = self._role.split()
        if self._opened:
            words = words[1:]
        if len(words) > 3:
            return False
        unfinished = words.pop() if words and not self._role[-1].isspace() else ""
        return all(word in _ROLE_WORDS or word.startswith("to=") for word in words) and (
            unfinished.startswith("to=") or any(word.startswith(unfinished) for word in (*_ROLE_WORDS, "to="))
        )

    def _may_be_header(self) -> bool:
        """The text so far is a channel, a recipient and a content type at most."""
        if len(self._header) > MAX_HEADER or "\n" in self._header.strip():
            return False
        words = [word for word in self._header.split() if word not in _CHANNELS and not word.startswith("to=")]
        return len(words) <= 2

    def _open(self) -> str:
        """Read the header, begin the body; returns what of the header's text is neither channel nor recipient."""
        channel: Channel | None = None
        recipient = _RECIPIENT.search(self._role)
        self._recipient = recipient[1] if recipient else None
        place = 0
        while found := _HEADER_WORD.match(self._header, place):
            place = found.end()
            if found["channel"]:
                channel = _CHANNELS[found["channel"]]
            else:
                self._recipient = found[2]
        if channel is None and (named := _CHANNEL.search(self._role)):
            channel = _CHANNELS[named[0]]  # "<|start|>assistantanalysis<|message|>": <|channel|> is missing
        if self._recipient is None and (later := _RECIPIENT.search(self._header, place)):
            self._recipient = later[1]
        self._channel = channel or ("commentary" if self._recipient else "final")
        self._state = "body"
        return self._header[place:]

    def _repair(self) -> None:
        """<|message|> is missing: what follows channel, recipient and type is the text."""
        _, _, after_type = self._type.strip().partition(" ")
        self._emit((self._open() + after_type).lstrip())

    def _emit(self, text: str) -> None:
        if not text:
            return
        self._has_text = True
        last = self._deltas[-1] if self._deltas else None
        if last is not None and last.message == self._message:
            self._deltas[-1] = Delta(last.channel, last.text + text, last.recipient, last.message)
        else:
            self._deltas.append(Delta(self._channel, text, self._recipient, self._message))
