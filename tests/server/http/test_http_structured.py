"""What asks for an answer of a certain form: which grammar reaches the engine, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest
from llguidance import LLMatcher, LLTokenizer

from yardmaster.engine.messages import RequestOutput

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
NOT = {"not": {"type": "string"}}  # a schema that cannot be compiled
FORMAT = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
FINAL = "<|channel|>final<|message|>"
CALL = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}<|call|>"
THOUGHT = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"


def tool(name: str, parameters: Any = None, strict: bool | None = None) -> dict[str, Any]:
    function = {"name": name, "parameters": parameters, "strict": strict}
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


def post(app: Any, body: Any, path: str = CHAT) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, json=body)

    return anyio.run(send)


def chat(stage: Any, body: dict[str, Any]) -> httpx.Response:
    return post(stage.app(), {"messages": HELLO} | body)


def grammar(stage: Any, body: dict[str, Any], path: str = CHAT) -> str | None:
    """The one that the engine is given."""
    asked = {"prompt": "x"} if path == TEXT else {"messages": HELLO}
    response = post(stage.app(), asked | body, path)
    assert response.status_code == 200, response.text
    found: str | None = stage.engine.submitted[-1].grammar
    return found


def passes(stage: Any, grammar: str, text: str) -> bool:
    """Whether the text, control tokens included, is a whole output."""
    spec = stage.tokenizer._path.read_text()
    matcher = LLMatcher(LLTokenizer(spec, n_vocab=stage.tokenizer.vocab_size, eos_token=[stage.eos]), grammar)
    assert not matcher.is_error(), matcher.get_error()
    ids = stage.ids(text)
    return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())


def refused(response: httpx.Response, param: str, code: str = "invalid_value") -> str:
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code), error
    assert error["message"].startswith(param.partition(".")[0].partition("[")[0])
    assert "\n" not in error["message"]
    message: str = error["message"]
    return message


FORMS: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": FORMAT}, '{"a": 5}', "{}"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, '{"z": []}', "[]"),
    ({"response_format": {"type": "json_object"}}, '{"z": []}', "[]"),
    ({"structured_outputs": {"json": SCHEMA}}, '{"a": 5}', '{"a": "5"}'),
    ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, '{"a": 5}', '{"a": "5"}'),
    ({"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}}, '{"a":5}', '{"a": 5}'),
    ({"structured_outputs": {"regex": "a+b"}}, "aab", "b"),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, "no", "maybe"),
    ({"structured_outputs": {"grammar": 'start: "x" | "y"'}}, "y", "z"),
    ({"structured_outputs": {"grammar": 'root ::= "x" | "y"'}}, "y", "z"),
    ({"structured_outputs": {"json_object": True}}, '{"a": 1}', "1"),
    ({"guided_json": SCHEMA}, '{"a": 5}', "{}"),
    ({"guided_json": json.dumps(SCHEMA)}, '{"a": 5}', "{}"),
    ({"guided_regex": "a+b", "guided_decoding_backend": "auto"}, "aab", "b"),
    ({"guided_choice": ["yes", "no"]}, "yes", "y"),
    ({"guided_grammar": 'start: "x"'}, "x", "y"),
]


@pytest.mark.parametrize(("body", "good", "bad"), FORMS, ids=[json.dumps(body)[:60] for body, _, _ in FORMS])
def test_forms(harmony: Any, plain: Any, body: dict[str, Any], good: str, bad: str) -> None:
    for stage, path, head in ((harmony, CHAT, FINAL), (plain, CHAT, ""), (plain, TEXT, ""), (harmony, TEXT, "")):
        made = grammar(stage, body, path)
        assert made is not None
        for thought in ("", THOUGHT) if head else ("",):
            assert passes(stage, made, thought + head + good)
            assert not passes(stage, made, thought + head + bad)
        if head:
            assert not passes(stage, made, good)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"response_format": {"type": "text"}},
        {"response_format": None, "structured_outputs": None, "guided_json": None},
        {"structured_outputs": {}},
        {"structured_outputs": {"json_object": False, "disable_fallback": True}},
    ],
)
def test_nothing_asked_is_no_grammar(harmony: Any, body: dict[str, Any]) -> None:
    assert grammar(harmony, body) is None
    assert grammar(harmony, body, TEXT) is None


def test_every_choice_has_it(harmony: Any) -> None:
    grammar(harmony, {"response_format": FORMAT, "n": 3})
    assert len({submit.grammar for submit in harmony.engine.submitted}) == 1
    assert len(harmony.engine.submitted) == 3


def test_the_model_is_told_of_the_schema(harmony: Any) -> None:
    grammar(harmony, {"messages": [{"role": "system", "content": "Be kind."}, *HELLO], "response_format": FORMAT})
    prompt = harmony.tokenizer.decode(harmony.engine.submitted[-1].prompt_token_ids, False)
    shown = "# Response Formats\n\n## thing\n\n" + json.dumps(SCHEMA)
    assert f"# Instructions\n\nBe kind.\n\n{shown}<|end|><|start|>user<|message|>hi" in prompt
    app = harmony.app()
    body = {"messages": HELLO, "response_format": FORMAT}
    post(app, body)
    assert post(app, body, "/tokenize").json()["tokens"] == harmony.engine.submitted[-1].prompt_token_ids


def asking(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


WRONG: list[tuple[dict[str, Any], str]] = [
    (asking(NOT), "response_format.json_schema.schema"),
    (asking([]), "response_format.json_schema.schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": ""}}}, "response_format.json_schema.name"),
    ({"response_format": {"type": "regex"}}, "response_format.type"),
    ({"response_format": "json"}, "response_format"),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs"),
    ({"structured_outputs": {"json": "5"}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": 5}}, "structured_outputs.json"),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
    ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
    ({"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice"),
    ({"structured_outputs": {"choice": ["a", 5]}}, "structured_outputs.choice[1]"),
    ({"structured_outputs": {"grammar": "start: ("}}, "structured_outputs.grammar"),
    ({"structured_outputs": {"grammar": "start: <|end|>"}}, "structured_outputs.grammar"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
    ({"guided_json": NOT}, "guided_json"),
    ({"guided_regex": "["}, "guided_regex"),
    ({"guided_choice": []}, "guided_choice"),
    ({"guided_grammar": ""}, "guided_grammar"),
    ({"guided_json": SCHEMA, "guided_regex": "a"}, "guided_regex"),
    ({"response_format": FORMAT, "structured_outputs": {"regex": "a"}}, "structured_outputs.regex"),
    ({"response_format": {"type": "json_object"}, "guided_choice": ["a"]}, "guided_choice"),
    ({"response_format": {"type": "json_object"}, "allowed_token_ids": [1]}, "allowed_token_ids"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param"), WRONG, ids=[json.dumps(body)[:60] for body, _ in WRONG])
def test_wrong_forms_are_named(harmony: Any, plain: Any, body: dict[str, Any], param: str) -> None:
    for stage, path, asked in ((harmony, CHAT, {"messages": HELLO}), (plain, TEXT, {"prompt": "x"})):
        refused(post(stage.app(), asked | body, path), param)
        assert stage.engine.submitted == []


def test_what_there_is_no_way_to_serve(harmony: Any) -> None:
    for name, value in (
        ("disable_additional_properties", True),
        ("whitespace_pattern", " "),
        ("structural_tag", "{}"),
    ):
        body = {"structured_outputs": {"json": SCHEMA, name: value}}
        refused(chat(harmony, body), f"structured_outputs.{name}", "unsupported_parameter")
    body = {"response_format": {"type": "json_schema"}}
    refused(chat(harmony, body), "response_format.json_schema", "missing_required_parameter")
    for body, param in (
        ({"continue_final_message": True, "add_generation_prompt": False}, "continue_final_message"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
    ):
        messages = [*HELLO, {"role": "assistant", "content": "{"}]
        refused(chat(harmony, body | {"messages": messages, "response_format": FORMAT}), param)
        assert chat(harmony, body | {"messages": messages}).status_code == 200


def test_a_model_whose_text_is_its_answer_can_go_on_with_it(plain: Any) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "x"}]
    made = grammar(plain, {"messages": messages, "continue_final_message": True, "guided_regex": "a"})
    assert made is not None
    assert passes(plain, made, "a")


# Calls


def test_forced_calls(harmony: Any) -> None:
    tools = [tool("f", SCHEMA), tool("g"), tool("odd", NOT)]
    required = grammar(harmony, {"tools": tools, "tool_choice": "required"})
    named = grammar(harmony, {"tools": tools, "tool_choice": {"type": "function", "function": {"name": "f"}}})
    assert required is not None
    assert named is not None
    for made in (required, named):
        for head in ("", THOUGHT, "<|channel|>commentary<|message|>I call.<|end|><|start|>assistant"):
            assert passes(harmony, made, head + CALL.format("f", '{"a": 1}'))
        assert not passes(harmony, made, CALL.format("f", "{}"))
        assert not passes(harmony, made, THOUGHT + FINAL + "x")
        assert not passes(harmony, made, CALL.format("other", "{}"))
    for name in ("g", "odd"):
        assert passes(harmony, required, CALL.format(name, '{"z": 1}'))
        assert not passes(harmony, required, CALL.format(name, "1"))
        assert not passes(harmony, named, CALL.format(name, '{"z": 1}'))


def test_strict_functions_and_others_beside_them(harmony: Any) -> None:
    made = grammar(harmony, {"tools": [tool("f", SCHEMA, True), tool("g", SCHEMA, False), tool("odd", NOT)]})
    assert made is not None
    assert passes(harmony, made, THOUGHT + FINAL + "anything at all")
    assert passes(harmony, made, CALL.format("f", '{"a": 1}'))
    assert not passes(harmony, made, CALL.format("f", '{"a": "1"}'))
    for name in ("g", "odd"):
        assert passes(harmony, made, CALL.format(name, '{"a": "1"}'))
        assert not passes(harmony, made, CALL.format(name, "[]"))
    for free in (
        {"tools": [tool("f", SCHEMA), tool("g", SCHEMA, False)]},
        {"tools": [tool("f", SCHEMA, True)], "tool_choice": "none"},
    ):
        assert grammar(harmony, free) is None


def test_an_answer_of_a_form_or_a_call(harmony: Any) -> None:
    made = grammar(harmony, {"tools": [tool("f", SCHEMA)], "response_format": FORMAT})
    assert made is not None
    assert passes(harmony, made, FINAL + '{"a": 1}')
    assert not passes(harmony, made, FINAL + "text")
    assert passes(harmony, made, CALL.format("f", '{"b": 1}'))
    forced = grammar(harmony, {"tools": [tool("f", SCHEMA)], "response_format": FORMAT, "tool_choice": "required"})
    assert forced is not None
    assert not passes(harmony, forced, FINAL + '{"a": 1}')


def test_wrong_calls_are_named(harmony: Any) -> None:
    tools = [tool("g"), tool("f", NOT, True)]
    for choice in ("auto", "required", {"type": "function", "function": {"name": "f"}}):
        refused(chat(harmony, {"tools": tools, "tool_choice": choice}), "tools[1].function.parameters")
    forced = {"tools": [tool("g")], "tool_choice": "required"}
    refused(chat(harmony, forced | {"structured_outputs": {"regex": "a"}}), "structured_outputs.regex")
    refused(chat(harmony, forced | {"add_generation_prompt": False}), "add_generation_prompt")
    assert harmony.engine.submitted == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_call_is_one(harmony: Any, stream: bool) -> None:
    text = CALL.format("f", '{"a": 1}')

    def script(submit: Any) -> Any:
        ids = harmony.ids(THOUGHT + text)
        yield RequestOutput(request_id=submit.request_id, token_ids=ids[:-3])
        yield RequestOutput(request_id=submit.request_id, token_ids=ids[-3:], finish_reason="stop")

    harmony.engine.script = script
    body = {"tools": [tool("f", SCHEMA)], "tool_choice": "required", "stream": stream, "parallel_tool_calls": False}
    response = chat(harmony, body)
    if stream:
        choices = [json.loads(line[6:])["choices"][0] for line in response.text.split("\n\n")[:-2]]
        calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
        assert "".join(call["function"]["arguments"] for call in calls) == '{"a": 1}'
        assert calls[0]["function"]["name"] == "f"
        assert choices[-1]["finish_reason"] == "tool_calls"
    else:
        (choice,) = response.json()["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}


# What the engine still refuses


def test_a_form_that_the_engine_cannot_follow_is_the_clients_error(harmony: Any) -> None:
    harmony.engine.script = lambda submit: [
        RequestOutput(request_id=submit.request_id, finish_reason="error", error="too complex", refused=True)
    ]
    message = refused(chat(harmony, {"response_format": FORMAT}), "response_format.json_schema.schema")
    assert message.endswith("too complex")
    assert chat(harmony, {}).status_code == 400
    events = chat(harmony, {"response_format": FORMAT, "stream": True}).text.split("\n\n")
    assert json.loads(events[-3][6:])["error"]["message"] == message
    harmony.engine.script = lambda submit: [
        RequestOutput(request_id=submit.request_id, finish_reason="error", error="NaN")
    ]
    assert chat(harmony, {"response_format": FORMAT}).status_code == 500


def test_grammars_are_made_once(harmony: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from yardmaster.server.text import grammar_book

    made = []
    original = grammar_book.chat_grammar
    monkeypatch.setattr(grammar_book, "chat_grammar", lambda *a, **k: made.append(a) or original(*a, **k))
    app = harmony.app()
    for body in (FORMAT, FORMAT, {"type": "json_object"}, FORMAT):
        assert post(app, {"messages": HELLO, "response_format": body}).status_code == 200
    assert len(made) == 2
    for number in range(grammar_book.KEPT + 5):
        assert post(app, {"messages": HELLO, "guided_choice": [str(number)]}).status_code == 200
    assert post(app, {"messages": HELLO, "response_format": FORMAT}).status_code == 200
    assert len(made) == grammar_book.KEPT + 5 + 3
