"""What a request asks of the sampler: one immutable value, the same in the HTTP server, on the wire and in `LLM()`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import numpy as np

MAX_LOGPROBS = 20
MAX_TOP_K = 1 << 20
SEED_LIMIT = 1 << 63
NO_LIMIT = 1 << 24  # of `max_tokens`: no model's context is longer


class StructuredOutputsParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The form that an answer must have: one of these, as vLLM names them. The server makes a grammar of it.

    `json` is a JSON schema, or the text of one. `grammar` is in Lark's notation or llama.cpp's (GBNF).
    """

    json: Any = None
    regex: str | None = None
    choice: tuple[str, ...] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = False


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, dict=True):
    """How the next tokens of one request are chosen. Names and meanings follow vLLM's `SamplingParams`.

    `temperature` 0 is greedy. `top_k` 0 or -1 keeps all. `logprobs=k` reports the sampled token and the k best of
    the model's own distribution (before penalties, bias and temperature); `prompt_logprobs` does so for the prompt.
    `stop`, `bad_words` and `structured_outputs` are about text, so the server applies them; the engine looks at token
    ids alone. `allowed_token_ids`: nothing else is chosen, no end token either. `bad_token_ids`: sequences that the
    output does not hold, as long as anything else may be chosen; the server makes them of `bad_words`.
    As in vLLM a single text counts as one stop or bad word, `max_tokens` None goes as far as the context does, and
    None is nothing for `stop`, `stop_token_ids`, `bad_words` and `logit_bias`.
    Raises ValueError, naming the field and its limit, when a value is out of range. Types are looked at by `typed`.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    bad_token_ids: tuple[tuple[int, ...], ...] = ()
    structured_outputs: StructuredOutputsParams | None = None

    def __post_init__(self) -> None:
        for name in _IF_NONE:
            value = getattr(self, name)
            if value is None or type(value) is str:
                msgspec.structs.force_setattr(self, name, _loose(name, value))
        try:
            self._check()
        except TypeError as error:
            typed(self)  # which knows the field
            raise ValueError(f"sampling parameters of a wrong type: {error}") from None

    def _check(self) -> None:
        _within("max_tokens", self.max_tokens, 1, None)
        _within("min_tokens", self.min_tokens, 0, self.max_tokens)
        _within("temperature", self.temperature, 0.0, 100.0)
        _within("top_k", self.top_k, -1, MAX_TOP_K)
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        _within("min_p", self.min_p, 0.0, 1.0)
        if self.seed is not None:
            _within("seed", self.seed, -SEED_LIMIT, SEED_LIMIT - 1)
        if not 0.0 < self.repetition_penalty <= 100.0:
            raise ValueError(f"repetition_penalty must be above 0 and at most 100, got {self.repetition_penalty}")
        _within("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        for token, bias in self.logit_bias.items():
            _within(f"logit_bias[{token}]", bias, -100.0, 100.0)
        if any(not text for text in self.stop):
            raise ValueError("stop must not contain an empty string")
        if any(not text.strip() for text in self.bad_words):
            raise ValueError("bad_words must not contain an empty string")
        if any(not ids for ids in self.bad_token_ids):
            raise ValueError("bad_token_ids must not contain an empty sequence")
        if self.allowed_token_ids is not None:
            if not self.allowed_token_ids or min(self.allowed_token_ids) < 0:
                raise ValueError("allowed_token_ids must hold at least one token id, and none below 0")
            if self.structured_outputs is not None:
                raise ValueError("allowed_token_ids and structured_outputs contradict each other: give one of them")
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            if value is not None:
                _within(name, value, 0, MAX_LOGPROBS)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def penalizes(self) -> bool:
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0

    @property
    def edits_logits(self) -> bool:
        """Whether logits are changed before a token is chosen."""
        edits = self.penalizes or bool(self.logit_bias) or self.min_tokens > 0
        return edits or bool(self.bad_token_ids) or self.allowed_token_ids is not None

    @property
    def looks_back(self) -> bool:
        """Whether a token cannot be chosen before the one before it is known to the host."""
        return self.penalizes or any(len(ids) > 1 for ids in self.bad_token_ids)

    @cached_property
    def allowed_words(self) -> np.ndarray:
        """`allowed_token_ids` as bits, token v in bit v % 32 of word v // 32: int32, as long as the greatest needs."""
        import numpy as np

        ids = np.array(self.allowed_token_ids or (), dtype=np.int64)
        bits = np.zeros((int(ids.max(initial=-1)) // 32 + 1) * 32, dtype=np.uint8)
        bits[ids] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)


_IF_NONE: Mapping[str, Any] = {
    "max_tokens": NO_LIMIT, "stop": (), "stop_token_ids": (), "bad_words": (), "logit_bias": {},
}  # fmt: skip


def typed(params: SamplingParams) -> SamplingParams:
    """The same, each field of its type, as messages have it. Raises ValueError, naming the field, where one is not."""
    return params_of(msgspec.structs.asdict(params))


def params_of(values: Mapping[str, Any]) -> SamplingParams:
    """From fields by name, as a program or a JSON object has them. Raises ValueError, naming the field."""
    if unknown := values.keys() - set(SamplingParams.__struct_fields__):
        raise ValueError(f"there is no sampling parameter {min(unknown)!r}")
    try:
        return msgspec.convert(
            {name: _loose(name, value) for name, value in values.items()}, SamplingParams, str_keys=True
        )
    except msgspec.ValidationError as error:
        what, at, where = str(error).rpartition(" - at ")
        raise ValueError(f"{where.replace('`', '').replace('$.', '')}: {what}" if at else str(error)) from None


def _loose(name: str, value: Any) -> Any:
    if isinstance(value, Real) and hasattr(value, "item"):  # numpy's
        return value.item()
    nothing = _IF_NONE.get(name)
    if value is None:
        return nothing
    return (value,) if isinstance(value, str) and nothing == () else value


def _within(name: str, value: float, low: float, high: float | None) -> None:
    if not math.isfinite(value) or value < low or (high is not None and value > high):
        span = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"{name} must be {span}, got {value}")
