"""The response object: what it says of the request from the start, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...engine.sampling_params import SamplingParams
from ..http.choice import Piece
from ..http.errors import ApiError, encode_json
from .schema import JsonSchemaFormat, ResponsesRequest, TextConfig, TextFormat

Resource = dict[str, Any]

ACTIVE = ("queued", "in_progress")
"""Statuses of what is not over."""
LOST = "The server stopped while it worked on this response."


def new_resource(
    identity: str,
    request: ResponsesRequest,
    params: SamplingParams,
    model: str,
    effort: str | None,
    stored: bool,
    now: int,
) -> Resource:
    """As it is before anything has been said. `effort`: the one that rules where the request names none."""
    reasoning = request.reasoning
    return {
        "id": identity,
        "object": "response",
        "created_at": now,
        "completed_at": None,
        "status": "queued" if request.background else "in_progress",
        "background": bool(request.background),
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "model": model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "prompt_cache_retention": request.prompt_cache_retention,
        "reasoning": {
            "effort": (reasoning and reasoning.effort) or effort,
            "summary": reasoning and (reasoning.summary or reasoning.generate_summary),
        },
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": stored,
        "temperature": params.temperature,
        "text": _text(request.text),
        "tool_choice": _choice(request),
        "tools": [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                "strict": bool(tool.strict),
            }
            for tool in request.tools or ()
        ],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": params.top_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "truncation": "disabled",
        "usage": None,
        "user": request.user,
        "metadata": request.metadata or {},
    }


def usage(prompt_tokens: int, piece: Piece) -> dict[str, Any]:
    return {
        "input_tokens": prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},  # there is no cache of prefixes
        "output_tokens": piece.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": piece.reasoning_tokens},
        "total_tokens": prompt_tokens + piece.completion_tokens,
    }


def ended(resource: Resource, status: str, error: ApiError | None = None, now: int | None = None) -> None:
    """Let it be over. Only what is complete has a time of completion."""
    resource["status"] = status
    resource["completed_at"] = now if status == "completed" else None
    resource["incomplete_details"] = {"reason": "max_output_tokens"} if status == "incomplete" else None
    if error is not None:
        code = (
            "rate_limit_exceeded"
            if error.status == 429
            else "server_error"
            if error.status >= 500
            else "invalid_prompt"
        )
        resource["error"] = {"code": code, "message": error.message}


def lost(resource: Mapping[str, Any]) -> Resource:
    """What was under way in a process that is gone."""
    return {**resource, "status": "failed", "error": {"code": "server_error", "message": LOST}}


def encode_resource(resource: Mapping[str, Any]) -> bytes:
    """JSON of a response or of an event. A client's schema, which is in it, may have numbers beyond 64 bits."""
    try:
        return encode_json(resource)
    except OverflowError:
        finite = json.loads(json.dumps(resource), parse_constant=lambda name: None)  # null for infinities, as above
        return json.dumps(finite).encode()


def _text(config: TextConfig | None) -> dict[str, Any]:
    format = TextFormat(type="text") if config is None or config.format is None else config.format
    told = format.model_dump()
    if isinstance(format, JsonSchemaFormat):
        told["strict"] = bool(format.strict)
    return {"format": told, "verbosity": "medium"}


def _choice(request: ResponsesRequest) -> Any:
    choice = request.tool_choice
    return "auto" if choice is None else choice if isinstance(choice, str) else choice.model_dump()
