"""One request and its answer for each route, as the documentation shows them. A test plays them."""

from __future__ import annotations

from typing import Any, NamedTuple

_MODEL = "gpt-oss-20b"
_ASKED = [{"role": "user", "content": "What is the weather in Ulm?"}]
_CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
_WEATHER = {"name": "get_weather", "description": "The weather of a city.", "parameters": _CITY, "strict": True}
_USAGE = {
    "prompt_tokens": 70,
    "completion_tokens": 12,
    "total_tokens": 82,
    "prompt_tokens_details": {"cached_tokens": 0},
}
_CHAT_USAGE = _USAGE | {"completion_tokens_details": {"reasoning_tokens": 5}}
_RESPONSES_USAGE = {
    "input_tokens": 70,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 12,
    "output_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 82,
}
_CARD = {
    "id": _MODEL,
    "object": "model",
    "created": 1763720000,
    "owned_by": "yardmaster",
    "root": _MODEL,
    "parent": None,
    "max_model_len": 131072,
}
_FILE = {
    "id": "file-2f0c",
    "object": "file",
    "bytes": 171,
    "created_at": 1763720000,
    "expires_at": 1766312000,
    "filename": "in.jsonl",
    "purpose": "batch",
    "status": "processed",
}
_BATCH = {
    "id": "batch_91ab",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "errors": None,
    "input_file_id": "file-2f0c",
    "completion_window": "24h",
    "status": "in_progress",
    "output_file_id": None,
    "error_file_id": None,
    "created_at": 1763720000,
    "in_progress_at": 1763720001,
    "expires_at": 1763806400,
    "finalizing_at": None,
    "completed_at": None,
    "failed_at": None,
    "expired_at": None,
    "cancelling_at": None,
    "cancelled_at": None,
    "request_counts": {"total": 1, "completed": 0, "failed": 0},
    "usage": _RESPONSES_USAGE,
    "metadata": None,
}
_MESSAGE_ITEM = {
    "id": "msg_5d",
    "type": "message",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "4", "annotations": [], "logprobs": []}],
    "phase": "final_answer",
}
_RESPONSE = {
    "id": "resp_7e",
    "object": "response",
    "created_at": 1763720000,
    "completed_at": 1763720001,
    "status": "completed",
    "background": False,
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": None,
    "model": _MODEL,
    "output": [
        {
            "id": "rs_5c",
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "2+2=4."}],
            "status": "completed",
        },
        _MESSAGE_ITEM,
    ],
    "previous_response_id": None,
    "store": True,
    "usage": _RESPONSES_USAGE,
}
_KEY = {
    "name": "alice",
    "admin": False,
    "weight": 2.0,
    "requests_per_minute": 60,
    "tokens_per_minute": 100000,
    "max_concurrent": 8,
    "priority": -5,
    "usage": {
        "requests": 12,
        "prompt_tokens": 3400,
        "completion_tokens": 900,
        "rejected": {},
        "concurrent": 1,
        "sequences_running": 1,
        "sequences_waiting": 0,
        "remaining_requests": 59,
        "remaining_tokens": 98712,
    },
}
_DRAIN = {"draining": True, "requests": 3, "sequences_running": 2, "sequences_waiting": 1}


class Example(NamedTuple):
    """`request` and `response` are JSON, or text where they are text; None where there is nothing."""

    response: Any = None
    request: Any = None


