"""What the engine says in one scene, and how each route is asked so that it comes to be said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from yardmaster.engine.client import EngineDead
from yardmaster.engine.messages import RequestOutput, Submit, TokenLogprob
from yardmaster.server.text.formats.registry import ChatFormat

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA}
OTHER = {"name": "now", "parameters": {"type": "object", "properties": {}}}
MESSAGES = [{"role": "user", "content": "hi"}]
THOUGHT = "<|channel|>analysis<|message|>Think é🙂<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>"
TO_WEATHER = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Zürich"}'

Route = Literal["chat", "completion", "response", "message"]


@dataclass(frozen=True)
class Scene:
    """`fails`: how the engine ends instead of finishing. `stop_token`: what it ends with, beside the text. `lacks`:
    that many tokens at the end. `asks`: further fields, by route; `streams`: of requests for a stream alone.
    """

    name: str
    text: str
    harmony: bool = True
    format: ChatFormat | None = None
    finish: Literal["stop", "length"] = "stop"
    fails: RequestOutput | Exception | None = None
    tools: bool = False
    structured: bool = False
    logprobs: bool = False
    stop: tuple[str, ...] = ()
    stop_token: int | None = None
    lacks: int = 0
    effort: str | None = None
    asks: dict[Route, dict[str, Any]] = field(default_factory=dict)
    streams: dict[str, Any] = field(default_factory=dict)
    routes: tuple[Route, ...] = ("chat", "response", "message")

    def __str__(self) -> str:
        return self.name.replace(" ", "-")

    def script(self, stage: Any, size: int) -> Any:
        def play(submit: Submit) -> Iterator[RequestOutput | Exception]:
            ids = stage.ids(self.text)
            ids = ids[: len(ids) - self.lacks]
            ends = self.fails is None
            if ends and self.finish == "stop":
                ids = [*ids, stage.eos if self.stop_token is None else self.stop_token]
            prompt = submit.prompt_token_ids
            for at in range(0, len(ids), size):
                some = ids[at : at + size]
                first, last = at == 0, ends and at + size >= len(ids)
                yield RequestOutput(
                    request_id=submit.request_id,
                    token_ids=some,
                    logprobs=[_scored(token) for token in some] if submit.params.logprobs is not None else None,
                    prompt_logprobs=[None, *map(_scored, prompt[1:])]
                    if first and submit.params.prompt_logprobs is not None
                    else None,
                    finish_reason=self.finish if last else None,
                    stop_reason=self.stop_token if last else None,
                    queue_seconds=0.25 if first else None,
                )
            if ends and not ids:
                yield RequestOutput(request_id=submit.request_id, finish_reason=self.finish)
            if self.fails is not None:
                yield self.fails

        return play

    def body(self, route: Route) -> dict[str, Any]:
        """The request, but for `stream`."""
        return {"model": "test-model"} | getattr(self, f"_{route}")() | self.asks.get(route, {})

    def _chat(self) -> dict[str, Any]:
        body: dict[str, Any] = {"messages": MESSAGES}
        if self.tools:
            body["tools"] = [{"type": "function", "function": each} for each in (FUNCTION, OTHER)]
        if self.structured:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
        if self.logprobs:
            body |= {"logprobs": True, "top_logprobs": 2}
        if self.stop:
            body["stop"] = list(self.stop)
        if self.effort:
            body["reasoning_effort"] = self.effort
        return body

    def _completion(self) -> dict[str, Any]:
        body: dict[str, Any] = {"prompt": "once upon", "max_tokens": 500}
        if self.logprobs:
            body["logprobs"] = 2
        if self.stop:
            body["stop"] = list(self.stop)
        return body

    def _response(self) -> dict[str, Any]:
        body: dict[str, Any] = {"input": "hi"}
        if self.tools:
            body["tools"] = [{"type": "function", **each} for each in (FUNCTION, OTHER)]
        if self.structured:
            body["text"] = {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}
        if self.logprobs:
            body |= {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
        if self.effort:
            body["reasoning"] = {"effort": self.effort}
        return body

    def _message(self) -> dict[str, Any]:
        body: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 500, "thinking": {"type": "adaptive"}}
        if self.tools:
            body["tools"] = [{"name": each["name"], "input_schema": each["parameters"]} for each in (FUNCTION, OTHER)]
        if self.structured:
            body["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
        if self.stop:
            body["stop_sequences"] = list(self.stop)
        return body


def _scored(token: int) -> TokenLogprob:
    return TokenLogprob(token, -0.25 * (token % 7), 1, [(token, -0.25 * (token % 7)), (1, float("-inf")), (2, -9.0)])


PLAIN: tuple[Route, ...] = ("chat", "completion", "response", "message")
QWEN = ChatFormat("hermes", "qwen3")
TOLD = '<think>Hm é.</think>I look.<tool_call>{"name": "get_weather", "arguments": {"city": "Ulm"}}</tool_call>'

SCENES = (
    Scene("plain text", "Hello 你好 wörld 🙂", harmony=False, routes=PLAIN),
    Scene("nothing said", "", harmony=False, routes=PLAIN),
    Scene("half a character", "Hello 🙂", harmony=False, finish="length", lacks=1, routes=PLAIN),
    Scene("cut off", "Hello", harmony=False, finish="length", routes=PLAIN),
    Scene("stop string", "Hello STOP never", harmony=False, stop=("STOP",), routes=("chat", "completion", "message")),
    Scene("stop token", "hello", harmony=False, stop_token=5, routes=("chat", "completion"),
          asks={route: {"stop_token_ids": [5]} for route in ("chat", "completion")}),
    Scene("usage at the end", "Hello", harmony=False, routes=("chat", "completion"),
          streams={"stream_options": {"include_usage": True}}),
    Scene("usage always", f"{THOUGHT}{FINAL}Hello", routes=("chat",),
          streams={"stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
    Scene("logprobs", "Hello é🙂", harmony=False, logprobs=True, routes=("chat", "completion", "response")),
    Scene("echo", "Hello", harmony=False, logprobs=True, routes=("completion",),
          asks={"completion": {"echo": True, "prompt": ["a b", "c"], "n": 2}}),
    Scene("no new text", "Hello", harmony=False, routes=("completion",),
          asks={"completion": {"echo": True, "max_tokens": 0, "logprobs": 1}}),
    Scene("all that vLLM tells", "Hello", harmony=False, routes=("chat", "completion"),
          asks={route: {"return_token_ids": True, "include_metrics": True} for route in ("chat", "completion")}),
    Scene("several", "Hello", harmony=False, routes=("chat", "completion"),
          asks={route: {"n": 3} for route in ("chat", "completion")}),
    Scene("structured", '{"city": "Ulm"}', harmony=False, structured=True),
    Scene("logprobs of a prompt", "Hello", harmony=False, routes=("chat",), asks={"chat": {"prompt_logprobs": 1}},
          streams={"prompt_logprobs": None}),
    Scene("plain, engine fails", "Hel", harmony=False, fails=RequestOutput(request_id="", finish_reason="error"),
          routes=PLAIN),
    Scene("qwen's thought and call", TOLD, harmony=False, format=QWEN, tools=True),
    Scene("qwen's broken call", TOLD[:-20], harmony=False, format=QWEN, tools=True, finish="length"),
    Scene("thought and answer", f"{THOUGHT}{FINAL}Hello wörld🙂", effort="high"),
    Scene("logprobs of an answer", f"{THOUGHT}{FINAL}he 🙂", logprobs=True, routes=("chat", "response")),
    Scene("call", THOUGHT + TO_WEATHER, tools=True),
    Scene(
        "preamble and calls",
        f"<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{TO_WEATHER}<|call|><|start|>assistant"
        "<|channel|>analysis<|message|>And now?<|end|><|start|>assistant to=functions.now<|channel|>commentary"
        "<|message|>",
        tools=True,
    ),
    Scene("one call only", f"{TO_WEATHER}<|call|><|start|>assistant{TO_WEATHER}", tools=True, asks={
        "chat": {"parallel_tool_calls": False}, "response": {"parallel_tool_calls": False},
        "message": {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    }),
    Scene("called names", "<|channel|>commentary to=functions.nowjson<|message|>{}", tools=True),
    Scene("forced call", TO_WEATHER, tools=True, asks={
        "chat": {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
        "response": {"tool_choice": {"type": "function", "name": "get_weather"}},
        "message": {"tool_choice": {"type": "tool", "name": "get_weather"}},
    }),
    Scene("allowed calls", TO_WEATHER, tools=True, routes=("response",), asks={"response": {
        "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "now"}]},
    }}),
    Scene("call of nothing offered", "<|channel|>commentary to=functions.other json<|message|>{}", tools=True),
    Scene("call of what is no JSON", TO_WEATHER[:-8], tools=True),
    Scene("thought alone", "<|channel|>analysis<|message|>Hm"),
    Scene("sealed thought", f"{THOUGHT}{FINAL}Hello", asks={"response": {"include": ["reasoning.encrypted_content"]}},
          routes=("response",)),
    Scene("thought cut off", "<|channel|>analysis<|message|>Hm é", finish="length"),
    Scene("call cut off", THOUGHT + TO_WEATHER[:-4], tools=True, finish="length"),
    Scene("harmony says nothing", ""),
    Scene("no header", "No header at all"),
    Scene("unknown channel", f"<|channel|>musing<|message|>Hm<|end|><|start|>assistant{FINAL}Hello"),
    Scene("nested markers", f"{FINAL}a<|start|><|channel|><|message|><|message|>b<|end|><|end|>c<|constrain|>d"),
    Scene("header without an end", f"{THOUGHT}<|channel|>final"),
    Scene("structured answer", f'{THOUGHT}{FINAL}{{"city": "Ulm"}}', structured=True),
    Scene("engine fails", f"{THOUGHT}{FINAL}Hel", fails=EngineDead("rank 3 is gone")),
    Scene("engine fails at once", "", fails=RequestOutput(request_id="", finish_reason="error", error="x")),
    Scene("engine refuses", "", fails=RequestOutput(request_id="", finish_reason="error", refused=True, error="no")),
    Scene("engine stops", THOUGHT + TO_WEATHER[:-3], tools=True,
          fails=RequestOutput(request_id="", finish_reason="abort")),
)  # fmt: skip
