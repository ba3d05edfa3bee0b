"""Chat templates: transformers is the oracle of the text."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from yardmaster.server.text.template import ChatTemplate, TemplateError
from yardmaster.server.text.tokenizer import Tokenizer
from yardmaster.tests.server.text.templates import (
    CONFIGS,
    TEMPLATES,
    TokenizerOf,
    assistant,
    user,
)

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather <now> & \"here\" — 'é'",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
                "required": ["city"],
            },
        },
    }
]
CALL = {"type": "function", "id": "c1", "function": {"name": "get_weather", "arguments": {"city": "Zürich <b>"}}}
CHATS: dict[str, list[dict[str, Any]]] = {
    "plain": [user("Hello <b>there</b> & you  "), assistant("  Größe: 5 > 3 \n"), user("\n\n你好 🙂")],
    "system": [{"role": "system", "content": " Be {{ brief }}. "}, user("Hi"), assistant("Yes."), user("")],
    "thinking": [user("a"), assistant("<think>\nhm\n</think>\n\nb"), user("c"), assistant("d", reasoning_content="e")],
    "tools": [
        user("Weather?"),
        assistant(None, tool_calls=[CALL], reasoning="look"),
        {"role": "tool", "tool_call_id": "c1", "content": '{"t": "5 °C"}'},
        assistant("5 degrees"),
    ],
    "developer": [{"role": "developer", "content": "x"}, user("y")],
    "wrong_order": [assistant("first"), user("second"), user("third")],
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"add_generation_prompt": False},
    {"tools": TOOLS, "reasoning_effort": "high", "enable_thinking": False, "date_string": "1 May 2025"},
    {"add_generation_prompt": False, "continue_final_message": True},
]


@pytest.mark.parametrize("name", TEMPLATES)
def test_same_text_and_ids_as_transformers(name: str, template_of: Callable) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer, template, directory = template_of(name)
    kind, source = TEMPLATES[name]
    oracle = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(directory / "tokenizer.json"), chat_template=source, **CONFIGS[kind]
    )
    rendered = 0
    for chat in CHATS.values():
        for options in OPTIONS:
            wanted: dict[str, Any] = {"add_generation_prompt": True} | options
            try:
                text = oracle.apply_chat_template(chat, tokenize=False, **wanted)
            except Exception:  # whatever transformers or the template did not like, in one of many exception types
                with pytest.raises(TemplateError):
                    template.render(chat, **options)
                continue
            result = template.render(chat, **options)
            assert result.text == text
            assert tokenizer.encode_prompt(result) == oracle.encode(text, add_special_tokens=False)
            rendered += 1
    assert rendered >= 6


def test_variables_of_a_request_cannot_vouch_for_themselves(template_of: Callable) -> None:
    tokenizer, template, _ = template_of("mistral")
    plain = template.render([user("a")])
    assert tokenizer.encode_prompt(plain)[0] == tokenizer.special_texts["<s>"]
    overridden = template.render([user("a")], bos_token="</s>")
    assert overridden.text.startswith("</s> [INST]")
    assert tokenizer.special_texts["</s>"] not in tokenizer.encode_prompt(overridden)


def test_errors_are_one_line_with_plain_names(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("harmony")
    template = ChatTemplate("{{ raise_exception('no <|start|>\nhere: ' + messages[0].content) }}", tokenizer, 10)
    with pytest.raises(TemplateError, match=r"refused the messages: no <\|start\|> here: é") as caught:
        template.render([user("é" * 5000)])
    assert len(str(caught.value)) <= 500
    template.close()


def test_rejected_input(template_of: Callable) -> None:
    _, template, _ = template_of("qwen")
    for messages, options in (
        ([], {}),
        ([user("a")], {"continue_final_message": True}),
        ([{"role": "user"}], {"add_generation_prompt": False, "continue_final_message": True}),
        ([user("a")], {"thing": object()}),
        ([user("a")], {"thing": {1, 2}}),
        ([{"role": "user", "content": 7}], {}),
    ):
        with pytest.raises(TemplateError):
            template.render(messages, **options)
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TemplateError):
        template.render([user("a")], other=deep)
    while isinstance(deep, list):  # taken apart by hand: its destructor would recurse as deep
        deep = deep[0]
    assert template.render([user("\ud800")]).text.count("\ud800") == 1


def test_template_files(tmp_path: Path, checkpoint: Callable[..., Path]) -> None:
    directory = checkpoint("qwen")
    tokenizer = Tokenizer(directory)
    assert ChatTemplate.load(directory, tokenizer) is None
    config = directory / "tokenizer_config.json"
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    config.write_text(json.dumps({"chat_template": named}))
    template = ChatTemplate.load(directory, tokenizer)
    assert template is not None
    assert template.render([user("a")]).text == "plain"
    assert template.render([user("a")], tools=TOOLS).text == "tools"
    template.close()
    (directory / "chat_template.jinja").write_text("the file")
    template = ChatTemplate.load(directory, tokenizer)
    assert template is not None
    assert template.render([user("a")], tools=TOOLS).text == "the file"
    template.close()
    for broken in (b"{% if %}", b"{{ 'a }}", b"\xff\xfe", b"{% endfor %}", b"{{ x|nofilter }}"):
        (directory / "chat_template.jinja").write_bytes(broken)
        with pytest.raises(TemplateError, match=r"chat_template\.jinja"):
            ChatTemplate.load(directory, tokenizer)
    (directory / "chat_template.jinja").unlink()
    config.write_text('{"chat_template": 7}')
    with pytest.raises(TemplateError, match=r"tokenizer_config\.json"):
        ChatTemplate.load(directory, tokenizer)


def test_rendering_is_quick(template_of: Callable) -> None:
    _, template, _ = template_of("harmony")
    chat = [user("hello " * 50), assistant("yes " * 50)] * 10 + [user("x")]
    times = []
    for _ in range(30):
        began = time.perf_counter()
        template.render(chat)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.005