def _listed(one: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": [one], "first_id": one["id"], "last_id": one["id"], "has_more": False}


EXAMPLES: dict[str, Example] = {
    "POST /v1/chat/completions": Example(
        request={
            "model": _MODEL,
            "messages": _ASKED,
            "tools": [{"type": "function", "function": _WEATHER}],
            "reasoning_effort": "low",
            "max_completion_tokens": 1000,
        },
        response={
            "id": "chatcmpl-4f",
            "created": 1763720000,
            "model": _MODEL,
            "system_fingerprint": "yardmaster-0.1.0",
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": None,
                        "refusal": None,
                        "reasoning_content": "I look it up.",
                        "reasoning": "I look it up.",
                        "tool_calls": [
                            {
                                "id": "call_1a",
                                "type": "function",
                                "function": {"name": "get_weather", "arguments": '{"city": "Ulm"}'},
                            }
                        ],
                    },
                    "logprobs": None,
                    "finish_reason": "tool_calls",
                    "stop_reason": None,
                }
            ],
            "usage": _CHAT_USAGE,
        },
    ),
    "POST /v1/completions": Example(
        request={"model": _MODEL, "prompt": "Once upon a", "max_tokens": 5, "temperature": 0},
        response={
            "id": "cmpl-4f",
            "object": "text_completion",
            "created": 1763720000,
            "model": _MODEL,
            "system_fingerprint": "yardmaster-0.1.0",
            "choices": [
                {
                    "index": 0,
                    "text": " time there was a",
                    "logprobs": None,
                    "finish_reason": "length",
                    "stop_reason": None,
                }
            ],
            "usage": _USAGE,
        },
    ),
    "POST /v1/responses": Example(
        request={"model": _MODEL, "input": "What is 2+2?", "reasoning": {"effort": "low"}}, response=_RESPONSE
    ),
    "GET /v1/responses/{response_id}": Example(_RESPONSE),
    "DELETE /v1/responses/{response_id}": Example({"id": "resp_7e", "object": "response", "deleted": True}),
    "POST /v1/responses/{response_id}/cancel": Example(_RESPONSE | {"status": "cancelled", "background": True}),
    "GET /v1/responses/{response_id}/input_items": Example(
        _listed(
            {
                "id": "msg_5b",
                "type": "message",
                "status": "completed",
                "role": "user",
                "content": [{"type": "input_text", "text": "What is 2+2?"}],
            }
        )
    ),
    "POST /v1/responses/input_tokens": Example(
        request={"model": _MODEL, "input": "What is 2+2?"},
        response={"object": "response.input_tokens", "input_tokens": 70},
    ),
    "POST /v1/messages": Example(
        request={"model": _MODEL, "max_tokens": 1000, "messages": _ASKED},
        response={
            "id": "msg_4f",
            "type": "message",
            "role": "assistant",
            "model": _MODEL,
            "content": [{"type": "text", "text": "I cannot know that."}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 70, "output_tokens": 12},
        },
    ),
    "POST /v1/messages/count_tokens": Example(
        request={"model": _MODEL, "messages": _ASKED}, response={"input_tokens": 70}
    ),
    "GET /v1/models": Example({"object": "list", "data": [_CARD]}),
    "GET /v1/models/{model}": Example(_CARD),
    "POST /tokenize": Example(
        request={"prompt": "hello"},
        response={"count": 1, "max_model_len": 131072, "tokens": [24912], "token_strs": None},
    ),
    "POST /detokenize": Example(request={"tokens": [24912]}, response={"prompt": "hello"}),
    "POST /v1/files": Example(_FILE),
    "GET /v1/files": Example(_listed(_FILE)),
    "GET /v1/files/{file_id}": Example(_FILE),
    "DELETE /v1/files/{file_id}": Example({"id": "file-2f0c", "object": "file", "deleted": True}),
    "GET /v1/files/{file_id}/content": Example(
        '{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": […]}}'
    ),
    "POST /v1/batches": Example(
        request={"input_file_id": "file-2f0c", "endpoint": "/v1/chat/completions", "completion_window": "24h"},
        response=_BATCH,
    ),
    "GET /v1/batches": Example(_listed(_BATCH)),
    "GET /v1/batches/{batch_id}": Example(_BATCH),
    "POST /v1/batches/{batch_id}/cancel": Example(_BATCH | {"status": "cancelling", "cancelling_at": 1763720100}),
    "GET /admin/keys": Example({"object": "list", "draining": False, "data": [_KEY]}),
    "POST /admin/keys/reload": Example({"keys": 2}),
    "POST /admin/drain": Example(_DRAIN),
    "DELETE /admin/drain": Example(_DRAIN | {"draining": False}),
    "GET /health": Example(),
    "GET /ping": Example(),
    "GET /ready": Example(),
    "GET /version": Example({"version": "0.1.0"}),
    "GET /metrics": Example("yardmaster_engine_up 1.0"),
}
"""By method and path."""
