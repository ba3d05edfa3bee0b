"""/v1/completions: text or token ids in, text out; several prompts and several answers each in one request."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request, Response

from ...engine.messages import TokenLogprob
from .body import read_model
from .chat import FINGERPRINT
from .choice import Choice, Piece
from .config import HttpConfig
from .errors import bad_request
from .generation import Generation
from .logprobs import CompletionLogprobs, prompt_logprobs
from .openapi import json_body
from .sampling import (
    check_common,
    check_prompt_logprobs,
    longest_scored,
    sampling_params,
    spelled_bad_words,
    submits,
    telling_ignored,
    truncated,
)
from .schema.completions import CompletionRequest
from .service import Service
from .splitter import PlainSplitter
from .stream import answer
from .structured import text_form
from .timing import Timing
from .usage import Usage

DEFAULT_MAX_TOKENS = 16  # OpenAI's


def router(service: Service, config: HttpConfig) -> APIRouter:
    routes = APIRouter(tags=["OpenAI"])

    @routes.post("/v1/completions", openapi_extra=json_body(CompletionRequest))
    async def create_completion(request: Request) -> Response:
        """Continue one text or several, whole or as server-sent events."""
        body = await read_model(request, CompletionRequest, config)
        check_common(body, config)
        _check(body, config)
        service.admit()
        form = await text_form(body, service)
        bad_ids = await spelled_bad_words(body, service)
        max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else max(body.max_tokens, 1)
        prompts, shown = await _prompts(body, service, max_tokens)
        tokens = sum(map(len, prompts)) * (body.n or 1)
        check_prompt_logprobs(body.prompt_logprobs, tokens, "prompt_logprobs")
        check_prompt_logprobs(body.logprobs if body.echo else None, tokens, "logprobs")
        identity = f"cmpl-{body.request_id or uuid.uuid4().hex}"
        sequences = []
        for prompt in prompts:
            params = sampling_params(
                body,
                service,
                len(prompt),
                max_tokens,
                param="prompt",
                logprobs=body.logprobs,
                prompt_logprobs=body.logprobs if body.echo else None,
                bad_ids=bad_ids,
            )
            sequences += submits(identity, prompt, params, body, service, form.grammar if form else None)
        longest_scored(body.logprobs, len(sequences), max_tokens, "logprobs")
        choices = [
            Choice(index, submit, PlainSplitter(service.tokenizer, submit.params.skip_special_tokens))
            for index, submit in enumerate(sequences)
        ]
        generation = Generation(service, choices, form.param if form else None)
        wording = _Wording(identity, config.served_model_names[0], body, service, prompts, shown, generation.timing)
        events = wording if body.stream else None
        answered = await answer(request, generation, events, wording.whole, config.send_timeout)
        return telling_ignored(answered, body)

    return routes


def _check(body: CompletionRequest, config: HttpConfig) -> None:
    count = len(body.prompts) * (body.n or 1)
    if count > config.max_sequences:
        message = f"prompt: {len(body.prompts)} prompts times n={body.n or 1} exceed {config.max_sequences} sequences"
        raise bad_request(message, "prompt")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise bad_request("best_of: this server offers it only equal to n", "best_of", "unsupported_parameter")
    if (body.logprobs or 0) > config.max_completion_logprobs:
        raise bad_request(f"logprobs: at most {config.max_completion_logprobs}, got {body.logprobs}", "logprobs")
    if body.include_metrics and count > 1:
        raise bad_request("include_metrics: goes with one answer only", "include_metrics")
    if body.max_tokens == 0 and not body.echo:
        raise bad_request("max_tokens: 0 goes with echo=true only", "max_tokens")
    if body.prompt_logprobs is not None and (body.stream or body.echo):
        raise bad_request("prompt_logprobs: not with stream=true nor echo=true", "prompt_logprobs")


async def _prompts(body: CompletionRequest, service: Service, max_tokens: int) -> tuple[list[list[int]], list[str]]:
    """Token ids of each prompt, and its text where it is to be echoed."""
    ids: list[list[int]] = []
    texts: list[str] = []
    several = len(body.prompts) > 1
    for at, prompt in enumerate(body.prompts):
        if isinstance(prompt, str):
            truncates = body.truncate_prompt_tokens is not None
            encoded = await service.encode(prompt, "prompt", body.add_special_tokens is not False, truncates)
            if not encoded:
                raise bad_request("prompt: must have at least one token", f"prompt[{at}]" if several else "prompt")
        else:
            encoded = prompt
            service.check_ids(encoded, f"prompt[{at}]" if several else "prompt")
        kept = truncated(encoded, body, service, max_tokens)
        if isinstance(prompt, str) and len(kept) == len(encoded):
            texts.append(prompt)
        else:
            texts.append(service.tokenizer.decode(kept, body.skip_special_tokens is not False) if body.echo else "")
        ids.append(kept)
    return ids, texts


class _Wording:
    """`text_completion` of one request, whole and in chunks alike. Choice i belongs to prompt i // n."""

    def __init__(
        self, identity: str, model: str, body: CompletionRequest, service: Service, prompts: list[list[int]],
        shown: list[str], timing: Timing,
    ) -> None:  # fmt: skip
        options = body.stream_options
        self._head = {
            "id": identity,
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }
        self._tokenizer = service.tokenizer
        self._body = body
        self._n = body.n or 1
        self._prompts = prompts
        self._shown = shown
        self._usage = Usage(sum(map(len, prompts)), reasoning=False)
        self._show_usage = bool(options and options.include_usage)
        self._show_usage_always = bool(options and options.continuous_usage_stats)
        self._timing = timing if body.include_metrics else None
        self._begun: dict[int, CompletionLogprobs | None] = {}

    def chunks(self, index: int, piece: Piece) -> Iterator[dict[str, Any]]:
        chunk = {**self._head, "choices": [self._choice(index, piece)]}
        if self._show_usage_always:
            chunk["usage"] = self._usage.body
        elif self._show_usage:
            chunk["usage"] = None
        yield chunk

    def last(self) -> Iterator[dict[str, Any]]:
        if self._show_usage or self._timing is not None:
            yield {
                **self._head,
                "choices": [],
                **({"usage": self._usage.body} if self._show_usage else {}),
                **({} if self._timing is None else {"metrics": self._timing.body}),
            }

    def whole(self, pieces: list[Piece]) -> dict[str, Any]:
        choices = [self._choice(index, piece) for index, piece in enumerate(pieces)]
        for choice, piece in zip(choices, pieces, strict=True):
            if piece.prompt_logprobs is not None and not self._body.echo:
                choice["prompt_logprobs"] = prompt_logprobs(self._tokenizer, piece.prompt_logprobs)
        metrics = {} if self._timing is None else {"metrics": self._timing.body}
        return {**self._head, "choices": choices, "usage": self._usage.body, **metrics}

    def _choice(self, index: int, piece: Piece) -> dict[str, Any]:
        text, counted = piece.text, piece.completion_tokens
        tokens: list[TokenLogprob | None] = list(piece.logprobs)
        ids = [token.token_id for token in piece.logprobs]
        if self._body.max_tokens == 0:
            # The engine cannot generate nothing: it was asked for one token, which nobody is shown.
            text, tokens, ids, counted = "", [], [], 0
        self._usage.take(index, counted, 0)
        first = index not in self._begun
        shaper = self._begin(index)
        if first and self._body.echo:  # of control tokens alone there is no text, and still they are the prompt's
            text = self._shown[index // self._n] + text
            if piece.prompt_logprobs is not None:
                tokens = [*piece.prompt_logprobs, *tokens]
                ids = self._prompts[index // self._n] + ids
        choice = {
            "index": index,
            "text": text,
            "logprobs": None if shaper is None else shaper.take(ids, tokens),
            "finish_reason": "length" if self._body.max_tokens == 0 and piece.finish_reason else piece.finish_reason,
            "stop_reason": piece.stop_reason,
        }
        if self._body.return_token_ids:
            choice["token_ids"] = piece.token_ids if counted else []
            if first:
                choice["prompt_token_ids"] = self._prompts[index // self._n]
        return choice

    def _begin(self, index: int) -> CompletionLogprobs | None:
        """The choice's logprobs, from its first piece to its last."""
        if index not in self._begun:
            asked, hide = self._body.logprobs, self._body.skip_special_tokens is not False
            self._begun[index] = None if asked is None else CompletionLogprobs(self._tokenizer, asked, hide)
        return self._begun[index]
