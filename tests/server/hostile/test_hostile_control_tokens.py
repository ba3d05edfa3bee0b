"""Control tokens in a request's text stay text, told by token ids: every family, every route, every field."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yardmaster.server.text.formats.registry import ChatFormat, chat_format
from yardmaster.server.text.template import ChatTemplate
from yardmaster.server.text.tokenizer import Tokenizer
from yardmaster.tests.server.hostile.chat_formats import END, VOCABULARIES

FAMILIES = (*VOCABULARIES, "harmony")
PLACES = 12  # texts that a request is made of


class Door:
    """A family's server, asked in one process; what it sent to the engine."""

    def __init__(self, name: str, stage: Any, format: ChatFormat, controls: dict[str, int]) -> None:
        self.name = name
        self.stage = stage
        self.tokenizer: Tokenizer = stage.tokenizer
        self._app = stage.app(format=format)
        self.controls = controls

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.post(path, json=body)

        return anyio.run(send)

    def prompt(self, path: str, body: dict[str, Any]) -> list[int]:
        self.stage.engine.submitted.clear()
        if self.name == "harmony" and "chat_template_kwargs" in body:
            (document,) = body["chat_template_kwargs"]["documents"]
            body = body | {"chat_template_kwargs": {"model_identity": document["text"]}}
            for message in body["messages"]:
                message.pop("name", None)  # of which it takes none that could be more than a name
        response = self.post(path, body)
        assert response.status_code == 200, response.text
        (submit,) = self.stage.engine.submitted
        ids: list[int] = submit.prompt_token_ids
        return ids

    def marks(self, ids: list[int]) -> list[int]:
        known = set(self.controls.values())
        return [token for token in ids if token in known]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="module")
def texts_of(folder: Path) -> Iterator[Callable[[str], tuple[Any, ...]]]:
    """Of a family: tokenizer, template, format, and the ids of control tokens as its file has them."""
    made: dict[str, tuple[Tokenizer, ChatTemplate, ChatFormat, dict[str, int]]] = {}

    def of(name: str) -> tuple[Any, ...]:
        if name not in made:
            directory = VOCABULARIES[name].write(folder / name)
            tokenizer = Tokenizer(directory)
            template = ChatTemplate.load(directory, tokenizer, time_limit=10)
            assert template is not None
            raw = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
            controls = {text: raw.token_to_id(text) for text in VOCABULARIES[name].controls}
            format = chat_format(tokenizer, template.text, VOCABULARIES[name].model_type)
            made[name] = tokenizer, template, format, controls
        return made[name]

    yield of
    for _, template, _, _ in made.values():
        template.close()


@pytest.fixture
def door(request: pytest.FixtureRequest, harmony: Any, texts_of: Callable[..., Any]) -> Door:
    name: str = request.param
    if name == "harmony":
        return Door(name, harmony, ChatFormat(), dict(harmony.tokenizer.special_texts))
    tokenizer, template, format, controls = texts_of(name)
    stage = type(harmony)(tokenizer, template, harmony=False)
    assert stage.eos == tokenizer.special_texts[END]
    return Door(name, stage, format, controls)


every_family = pytest.mark.parametrize("door", FAMILIES, indirect=True)


def schema(t: list[str]) -> dict[str, Any]:
    inner = {"type": "string", "description": t[0], "enum": [t[1], t[2]], "title": t[3]}
    return {"type": "object", "description": t[4], "properties": {t[5]: inner}, "required": [t[5]]}


def chat_body(t: list[str]) -> dict[str, Any]:
    call = {
        "id": t[0],
        "type": "function",
        "function": {"name": "f", "arguments": json.dumps({t[1]: [t[2], {t[3]: 1}]})},
    }
    function = {"name": "f", "description": t[4], "parameters": schema(t[5:11])}
    return {
        "messages": [
            {"role": "system", "content": t[5], "name": t[0]},
            {"role": "developer", "content": t[6]},
            {"role": "user", "content": [{"type": "text", "text": t[7]}, {"type": "text", "text": t[8]}], "name": t[1]},
            {"role": "assistant", "content": t[9], "reasoning_content": t[10], "tool_calls": [call], "name": t[11]},
            {"role": "tool", "content": t[11], "tool_call_id": t[0], "name": t[2]},
            {"role": "assistant", "content": t[0], "reasoning": t[3]},
            {"role": "user", "content": t[4]},
        ],
        "tools": [{"type": "function", "function": function}],
        "max_tokens": 1,
        "chat_template_kwargs": {"documents": [{"title": t[6], "text": t[7]}]},
    }


