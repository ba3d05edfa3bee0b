"""From a checked body to what the engine is asked: parameters within the model's limits, one Submit a sequence."""

from __future__ import annotations

import time
import uuid
from typing import Any

import msgspec
from fastapi import Response

from ...engine.messages import Submit
from ...engine.sampling_params import SEED_LIMIT, SamplingParams
from ..text.bad_words import bad_token_ids
from .config import HttpConfig
from .errors import ApiError, bad_request
from .schema.fields import Body, SamplingFields
from .service import Service, context_exceeded

MAX_PROMPT_LOGPROBS = 1 << 17  # of a request: a quarter of a second to word them, and tens of megabytes
MAX_LOGPROBS = 1 << 21  # of a request's answers, which are seldom as long as they may be

_COPIED = (
    "min_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens", "prompt_logprobs",
)  # fmt: skip


def check_common(body: Body, config: HttpConfig) -> None:
    """Raises ApiError: 404 for a model not served here, 400 for a field that this server does not do."""
    if body.model is not None and body.model not in config.served_model_names:
        message = f"This server does not serve that model; it serves {config.served_model_names[0]}."
        raise ApiError(404, message, param="model", code="model_not_found")
    refused = body.not_offered()
    if refused is not None:
        raise bad_request(f"{refused}: this server does not support it", refused, "unsupported_parameter")
    if isinstance(body, SamplingFields):
        if body.stream_options is not None and not body.stream:
            raise bad_request("stream_options: allowed only with stream=true", "stream_options")
        if (body.n or 1) > config.max_sequences:
            raise bad_request(f"n: at most {config.max_sequences}, got {body.n}", "n")
        if body.include_metrics and (body.n or 1) > 1:
            raise bad_request("include_metrics: goes with one answer only", "include_metrics")


def telling_ignored(response: Response, body: SamplingFields) -> Response:
    """`response`, with the names of fields that it does nothing about."""
    if ignored := body.ignored:
        response.headers["x-ignored-fields"] = ", ".join(ignored)
    return response


def check_prompt_logprobs(logprobs: int | None, tokens: int, param: str) -> None:
    """`tokens`: of all prompts, as often as they run. Raises ApiError 400 when the answer would be out of measure."""
    if logprobs is not None and tokens * (logprobs + 1) > MAX_PROMPT_LOGPROBS:
        message = f"{param}: {tokens} prompt tokens times {logprobs + 1} exceed {MAX_PROMPT_LOGPROBS} log-probabilities"
        raise bad_request(message, param)


def longest_scored(logprobs: int | None, sequences: int, max_tokens: int | None, param: str) -> int | None:
    """Tokens at which each of so many answers ends for the sake of its log-probabilities; None: at no number of them.

    Raises ApiError 400 where `max_tokens` asks for more.
    """
    if logprobs is None:
        return None
    most = MAX_LOGPROBS // (sequences * (logprobs + 1))
    if max_tokens is not None and max_tokens > most:
        message = (
            f"{param}: {sequences} answers of {max_tokens} tokens times {logprobs + 1} exceed {MAX_LOGPROBS} "
            "log-probabilities; ask for fewer of them, for fewer answers or for shorter ones"
        )
        raise bad_request(message, param)
    return most


