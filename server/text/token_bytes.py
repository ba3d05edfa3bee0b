"""The exact bytes behind a token's spelling in tokenizer.json, for the two decoders whose tokens are bytes.

Byte-level BPE (GPT-2, gpt-oss, Llama 3, Qwen) spells each byte as a printable character; sentencepiece's export
(Llama 2, Mixtral, Phi-3) spells a space as U+2581 and a byte that is in no token as `<0xNN>`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ByteSpelling:
    """`to_bytes(token)` undoes the spelling. `strip_start`: spaces that go at the very start of a decoded text."""

    to_bytes: Callable[[str], bytes]
    strip_start: int = 0


def byte_spelling(decoder: Any) -> ByteSpelling | None:
    """From tokenizer.json's `decoder`; None for a decoder that does not work token by token on bytes."""
    steps = _flatten(decoder)
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return ByteSpelling(_from_byte_level)
    if "ByteFallback" in kinds:
        return _sentencepiece(steps)
    return None


def _flatten(decoder: Any) -> list[dict[str, Any]]:
    if not isinstance(decoder, dict):
        return []
    if decoder.get("type") != "Sequence":
        return [decoder]
    steps = decoder.get("decoders")
    return [inner for step in steps for inner in _flatten(step)] if isinstance(steps, list) else []


def _byte_level_alphabet() -> dict[int, int]:
    """Character -> byte of GPT-2's spelling: printable Latin-1 stands for itself, the rest follows from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(printable)]
    return {byte: byte for byte in printable} | {0x100 + place: byte for place, byte in enumerate(rest)}


_BYTE_OF = {chr(character): byte for character, byte in _byte_level_alphabet().items()}
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _from_byte_level(token: str) -> bytes:
    try:
        return bytes([_BYTE_OF[character] for character in token])
    except KeyError:  # an added token spelled in plain text
        return token.encode()


def _sentencepiece(steps: list[dict[str, Any]]) -> ByteSpelling | None:
    replacements: list[tuple[str, str]] = []
    strip, fused = 0, False
    for step in steps:
        match step:
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if old and not fused:
                replacements.append((old, new))
            case {"type": "ByteFallback"} if not fused:
                pass
            case {"type": "Fuse"}:
                fused = True
            case {"type": "Strip", "content": " ", "start": int(start), "stop": 0} if fused and not strip:
                strip = start
            case _:
                return None

    def to_bytes(token: str) -> bytes:
        for old, new in replacements:
            token = token.replace(old, new)
        byte = _BYTE_TOKEN.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.encode()

    return ByteSpelling(to_bytes, strip)
