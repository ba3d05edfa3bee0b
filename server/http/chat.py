"""/v1/chat/completions: the body, the prompt, the sequences, and how their news are worded."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request, Response

from ... import __version__
from .body import read_model
from .choice import Choice, Piece
from .chosen_splitter import chosen_splitter
from .config import HttpConfig
from .errors import bad_request
from .generation import Generation
from .logprobs import chat_logprobs, prompt_logprobs
from .openapi import json_body
from .prompts import render_chat
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
from .schema.chat import ChatRequest
from .service import Service
from .splitter import CallDelta, Splitter
from .stream import answer
from .structured import chat_form
from .timing import Timing
from .tools import offered_tools
from .usage import Usage

FINGERPRINT = f"yardmaster-{__version__}"


def router(service: Service, config: HttpConfig) -> APIRouter:
    routes = APIRouter(tags=["OpenAI"])

    @routes.post("/v1/chat/completions", openapi_extra=json_body(ChatRequest))
    async def create_chat_completion(request: Request) -> Response:
        """Answer a conversation, whole or as server-sent events."""
        body = await read_model(request, ChatRequest, config)
        check_common(body, config)
        _check(body, config)
        if body.skip_special_tokens is False and service.harmony:
            message = "skip_special_tokens: this model's control tokens are never shown; return_token_ids has them"
            raise bad_request(message, "skip_special_tokens", "unsupported_parameter")
        tools = offered_tools(body, service)
        service.admit()
        bad_ids = await spelled_bad_words(body, service)
        truncates = body.truncate_prompt_tokens is not None
        max_tokens = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
        prompt = await render_chat(body, body.messages, service, tools.shown, truncates)
        prompt = truncated(prompt, body, service, max_tokens)
        form = await chat_form(body, tools, service, prompt)
        check_prompt_logprobs(body.prompt_logprobs, len(prompt) * (body.n or 1), "prompt_logprobs")
        top = (body.top_logprobs or 0) if body.logprobs else None
        params = sampling_params(
            body, service, len(prompt), max_tokens, param="messages", logprobs=top, bad_ids=bad_ids
        )
        most = longest_scored(top, body.n or 1, max_tokens, "top_logprobs" if top else "logprobs")

        def splitter() -> Splitter:
            return chosen_splitter(
                service,
                prompt,
                tools.names,
                parallel_calls=body.parallel_tool_calls is not False,
                skip_special_tokens=params.skip_special_tokens,
            )

        identity = f"chatcmpl-{body.request_id or uuid.uuid4().hex}"
        sequences = submits(identity, prompt, params, body, service, form.grammar if form else None)
        choices = [Choice(index, submit, splitter(), most) for index, submit in enumerate(sequences)]
        generation = Generation(service, choices, form.param if form else None)
        wording = _Wording(identity, config.served_model_names[0], body, service, prompt, generation.timing)
        events = wording if body.stream else None
        answered = await answer(request, generation, events, wording.whole, config.send_timeout)
        return telling_ignored(answered, body)

    return routes


def _check(body: ChatRequest, config: HttpConfig) -> None:
    if body.max_tokens == 0:
        raise bad_request("max_tokens: at least 1, got 0", "max_tokens")
    if body.top_logprobs and not body.logprobs:
        raise bad_request("top_logprobs: goes with logprobs=true only", "top_logprobs")
    if (body.top_logprobs or 0) > config.max_top_logprobs:
        raise bad_request(f"top_logprobs: at most {config.max_top_logprobs}, got {body.top_logprobs}", "top_logprobs")
    if body.stream and body.prompt_logprobs is not None:
        raise bad_request("prompt_logprobs: not with stream=true", "prompt_logprobs")


class _Wording:
    """`chat.completion` and `chat.completion.chunk` of one request."""

    def __init__(
        self, identity: str, model: str, body: ChatRequest, service: Service, prompt: list[int], timing: Timing
    ) -> None:
        options = body.stream_options
        self._head = {"id": identity, "created": int(time.time()), "model": model, "system_fingerprint": FINGERPRINT}
        self._tokenizer = service.tokenizer
        self._top = (body.top_logprobs or 0) if body.logprobs else None
        self._reasoning = body.include_reasoning is not False
        self._usage = Usage(len(prompt), service.reasons)
        self._prompt = prompt if body.return_token_ids else None
        self._timing = timing if body.include_metrics else None
        self._show_usage = bool(options and options.include_usage)
        if body.service_tier is not None:
            self._head["service_tier"] = "default"
        self._show_usage_always = bool(options and options.continuous_usage_stats)
        self._begun: set[int] = set()

    def chunks(self, index: int, piece: Piece) -> Iterator[dict[str, Any]]:
        self._usage.take(index, piece.completion_tokens, piece.reasoning_tokens)
        if index not in self._begun:
            first = self._chunk([self._choice(index, {"role": "assistant", "content": ""}, None)])
            if self._prompt is not None and not self._begun:
                first["prompt_token_ids"] = self._prompt
            self._begun.add(index)
            yield first
        delta: dict[str, Any] = {}
        if piece.reasonings and self._reasoning:
            delta["reasoning_content"] = delta["reasoning"] = piece.reasoning
        if piece.texts:
            delta["content"] = piece.text
        if piece.calls:
            delta["tool_calls"] = [_call(call) for call in piece.joined_calls]
        if delta or piece.finish_reason:
            yield self._chunk([self._choice(index, delta, piece)])

    def last(self) -> Iterator[dict[str, Any]]:
        if self._show_usage or self._timing is not None:
            last = self._chunk([])
            if self._show_usage:
                last["usage"] = self._usage.body
            if self._timing is not None:
                last["metrics"] = self._timing.body
            yield last

    def whole(self, pieces: list[Piece]) -> dict[str, Any]:
        choices = []
        for index, piece in enumerate(pieces):
            self._usage.take(index, piece.completion_tokens, piece.reasoning_tokens)
            message: dict[str, Any] = {"role": "assistant", "content": piece.text, "refusal": None}
            if piece.reasonings and self._reasoning:
                message["reasoning_content"] = message["reasoning"] = piece.reasoning
            if piece.calls:
                message["content"] = piece.text or None
                message["tool_calls"] = [_call(call, whole=True) for call in piece.joined_calls]
            choice = {
                "index": index,
                "message": message,
                "logprobs": self._logprobs(piece),
                "finish_reason": piece.finish_reason,
                "stop_reason": piece.stop_reason,
            }
            if self._prompt is not None:
                choice["token_ids"] = piece.token_ids
            choices.append(choice)
        body = {**self._head, "object": "chat.completion", "choices": choices, "usage": self._usage.body}
        if pieces[0].prompt_logprobs is not None:
            body["prompt_logprobs"] = prompt_logprobs(self._tokenizer, pieces[0].prompt_logprobs)
        if self._prompt is not None:
            body["prompt_token_ids"] = self._prompt
        if self._timing is not None:
            body["metrics"] = self._timing.body
        return body

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        if self._show_usage_always:
            chunk["usage"] = self._usage.body
        elif self._show_usage:
            chunk["usage"] = None
        return chunk

    def _choice(self, index: int, delta: dict[str, Any], piece: Piece | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        if piece is not None:
            choice["logprobs"] = self._logprobs(piece)
            choice["finish_reason"] = piece.finish_reason
            if self._prompt is not None:
                choice["token_ids"] = piece.token_ids
            if piece.stop_reason is not None:
                choice["stop_reason"] = piece.stop_reason
        return choice

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        return None if self._top is None else chat_logprobs(self._tokenizer, piece.logprobs, self._top)


def _call(call: CallDelta, whole: bool = False) -> dict[str, Any]:
    """One of `tool_calls`. In a stream its index joins the deltas; id and name come with the first of them."""
    function = {"arguments": call.arguments} if call.name is None else {"name": call.name, "arguments": call.arguments}
    head = {} if call.id is None else {"id": call.id, "type": "function"}
    return {**head, "function": function} if whole else {"index": call.index, **head, "function": function}