def sampling_params(
    body: SamplingFields,
    service: Service,
    prompt_tokens: int,
    max_tokens: int | None,
    *,
    param: str,
    logprobs: int | None,
    prompt_logprobs: int | None = None,
    bad_ids: tuple[tuple[int, ...], ...] = (),
) -> SamplingParams:
    """`max_tokens` None means whatever still fits. `param` names the prompt in errors. Raises ApiError 400.

    `bad_ids`: of `spelled_bad_words`.
    """
    limit = service.client.max_model_len
    room = limit - prompt_tokens
    if room < 1:
        raise context_exceeded(limit, f"the {param} have {prompt_tokens} and the answer needs at least 1", param)
    if max_tokens is not None and max_tokens > room:
        raise context_exceeded(limit, f"the {param} have {prompt_tokens} and the answer may take {max_tokens}", param)
    values: dict[str, Any] = {name: value for name, value in service.defaults.items() if name in _COPIED}
    values |= {name: value for name in _COPIED if (value := getattr(body, name)) is not None}
    values |= {
        "max_tokens": room if max_tokens is None else max_tokens,
        "stop": body.stop_texts,
        "stop_token_ids": tuple(body.stop_token_ids or ()),
        "logit_bias": _logit_bias(body, service.vocab_size),
        "logprobs": logprobs,
        "bad_token_ids": bad_ids,
    }
    if body.allowed_token_ids is not None:
        values["allowed_token_ids"] = _allowed(body, body.allowed_token_ids, service)
    if prompt_logprobs is not None:
        values["prompt_logprobs"] = prompt_logprobs
    service.check_ids(body.stop_token_ids or [], "stop_token_ids")
    try:
        return SamplingParams(**values)
    except ValueError as error:
        # Its message starts with the field's name and holds numbers only.
        raise bad_request(str(error), str(error).split(" ", 1)[0].partition("[")[0]) from None


async def spelled_bad_words(body: SamplingFields, service: Service) -> tuple[tuple[int, ...], ...]:
    """The token sequences of `bad_words`. Raises ApiError 400."""
    words = body.bad_words or []
    for place, word in enumerate(words):
        if not word.strip():
            raise bad_request(f"bad_words[{place}]: must not be blank", f"bad_words[{place}]")
    if not words:
        return ()
    found: tuple[tuple[int, ...], ...] = ()

    def spell() -> list[int]:
        nonlocal found
        found = bad_token_ids(service.tokenizer, words)
        return []

    await service.tokens(spell, 2 * sum(map(len, words)), "bad_words")
    return found


def truncated(prompt: list[int], body: SamplingFields, service: Service, max_tokens: int | None) -> list[int]:
    """The end of the prompt that `truncate_prompt_tokens` asks for; -1 asks for all that leaves room for the answer.

    Raises ApiError 400.
    """
    keep = body.truncate_prompt_tokens
    if keep is None:
        return prompt
    limit = service.client.max_model_len
    if keep == 0 or keep >= limit:
        message = f"truncate_prompt_tokens: from 1 to {limit - 1}, or -1, got {keep}"
        raise bad_request(message, "truncate_prompt_tokens")
    return prompt[-(max(1, limit - (max_tokens or 1)) if keep == -1 else keep) :]


def _allowed(body: SamplingFields, ids: list[int], service: Service) -> tuple[int, ...]:
    service.check_ids(ids, "allowed_token_ids")
    ends = {*service.eos_token_ids, *(body.stop_token_ids or ())}
    if body.min_tokens and ends.issuperset(ids):
        message = "allowed_token_ids: holds end tokens only, and min_tokens forbids those at first"
        raise bad_request(message, "allowed_token_ids")
    return tuple(dict.fromkeys(ids))


def _logit_bias(body: SamplingFields, vocab_size: int) -> dict[int, float]:
    biases: dict[int, float] = {}
    for key, bias in (body.logit_bias or {}).items():
        if not (key.isascii() and key.isdigit()) or int(key) >= vocab_size:
            raise bad_request(f"logit_bias: keys are token ids from 0 to {vocab_size - 1}", "logit_bias")
        biases[int(key)] = bias
    return biases


def submits(
    request_id: str,
    prompt: list[int],
    params: SamplingParams,
    body: SamplingFields,
    service: Service,
    grammar: str | None = None,
) -> list[Submit]:
    """`n` sequences of one prompt. The i-th takes seed + i, so that they differ and can still be repeated.

    Without a seed the engine's client gives each its own, from the server's --seed.
    """

    def nth(i: int) -> int | None:
        return None if body.seed is None else (body.seed + i + SEED_LIMIT) % (2 * SEED_LIMIT) - SEED_LIMIT

    arrival = time.time()
    return [
        Submit(
            request_id=f"{request_id}-{uuid.uuid4().hex[:12]}",
            prompt_token_ids=prompt,
            params=msgspec.structs.replace(params, seed=nth(i)),
            eos_token_ids=service.eos_token_ids,
            arrival=arrival,
            priority=body.priority or 0,
            grammar=grammar,
        )
        for i in range(body.n or 1)
    ]
