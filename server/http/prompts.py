"""Messages to a prompt, for chat and for /tokenize: by Harmony's encoder, or through the template in its sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..text.lanes import Busy
from ..text.messages_in import MessageError, plain_messages
from ..text.template import TemplateError
from .errors import bad_request, unavailable
from .prompt_text import contents, harmony_texts, written
from .schema.chat import Message, TemplateFields
from .schema.structured import ResponseFormat
from .service import SHORT_TEXT, Service

_KEYWORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_INSTRUCTORS = ("system", "developer")
_RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message", "self"})


async def render_chat(
    body: TemplateFields,
    messages: list[Message],
    service: Service,
    tools: Sequence[Mapping[str, Any]] = (),
    truncates: bool = False,
) -> list[int]:
    """Token ids of the conversation. Raises ApiError 400 where the messages or the template cannot be used.

    `tools`: those that the model is shown, as OpenAI has them. `truncates`: only the prompt's end will be used.
    """
    chat, template = service.chat, service.template
    go_on = bool(body.continue_final_message)
    if go_on and body.add_generation_prompt and "add_generation_prompt" in body.model_fields_set:
        message = "continue_final_message: goes with add_generation_prompt=false only"
        raise bad_request(message, "continue_final_message")
    generate = body.add_generation_prompt is not False and not go_on
    options = {"add_generation_prompt": generate, "continue_final_message": go_on, **_keywords(body)}
    try:
        dumped = [message.model_dump(exclude_none=True) for message in messages]
        plain = plain_messages(dumped, raw_arguments=chat is not None or service.format.text_arguments)
        if chat is not None and (shown := _shown_format(body.response_format)) is not None:
            place = next((i for i, each in enumerate(plain) if each.get("role") not in _INSTRUCTORS), len(plain))
            plain.insert(place, {"role": "developer", "content": shown})
        if not truncates:
            texts = contents(plain) if chat is None else harmony_texts(plain, tools, options)
            service.refuse_hopeless("".join(texts), "messages")
        if chat is not None:
            options.setdefault("current_date", service.today().isoformat())
            length = written([plain, tools, options], enough=SHORT_TEXT + 1)
            return await service.tokens(lambda: chat.encode(plain, tools, **options), length, "messages")
        if template is not None:
            return await service.encode_rendered(await template.render_async(plain, list(tools) or None, **options))
    except MessageError as error:
        raise bad_request(str(error), re.sub(r"\.(\d+)", r"[\1]", error.param)) from None
    except TemplateError as error:
        raise bad_request(str(error), "messages", "chat_template_error") from None
    except Busy:
        raise unavailable("Too many conversations are being rendered; try again.", "server_busy", 5) from None
    message = "This model has no chat template: it completes text, at /v1/completions."
    raise bad_request(message, "messages", "unsupported_model")


def _shown_format(format: ResponseFormat | None) -> str | None:
    """A schema as gpt-oss was taught to read it: "Structured output" of OpenAI's guide to the format."""
    if format is None or format.json_schema is None or format.json_schema.schema_ is None:
        return None
    asked = format.json_schema
    lines = [f"// {line}" for line in (asked.description or "").splitlines()]
    schema = json.dumps(asked.schema_, ensure_ascii=False)
    return "\n".join(["# Response Formats", "", f"## {asked.name}", "", *lines, schema])


def _keywords(body: TemplateFields) -> dict[str, Any]:
    keywords = dict(body.chat_template_kwargs or {})
    for name in keywords:
        if not _KEYWORD.fullmatch(name) or name in _RESERVED:
            message = "chat_template_kwargs: names are words, and not those of the request's own fields"
            raise bad_request(message, "chat_template_kwargs")
    if body.reasoning_effort is not None:
        keywords["reasoning_effort"] = body.reasoning_effort
    return keywords
