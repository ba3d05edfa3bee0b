"""What the demo's tokenizer is trained on: conversations of training, word for word as the server writes them."""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import tokenizers

from ..server.text.harmony.conversation import HarmonyChat
from ..server.text.harmony.encoder import HarmonyEncoder
from ..server.text.tokenizer import Tokenizer
from .sample import messages
from .tasks.base import EFFORTS, Conversation
from .tasks.mix import Mix, vocabulary
from .tokenizer import write_word_tokenizer

CONVERSATIONS = 20_000
# Harmony's own words, and those of TypeScript and JSON that it writes functions with.
FORMAT = """system user assistant developer tool analysis commentary final functions json low medium high
You are ChatGPT, a large language model trained by OpenAI. Knowledge cutoff Current date Reasoning Valid channels must
be included for every message Channel Calls to these tools must go to the channel Instructions Tools namespace type any
string number integer boolean true false null default"""
_MARKER = re.compile(r"<\|[a-z]+\|>")


def train_tokenizer(directory: Path, size: int, context: int, seed: int, conversations: int = CONVERSATIONS) -> int:
    """Train on conversations drawn from `seed` and write the tokenizer's files. Returns the size of the vocabulary."""
    known = vocabulary() | {word.lower() for word in re.findall(r"\w+", FORMAT)}
    directory.mkdir(parents=True, exist_ok=True)
    return write_word_tokenizer(directory, _texts(random.Random(seed), conversations, context), known, size, context)


def _texts(rng: random.Random, conversations: int, context: int) -> Iterator[str]:
    """What stands between control tokens."""
    mix = Mix()
    with tempfile.TemporaryDirectory() as folder:
        write_word_tokenizer(Path(folder), (), (), 0, context)  # letters alone, to write with and read back
        chat = HarmonyChat(HarmonyEncoder(Tokenizer(Path(folder))))
        letters = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        for _ in range(conversations):
            drawn: Conversation = mix.draw(rng)
            effort = rng.choice(EFFORTS)
            said = messages(drawn.turns, drawn.instructions, effort)
            ids = chat.encode(said, drawn.tools, reasoning_effort=effort, current_date=date(2026, 1, 2).isoformat())
            yield from _MARKER.split(letters.decode(ids, skip_special_tokens=False))
