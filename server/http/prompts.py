"""Messages to a prompt, for chat and for /tokenize: through the checkpoint's template, in its sandbox."""

from __future__ import annotations

import re
from typing import Any

from ..text.messages_in import MessageError, plain_messages
from ..text.template import TemplateError
from .errors import bad_request
from .schema.chat import Message, TemplateFields
from .service import Service

_KEYWORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message", "self"})


async def render_chat(body: TemplateFields, messages: list[Message], service: Service) -> list[int]:
    """Token ids of the conversation. Raises ApiError 400 where the messages or the template cannot be used."""
    if service.template is None:
        message = "This model has no chat template: it completes text, at /v1/completions."
        raise bad_request(message, "messages", "unsupported_model")
    go_on = bool(body.continue_final_message)
    if go_on and body.add_generation_prompt and "add_generation_prompt" in body.model_fields_set:
        message = "continue_final_message: goes with add_generation_prompt=false only"
        raise bad_request(message, "continue_final_message")
    generate = body.add_generation_prompt is not False and not go_on
    try:
        plain = plain_messages([message.model_dump(exclude_none=True) for message in messages])
        service.refuse_hopeless("".join(str(each.get("content", "")) for each in plain), "messages")
        rendered = await service.template.render_async(
            plain, add_generation_prompt=generate, continue_final_message=go_on, **_keywords(body)
        )
    except MessageError as error:
        raise bad_request(str(error), re.sub(r"\.(\d+)", r"[\1]", error.param)) from None
    except TemplateError as error:
        raise bad_request(str(error), "messages", "chat_template_error") from None
    return await service.encode_rendered(rendered)


def _keywords(body: TemplateFields) -> dict[str, Any]:
    keywords = dict(body.chat_template_kwargs or {})
    for name in keywords:
        if not _KEYWORD.fullmatch(name) or name in _RESERVED:
            message = "chat_template_kwargs: names are words, and not those of the request's own fields"
            raise bad_request(message, "chat_template_kwargs")
    if body.reasoning_effort is not None:
        keywords["reasoning_effort"] = body.reasoning_effort
    return keywords