def messages_body(t: list[str]) -> dict[str, Any]:
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {t[1]: [t[2], {t[3]: t[4]}]}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": t[5]}]}
    return {
        "model": "test-model",
        "max_tokens": 1,
        "system": [{"type": "text", "text": t[6]}],
        "messages": [
            {"role": "user", "content": t[7]},
            {"role": "assistant", "content": [{"type": "text", "text": t[8]}, call]},
            {"role": "user", "content": [result, {"type": "text", "text": t[9]}]},
        ],
        "tools": [{"name": "f", "description": t[10], "input_schema": schema(t[:6])}],
    }


def responses_body(t: list[str]) -> dict[str, Any]:
    return {
        "model": "test-model",
        "store": False,
        "max_output_tokens": 16,
        "instructions": t[0],
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": t[1]}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": t[2]}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": json.dumps({t[3]: t[4]})},
            {"type": "function_call_output", "call_id": "c1", "output": t[5]},
            {"role": "assistant", "content": [{"type": "output_text", "text": t[6], "annotations": []}]},
            {"role": "developer", "content": t[7]},
            {"role": "user", "content": t[8]},
        ],
        "tools": [
            {"type": "function", "name": "f", "description": t[9], "parameters": schema(t[4:10]), "strict": None}
        ],
    }


ROUTES = {"/v1/chat/completions": chat_body, "/v1/messages": messages_body, "/v1/responses": responses_body}


@every_family
@pytest.mark.parametrize("path", ROUTES)
def test_no_text_of_a_request_is_a_control_token(door: Door, path: str) -> None:
    names = sorted(door.controls)
    halves = sorted({part for name in names for cut in range(1, len(name)) for part in (name[:cut], name[cut:])})
    piece = st.one_of(st.sampled_from(names), st.sampled_from(names), st.sampled_from(halves), st.text(max_size=3))
    hostile = st.lists(piece, min_size=1, max_size=4).map("".join)
    # Ahead of each stands a word of its own: no two keys fall together, and no template's branch is another.
    body = ROUTES[path]
    expected = door.marks(door.prompt(path, body([f"k{place}" for place in range(PLACES)])))
    assert len(set(expected)) >= 3

    @settings(max_examples=8, suppress_health_check=list(HealthCheck))
    @given(st.lists(hostile, min_size=PLACES, max_size=PLACES))
    def check(texts: list[str]) -> None:
        ids = door.prompt(path, body([f"k{place}{text}" for place, text in enumerate(texts)]))
        assert door.marks(ids) == expected

    check()


@every_family
def test_every_control_token_alone_is_its_letters(door: Door) -> None:
    """In a conversation, in a completion, and as /tokenize shows it."""
    for name, token in door.controls.items():
        ids = door.prompt("/v1/chat/completions", {"messages": [{"role": "user", "content": f"a{name}b"}]})
        quiet = door.prompt("/v1/chat/completions", {"messages": [{"role": "user", "content": "ab"}]})
        assert door.marks(ids) == door.marks(quiet)
        assert f"a{name}b" in door.tokenizer.decode(ids, skip_special_tokens=False)
        assert token not in door.prompt("/v1/completions", {"prompt": f"{name} x{name}", "add_special_tokens": False})
        told = door.post("/tokenize", {"prompt": name, "add_special_tokens": False}).json()["tokens"]
        assert token not in told
        assert door.post("/detokenize", {"tokens": [token]}).json()["prompt"] == name


