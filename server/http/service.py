"""What every route works with: the engine's door, the text side of the checkpoint, the metrics. Immutable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date

from ...engine.client import EngineClient
from ..metrics import Metrics
from ..text.formats.registry import ChatFormat
from ..text.grammar_book import GrammarBook
from ..text.grammar_process import GrammarChecks
from ..text.harmony.conversation import HarmonyChat
from ..text.harmony.tokens import is_harmony
from ..text.template import ChatTemplate, Rendered
from ..text.tokenizer import Tokenizer, TokenizerError
from .errors import ApiError, bad_request, unavailable
from .splitter import ALL_REPAIRS

COMPILERS = 64  # threads; how much is done at once, GrammarChecks says
SHORT_TEXT = 4096  # characters that are tokenized on the event loop: a thread would take longer to wake
LONG_TEXT = 1 << 16  # characters from which it pays to ask first whether they can fit at all


@dataclass(frozen=True, slots=True)
class Service:
    """`defaults` are the sampling fields of generation_config.json; a request's own fields rule over them.

    Conversations become prompts through `chat`, else through `template`; without either there are none.
    """

    client: EngineClient
    tokenizer: Tokenizer
    template: ChatTemplate | None
    metrics: Metrics
    vocab_size: int  # the model's: ids from there on are refused
    eos_token_ids: tuple[int, ...]
    chat: HarmonyChat | None = None
    format: ChatFormat = field(default_factory=ChatFormat)  # of a model that does not speak Harmony
    defaults: Mapping[str, float] = field(default_factory=dict)
    today: Callable[[], date] = date.today
    created: int = field(default_factory=lambda: int(time.time()))
    grammars: GrammarBook = field(default_factory=lambda: GrammarBook(GrammarChecks()))
    compilers: Executor = field(default_factory=lambda: ThreadPoolExecutor(COMPILERS, "grammars"))
    harmony: bool = field(init=False)
    longest_token: int = field(init=False)  # bytes

    def __post_init__(self) -> None:
        object.__setattr__(self, "harmony", is_harmony(self.tokenizer))
        lengths = (len(self.tokenizer.token_bytes(token)) for token in range(self.tokenizer.vocab_size))
        object.__setattr__(self, "longest_token", max(lengths, default=1))

        if self.harmony:
            for repair in ALL_REPAIRS:
                self.metrics.harmony_repairs.labels(repair)

    @property
    def reasons(self) -> bool:
        """Whether the model's output has a part that is no answer."""
        return self.harmony or self.format.reasoning is not None

    def count_repair(self, repair: str) -> None:
        """A place in a Harmony model's output was malformed, and has been repaired."""
        self.metrics.harmony_repairs.labels(repair).inc()

    def admit(self) -> None:
        """Raises ApiError 503 while the engine cannot take a request."""
        if self.client.dead is not None:
            raise engine_dead()
        if not self.client.ready:
            raise unavailable("The model is still loading; /ready says when it is done.", "engine_loading", 5)

    async def encode(
        self, text: str, param: str, add_special_tokens: bool = False, truncates: bool = False
    ) -> list[int]:
        """Token ids of a client's text, where control tokens are text. Raises ApiError when it cannot fit.

        `truncates`: only its end will be used.
        """
        if not truncates:
            self.refuse_hopeless(text, param)
        return await self.tokens(lambda: self.tokenizer.encode(text, add_special_tokens), len(text), param)

    async def encode_rendered(self, rendered: Rendered) -> list[int]:
        """Token ids of a rendered conversation: the template's control tokens, all else as text."""
        return await self.tokens(lambda: self.tokenizer.encode_prompt(rendered), len(rendered.text), "messages")

    async def tokens(self, encode: Callable[[], list[int]], length: int, param: str) -> list[int]:
        """`encode()`, which works on `length` characters: in a thread, if they are many. Raises ApiError."""
        try:
            return encode() if length <= SHORT_TEXT else await asyncio.to_thread(encode)
        except TokenizerError:  # its text names a file of ours
            raise bad_request(f"{param}: the tokenizer cannot encode this text", param) from None

    def refuse_hopeless(self, text: str, param: str) -> None:
        """Spares the tokenizer a text that is too long even if each of its tokens were the longest there is."""
        limit = self.client.max_model_len
        if len(text) > LONG_TEXT and (size := self.tokenizer.least_bytes(text)) > limit * self.longest_token:
            raise context_exceeded(limit, f"the {param} alone have at least {-(-size // self.longest_token)}", param)

    def check_ids(self, ids: list[int], param: str) -> None:
        """Raises ApiError naming the first id that the model has no row for."""
        if ids and max(ids) >= self.vocab_size:
            at = next(at for at, token in enumerate(ids) if token >= self.vocab_size)
            raise bad_request(
                f"{param}[{at}]: {ids[at]} is no token; ids end at {self.vocab_size - 1}", f"{param}[{at}]"
            )


def context_exceeded(limit: int, asked: str, param: str) -> ApiError:
    # OpenAI's own words up to the semicolon: LiteLLM and agents know the error by them, not by its code.
    length = f"This model's maximum context length is {limit} tokens"
    message = f"{length}; {asked}. Shorten the {param} or ask for fewer tokens."
    return bad_request(message, param, "context_length_exceeded")


def engine_dead() -> ApiError:
    return unavailable("The engine has stopped; the server's log says why.", "engine_dead", 10)
