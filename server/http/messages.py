"""/v1/messages and /v1/messages/count_tokens: Anthropic's API over the prompts, sequences and parsers of chat."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, Request, Response

from ..messages.answer import MENDED, Answer, Shown
from ..messages.conversation import chat_request
from ..messages.schema import CountTokensRequest, MessagesRequest
from ..messages.stream import MessageStream
from ..text.offered_tools import OfferedTools
from .body import read_model
from .choice import Choice
from .chosen_splitter import chosen_notes
from .config import HttpConfig
from .errors import ApiError, bad_request, encode_json
from .generation import Generation
from .openapi import json_body
from .prompts import render_chat
from .sampling import check_common, sampling_params, submits
from .schema.chat import ChatRequest
from .service import Service
from .stream import answer
from .structured import chat_form
from .tools import offered_tools
from .usage import Usage


def router(service: Service, config: HttpConfig) -> APIRouter:
    routes = APIRouter(tags=["Anthropic"])
    if service.harmony:
        service.metrics.harmony_repairs.labels(MENDED)  # from the start, as the others

    @routes.post("/v1/messages", openapi_extra=json_body(MessagesRequest))
    async def create_message(request: Request) -> Response:
        """Answer a conversation, whole or as server-sent events."""
        body = await read_model(request, MessagesRequest, config)
        check_common(body, config)
        chat = chat_request(body, not service.harmony, service.format.tools)
        tools = offered_tools(chat, service)
        service.admit()
        prompt = await _prompt(chat, tools, service)
        form = await chat_form(chat, tools, service, prompt)
        limit = service.client.max_model_len
        if len(prompt) >= limit:
            raise _too_long(f"{len(prompt)} tokens > {limit - 1} maximum")
        room = limit - len(prompt)
        max_tokens = min(body.max_tokens, room)
        params = sampling_params(chat, service, len(prompt), max_tokens, param="messages", logprobs=None)
        identity = f"msg_{uuid.uuid4().hex}"
        sequences = submits(identity, prompt, params, chat, service, form.grammar if form else None)
        notes = chosen_notes(service, prompt, tools.names, parallel_calls=chat.parallel_tool_calls is not False)
        generation = Generation(service, [Choice(0, sequences[0], notes)], form.param if form else None)
        said = Answer(
            identity,
            config.served_model_names[0],
            Usage(len(prompt), service.reasons),
            _shown(body),
            body.max_tokens > room,
            notes,
            service.count_repair,
        )
        if body.stream:
            await generation.start()
            return MessageStream(generation, said, config.send_timeout)
        return await answer(request, generation, None, said.whole, config.send_timeout)

    @routes.post("/v1/messages/count_tokens", openapi_extra=json_body(CountTokensRequest))
    async def count_message_tokens(request: Request) -> Response:
        """How many tokens the prompt of such a message would have."""
        body = await read_model(request, CountTokensRequest, config)
        check_common(body, config)
        chat = chat_request(body, not service.harmony, service.format.tools)
        tools = offered_tools(chat, service)
        service.admit()
        prompt = await _prompt(chat, tools, service)
        return Response(encode_json({"input_tokens": len(prompt)}), media_type="application/json")

    return routes


async def _prompt(chat: ChatRequest, tools: OfferedTools, service: Service) -> list[int]:
    try:
        return await render_chat(chat, chat.messages, service, tools.shown)
    except ApiError as error:
        if error.code == "context_length_exceeded":
            raise _too_long(error.message) from None
        raise


def _too_long(words: str) -> ApiError:
    """Anthropic's own words: agents read them, and shorten what they send."""
    return bad_request(f"prompt is too long: {words}", "messages", "context_length_exceeded")


def _shown(body: MessagesRequest) -> Shown | None:
    thinking = body.thinking
    return None if thinking is None or thinking.type == "disabled" else thinking.display or "summarized"