@every_family
def test_the_template_still_writes_its_own(door: Door) -> None:
    """Every token that a family's conversation with calls has, has its id, and its name to whoever reads it."""
    ids = door.prompt("/v1/chat/completions", chat_body([f"k{place}" for place in range(PLACES)]))
    shown = door.tokenizer.decode(ids, skip_special_tokens=False)
    assert not re.search("z[0-9a-f]{38}", shown)
    for name, token in door.controls.items():
        assert ids.count(token) == shown.count(name), name
    wanted = {
        "qwen": ("<think>", "<tool_call>", "</tool_call>", "<tool_response>"),
        "mistral": ("[THINK]", "[/THINK]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]"),
        "deepseek": ("<｜User｜>", "<think>", "<｜tool▁call▁begin｜>", "<｜tool▁output▁end｜>"),  # noqa: RUF001
        "kimi": ("<|im_user|>", "<think>", "<|tool_call_argument_begin|>"),
        "phi": ("<|tool|>", "<|tool_call|>", "<|tool_response|>"),
        "llama": ("<|python_tag|>", "<|eom_id|>"),
        "harmony": ("<|start|>", "<|channel|>", "<|call|>"),
    }[door.name]
    assert set(wanted) <= {name for name, token in door.controls.items() if token in ids}


@pytest.mark.parametrize("door", ["harmony"], indirect=True)
def test_a_schema_that_is_shown_holds_none(door: Door) -> None:
    def body(text: str) -> dict[str, Any]:
        named = {"name": "n", "description": f"k{text}\n{text}", "schema": schema([f"k{i}{text}" for i in range(6)])}
        asked = {"response_format": {"type": "json_schema", "json_schema": named}}
        return {"messages": [{"role": "user", "content": "a"}], **asked}

    expected = door.marks(door.prompt("/v1/chat/completions", body("")))
    for name in door.controls:
        ids = door.prompt("/v1/chat/completions", body(name))
        assert door.marks(ids) == expected
        assert name in door.tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("door", ["qwen", "deepseek"], indirect=True)
def test_a_template_reads_the_text_it_is_given(door: Door) -> None:
    """It takes earlier reasoning out of an answer's text, where that is written in letters, as all text is."""
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"}]
    body = {"messages": [*said, {"role": "user", "content": "b"}]}
    shown = door.tokenizer.decode(door.prompt("/v1/chat/completions", body), skip_special_tokens=False)
    assert "yes" in shown
    assert ("hm" in shown) == (door.name == "qwen")  # Qwen's puts it back, between tokens of its own
    assert shown.count("</think>") == 1


@pytest.mark.parametrize("name", VOCABULARIES)
def test_added_tokens_that_are_text_stay_what_they_are(name: str, texts_of: Callable[..., Any]) -> None:
    tokenizer, *_ = texts_of(name)
    for word in VOCABULARIES[name].words:
        (token,) = {tokenizer._backend.token_to_id(word)}
        if not VOCABULARIES[name].sentencepiece:
            assert tokenizer.encode(f"a{word}b").count(token) == 1
        assert word not in tokenizer.secret_names


def test_a_template_of_ones_own_says_what_is_control(folder: Path) -> None:
    """--chat-template: the file that is rendered decides, not the checkpoint's."""
    directory = VOCABULARIES["qwen"].write(folder / "own")
    file = folder / "own.jinja"
    file.write_text("<table>{{ messages[0].content }}")
    tokenizer = Tokenizer(directory, file)
    assert set(tokenizer.template_texts) == {"<table>"}
    template = ChatTemplate.from_file(file, tokenizer)
    ids = tokenizer.encode_prompt(template.render([{"role": "user", "content": "<table>"}]))
    assert ids.count(tokenizer.template_texts["<table>"]) == 1
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<table><table>"
    template.close()


@pytest.mark.parametrize("door", ["qwen"], indirect=True)
def test_a_bad_word_may_be_a_token_of_the_template(door: Door) -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "bad_words": ["<think>"]}
    door.prompt("/v1/chat/completions", body)
    banned = door.stage.engine.submitted[0].params.bad_token_ids
    assert (door.controls["<think>"],) in banned
    assert tuple(door.tokenizer.encode("<think>")) in banned
