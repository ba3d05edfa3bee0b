"""What models of each family write: calls as documented, and with the mistakes that they make."""

# ruff: noqa: RUF001 (the bars are DeepSeek's own)

from __future__ import annotations

WEATHER = '{"city": "Zürich", "days": [1, 2]}'


def ds(*bodies: str) -> str:
    calls = "\n".join(f"<｜tool▁call▁begin｜>{body}<｜tool▁call▁end｜>" for body in bodies)
    return f"<｜tool▁calls▁begin｜>{calls}<｜tool▁calls▁end｜>"


def kimi(*bodies: str) -> str:
    calls = "".join(f"<|tool_call_begin|>{body}<|tool_call_end|>" for body in bodies)
    return f"<|tool_calls_section_begin|>{calls}<|tool_calls_section_end|>"


DOCUMENTED = [
    ("hermes", f'<tool_call>\n{{"name": "get_weather", "arguments": {WEATHER}}}\n</tool_call>'),
    ("hermes", f'<tool_call>\n{{"arguments": {WEATHER}, "name": "get_weather"}}\n</tool_call>'),  # Hermes 2 Pro's order
    ("mistral", f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {WEATHER}}}]'),
    ("mistral", f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {WEATHER}, "id": "VvvODy9mT"}}]'),
    ("mistral", f"[TOOL_CALLS]get_weather{WEATHER}"),
    ("mistral", f"[TOOL_CALLS]get_weather[ARGS]{WEATHER}"),
    ("mistral", f"[TOOL_CALLS]get_weather[CALL_ID]VvvODy9mT[ARGS]{WEATHER}"),
    ("kimi_k2", kimi(f"functions.get_weather:0<|tool_call_argument_begin|>{WEATHER}")),
    ("deepseek_v3", ds(f"function<｜tool▁sep｜>get_weather\n```json\n{WEATHER}\n```")),
    ("deepseek_v31", ds(f"get_weather<｜tool▁sep｜>{WEATHER}")),
    ("phi4_mini_json", f'functools[{{"name": "get_weather", "arguments": {WEATHER}}}]'),
    ("phi4_mini_json", f'<|tool_call|>[{{"name": "get_weather", "arguments": {WEATHER}}}]<|/tool_call|>'),
    ("llama3_json", f'{{"name": "get_weather", "parameters": {WEATHER}}}'),
    ("llama3_json", f'<|python_tag|>{{"name": "get_weather", "parameters": {WEATHER}}}'),
    ("llama3_json", f'{{"type": "function", "name": "get_weather", "parameters": {WEATHER}}}'),
]
TWO = [
    (
        "hermes",
        f'<tool_call>\n{{"name": "get_weather", "arguments": {WEATHER}}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    ),
    (
        "mistral",
        f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {WEATHER}}}, {{"name": "now", "arguments": {{}}}}]',
    ),
    ("mistral", f"[TOOL_CALLS]get_weather{WEATHER}[TOOL_CALLS]now{{}}"),
    (
        "kimi_k2",
        kimi(
            f"functions.get_weather:0<|tool_call_argument_begin|>{WEATHER}",
            "functions.now:1<|tool_call_argument_begin|>{}",
        ),
    ),
    (
        "deepseek_v3",
        ds(
            f"function<｜tool▁sep｜>get_weather\n```json\n{WEATHER}\n```",
            "function<｜tool▁sep｜>now\n```json\n{}\n```",
        ),
    ),
    ("deepseek_v31", ds(f"get_weather<｜tool▁sep｜>{WEATHER}", "now<｜tool▁sep｜>{}")),
    (
        "phi4_mini_json",
        f'functools[{{"name": "get_weather", "arguments": {WEATHER}}}, {{"name": "now", "arguments": {{}}}}]',
    ),
    (
        "llama3_json",
        f'{{"name": "get_weather", "parameters": {WEATHER}}}; {{"name": "now", "parameters": {{}}}}',
    ),
]
MISTAKES = [
    # No closing bracket of the call, one too many, no closing tag, another's closing tag
    ("hermes", '<tool_call>{"name": "now", "arguments": {"a": 1}</tool_call>', ("", [("now", '{"a": 1}')])),
    ("hermes", '<tool_call>{"name": "now", "arguments": {"a": 1}}}</tool_call>', ("", [("now", '{"a": 1}')])),
    ("hermes", '<tool_call>{"name": "now", "arguments": {"a": 1}}', ("", [("now", '{"a": 1}')])),
    ("hermes", '<tool_call>{"name": "now", "arguments": {"a": 1</tool_call>.', (".", [("now", '{"a": 1')])),
    (
        "hermes",
        '<tool_call>{"name": "now", "arguments": {}}<tool_call>{"name": "now", "arguments": {}}</tool_call>',
        ("", [("now", "{}")] * 2),
    ),
    # Several in one, a list, a wrapper
    (
        "hermes",
        '<tool_call>\n{"name": "now", "arguments": {}}\n{"name": "now", "arguments": {}}\n</tool_call>',
        ("", [("now", "{}")] * 2),
    ),
    ("hermes", '<tool_call>[{"name": "now", "arguments": {}}]</tool_call>', ("", [("now", "{}")])),
    (
        "phi4_mini_json",
        '<|tool_call|>[{"type": "function", "function": {"name": "now", "arguments": {"a": 1}}}]<|/tool_call|>',
        ("", [("now", '{"a": 1}')]),
    ),
    # Arguments as a string of JSON, as null, left out
    ("hermes", '<tool_call>{"name": "now", "arguments": "{\\"a\\": 1}"}</tool_call>', ("", [("now", '{"a": 1}')])),
    ("hermes", '<tool_call>{"arguments": "{\\"a\\": 1}", "name": "now"}</tool_call>', ("", [("now", '{"a": 1}')])),
    ("hermes", '<tool_call>{"name": "now", "arguments": null}</tool_call>', ("", [("now", "{}")])),
    ("hermes", '<tool_call>{"name": "now"}</tool_call>', ("", [("now", "{}")])),
    ("hermes", '<tool_call>{"name": "now", "arguments": "\\ud800"}</tool_call>', ("", [("now", "\ufffd")])),
    # A marker in a string is a string
    (
        "hermes",
        '<tool_call>{"name": "now", "arguments": {"a": "</tool_call>\\"<tool_call>"}}</tool_call>',
        ("", [("now", '{"a": "</tool_call>\\"<tool_call>"}')]),
    ),
    # A function that nobody offered is for the client to refuse
    ("hermes", '<tool_call>{"name": "other", "arguments": {}}</tool_call>', ("", [("other", "{}")])),
    ("mistral", "[TOOL_CALLS]now{} and then", (" and then", [("now", "{}")])),
    ("mistral", '[TOOL_CALLS]{"name": "now", "arguments": {}}', ("", [("now", "{}")])),
    # Sections without their beginning or end, other names for the call
    ("kimi_k2", "<|tool_call_begin|>now:0<|tool_call_argument_begin|>{}<|tool_call_end|>", ("", [("now", "{}")])),
    (
        "kimi_k2",
        "<|tool_calls_section_begin|><|tool_call_begin|>now<|tool_call_argument_begin|>{}<|tool_calls_section_end|>.",
        (".", [("now", "{}")]),
    ),
    (
        "kimi_k2",
        "<|tool_call_begin|>now<|tool_call_argument_begin|>{}<|tool_call_begin|>now<|tool_call_argument_begin|>[",
        ("", [("now", "{}"), ("now", "[")]),
    ),
    ("kimi_k2", kimi("functions.now:0<|tool_call_argument_begin|>"), ("", [("now", "{}")])),
    ("deepseek_v3", ds("function<｜tool▁sep｜>now\n{}"), ("", [("now", "{}")])),
    ("deepseek_v3", ds("function<｜tool▁sep｜>now\n```\n{}```"), ("", [("now", "{}")])),
    ("deepseek_v31", ds("now<｜tool▁sep｜>"), ("", [("now", "{}")])),
    ("deepseek_v31", ds('now<｜tool▁sep｜>{"a": "`"} '), ("", [("now", '{"a": "`"}')])),
]
TEXTS = [
    ("hermes", "<tool_call> is how I call.</tool_call>"),
    ("hermes", "<tool_call>\n[]</tool_call>"),
    ("hermes", '<tool_call>{"name": 1, "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "a b", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "' + "a" * 257 + '", "arguments": {}}</tool_call>'),
    ("hermes", "<tool_call>{'name': 'now', 'arguments': {}}</tool_call>"),
    ("hermes", "1 < 2 <tool <tool_call"),
    ("hermes", '{"name": "now", "arguments": {}}'),
    ("hermes", "<tool_call>\n<function=now>\n</function>\n</tool_call>"),
    ("mistral", "[TOOL_CALLS] none"),
    ("mistral", "[TOOL_CALLS]now"),
    ("mistral", "[TOOL_CALLS]now[ARGS]"),
    ("mistral", "[TOOL"),
    ("mistral", "[1, 2] [ARGS]{}"),
    ("kimi_k2", "<|tool_calls_section_begin|>now<|tool_calls_section_end|>"),
    ("kimi_k2", "<|tool_call_begin|>now<|tool_call_end|>"),
    ("kimi_k2", "<|tool_call_begin|>" + "n" * 300 + "<|tool_call_argument_begin|>{}<|tool_call_end|>"),
    ("deepseek_v3", "<｜tool▁calls▁begin｜>now<｜tool▁calls▁end｜>"),
    ("deepseek_v3", "<｜tool▁call▁begin｜>now<｜tool▁call▁end｜>"),
    ("phi4_mini_json", "Python has functools[0]."),
    ("phi4_mini_json", "functools"),
    ("llama3_json", '{"name": "other", "parameters": {}}'),
    ("llama3_json", '{"name": "now"}'),
    ("llama3_json", '{"city": "Ulm", "name": "now", "parameters": {}}'),
    ("llama3_json", 'So: {"name": "now", "parameters": {}}'),
    ("llama3_json", '<|python_tag|>brave_search.call(query="x")'),
]
