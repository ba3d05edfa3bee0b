"""A body of Anthropic's to one of OpenAI's: from there on both take the same way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from ..http.errors import bad_request
from ..http.schema.chat import MAX_MESSAGES, ChatRequest
from .call_id import written
from .schema import (
    KNOWN_BLOCKS,
    Block,
    ClientTool,
    CountTokensRequest,
    MessagesRequest,
    PlainBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
)

MAX_CALLS = 128  # of one assistant's message
MAX_INPUT = 1 << 20  # characters of a call's input, as JSON
LOW_BUDGET = 4096  # tokens of thinking, up to which the effort is low
MEDIUM_BUDGET = 16384

_SAYS = ("content", "reasoning", "tool_calls", "tool_call_id")

Effort = Literal["low", "medium", "high"]


def chat_request(body: CountTokensRequest, enable_thinking: bool = False, tools: str | None = None) -> ChatRequest:
    """The same request to /v1/chat/completions, less `max_tokens`. Raises ApiError 400 with Anthropic's path.

    `enable_thinking`: tell the template whether to think, as a variable of that name. `tools`: the format of calls, by
    its name, for their ids.
    """
    fields: dict[str, Any] = {"model": body.model, "reasoning_effort": effort(body)}
    fields["messages"] = messages = _Conversation(body, tools).messages
    if not messages:
        raise bad_request("messages: they hold nothing", "messages")
    if len(messages) > MAX_MESSAGES:
        raise bad_request(f"messages: with the results in them at most {MAX_MESSAGES}, got {len(messages)}", "messages")
    if messages[-1]["role"] == "assistant":  # the answer goes on where it ends
        fields |= {"add_generation_prompt": False, "continue_final_message": True}
    if body.tools:
        fields["tools"] = [_tool(tool, f"tools[{place}]") for place, tool in enumerate(body.tools)]
    fields |= _choice(body)
    if body.output_config is not None and (form := body.output_config.format) is not None:
        fields["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": form.schema_}}
    if enable_thinking and body.thinking is not None:
        fields["chat_template_kwargs"] = {"enable_thinking": body.thinking.type != "disabled"}
    if isinstance(body, MessagesRequest):
        fields |= {"temperature": body.temperature, "top_p": body.top_p, "top_k": body.top_k}
        fields |= {"stop": body.stop_sequences, "stream": body.stream}
    return ChatRequest(**fields)


def effort(body: CountTokensRequest) -> Effort | None:
    """Raises ApiError 400."""
    thinking, asked = body.thinking, body.output_config and body.output_config.effort
    budget = None
    if thinking is not None:
        budget = thinking.budget_tokens
        if thinking.type == "enabled" and budget is None:
            message = "thinking.budget_tokens: Field required"
            raise bad_request(message, "thinking.budget_tokens", "missing_required_parameter")
        if thinking.type != "enabled" and budget is not None:
            raise bad_request("thinking.budget_tokens: goes with type enabled only", "thinking.budget_tokens")
        if isinstance(body, MessagesRequest) and budget is not None and budget >= body.max_tokens:
            message = "thinking.budget_tokens: must be less than max_tokens, of which it is a part"
            raise bad_request(message, "thinking.budget_tokens")
    if asked is not None:
        return asked if asked in ("low", "medium") else "high"
    if thinking is None or thinking.type == "adaptive":
        return None
    if budget is None or budget <= LOW_BUDGET:
        return "low"
    return "medium" if budget <= MEDIUM_BUDGET else "high"


class _Conversation:
    """`messages`: those of `body` in OpenAI's form. Neighbours of one role become one; a result is its own."""

    def __init__(self, body: CountTokensRequest, tools: str | None) -> None:
        self.messages: list[dict[str, Any]] = []
        self._tools = tools
        self._calls: dict[str, str] = {}  # the client's ids to those of the prompt
        self._add("system", _text(body.system or "", "system"))
        for place, turn in enumerate(body.messages):
            self._turn(turn, f"messages[{place}].content", last=place == len(body.messages) - 1)
        self.messages = [each for each in self.messages if any(each.get(name) for name in _SAYS)]

    def _turn(self, turn: Turn, path: str, last: bool) -> None:
        if turn.role == "user" and not _says_something(turn.content):
            raise bad_request(f"{path}: must not be empty", path)
        if isinstance(turn.content, str):
            self._add(turn.role, turn.content)
        elif turn.role == "assistant":
            self._assistant(turn.content, path)
        elif turn.role == "user":
            self._user(turn.content, path)
        else:
            self._add("system", _text(turn.content, path))
        if last and turn.role == "assistant" and self.messages and self.messages[-1].get("tool_calls"):
            raise bad_request(f"{path}: the result of its tool_use must follow, in a message of the user", path)

    def _add(self, role: str, text: str) -> None:
        if not text:
            return
        if self.messages and self.messages[-1]["role"] == role:
            before = self.messages[-1].get("content")
            joint = "" if role == "assistant" else "\n"
            self.messages[-1]["content"] = text if before is None else f"{before}{joint}{text}"
        else:
            self.messages.append({"role": role, "content": text})

    def _user(self, blocks: Sequence[Block], path: str) -> None:
        for place, block in enumerate(blocks):
            at = f"{path}[{place}]"
            if isinstance(block, ToolResultBlock):
                if block.tool_use_id not in self._calls:
                    message = f"{at}.tool_use_id: no tool_use block of an earlier message has this id"
                    raise bad_request(message, f"{at}.tool_use_id")
                content = _text(block.content or "", f"{at}.content")
                if block.is_error and not content.lower().startswith("error"):
                    content = f"Error: {content}"
                identity = self._calls[block.tool_use_id]
                self.messages.append({"role": "tool", "tool_call_id": identity, "content": content})
            else:
                self._add("user", _text([block], at, alone=True))

    def _assistant(self, blocks: Sequence[Block], path: str) -> None:
        for place, block in enumerate(blocks):
            at = f"{path}[{place}]"
            if isinstance(block, TextBlock):
                self._add("assistant", block.text)
            elif isinstance(block, ThinkingBlock):
                message = self._answer()
                message["reasoning"] = message.get("reasoning", "") + block.thinking
            elif isinstance(block, ToolUseBlock):
                self._call(block, at)
            elif block.type != "redacted_thinking":
                raise _refused(block.type, at)

    def _call(self, block: ToolUseBlock, at: str) -> None:
        arguments = json.dumps(block.input, ensure_ascii=False)
        if len(arguments) > MAX_INPUT:
            message = f"{at}.input: at most {MAX_INPUT} characters as JSON, got {len(arguments)}"
            raise bad_request(message, f"{at}.input")
        calls = self._answer().setdefault("tool_calls", [])
        if len(calls) == MAX_CALLS:
            raise bad_request(f"{at}: at most {MAX_CALLS} tool_use blocks in a message", at)
        function = {"name": block.name, "arguments": arguments}
        self._calls[block.id] = identity = written(block.id, block.name, self._tools)
        calls.append({"id": identity, "type": "function", "function": function})

    def _answer(self) -> dict[str, Any]:
        """The assistant's message that the blocks belong to."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant"})
        return self.messages[-1]


def _says_something(content: str | Iterable[Block]) -> bool:
    return bool(content) if isinstance(content, str) else any(getattr(block, "text", True) for block in content)


def _text(content: str | Iterable[Block | PlainBlock], path: str, alone: bool = False) -> str:
    """Joined by newlines. `alone`: `path` is that of the only block. Raises ApiError for what is no text."""
    if isinstance(content, str):
        return content
    texts = []
    for place, block in enumerate(content):
        if not isinstance(block, TextBlock):
            raise _refused(block.type, path if alone else f"{path}[{place}]")
        texts.append(block.text)
    return "\n".join(texts)


def _refused(kind: str, path: str) -> Exception:
    shown = repr(kind[:40])
    if kind in KNOWN_BLOCKS:
        return bad_request(f"{path}: blocks of type {shown} do not belong here", path)
    return bad_request(f"{path}: this model takes text only; blocks of type {shown} are not supported", path)


def _tool(tool: ClientTool, path: str) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        shown = repr(tool.type[:40])
        message = f"{path}.type: this server has no tools of its own; {shown} is not supported, only custom ones"
        raise bad_request(message, f"{path}.type", "unsupported_parameter")
    if tool.defer_loading:
        message = f"{path}.defer_loading: this server does not support it"
        raise bad_request(message, f"{path}.defer_loading", "unsupported_parameter")
    if tool.input_schema is None:
        message = f"{path}.input_schema: Field required"
        raise bad_request(message, f"{path}.input_schema", "missing_required_parameter")
    description = tool.description
    if tool.input_examples:
        examples = "\n".join(json.dumps(each, ensure_ascii=False) for each in tool.input_examples)
        description = f"{description or ''}\n\nExamples of its input:\n{examples}".lstrip()
    function = {"name": tool.name, "description": description, "parameters": tool.input_schema, "strict": tool.strict}
    return {"type": "function", "function": function}


def _choice(body: CountTokensRequest) -> dict[str, Any]:
    choice = body.tool_choice
    if choice is None:
        return {}
    if (choice.type == "tool") != (choice.name is not None):
        raise bad_request("tool_choice.name: goes with type tool, and type tool with it", "tool_choice.name")
    if choice.type == "tool":
        asked: Any = {"type": "function", "function": {"name": choice.name}}
    else:
        asked = {"any": "required"}.get(choice.type, choice.type)
    return {"tool_choice": asked, "parallel_tool_calls": not choice.disable_parallel_tool_use}
