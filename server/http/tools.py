"""The tools of a request's body, as far as this server can serve them with the model it has."""

from __future__ import annotations

from ..text.offered_tools import OfferedTools, ToolsError
from .errors import bad_request
from .schema.chat import ChatRequest, TemplateFields
from .service import Service


def offered_tools(body: TemplateFields, service: Service) -> OfferedTools:
    """Raises ApiError 400, naming the field, also for a model whose calls cannot be read."""
    choice = body.tool_choice
    if not service.harmony and service.format.tools is None:
        for name, asked in (("tools", bool(body.tools)), ("tool_choice", choice not in (None, "none"))):
            if asked:
                message = f"{name}: this server does not support tools with this model"
                raise bad_request(message, name, "unsupported_parameter")
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools or []]
    try:
        wanted = choice if choice is None or isinstance(choice, str) else choice.model_dump()
        parallel = not isinstance(body, ChatRequest) or body.parallel_tool_calls is not False
        return OfferedTools.of(tools, wanted, parallel)
    except ToolsError as error:
        raise bad_request(f"{error.param}: {error}", error.param) from None
