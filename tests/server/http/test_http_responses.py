"""/v1/responses as a client sees it: the items of an answer, whole and streamed."""

from __future__ import annotations

import random
from typing import Any

import httpx
import pytest

from yardmaster.engine.messages import RequestOutput, Submit, TokenLogprob
from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.server.http.choice import Choice
from yardmaster.server.http.notes import FormatNotes
from yardmaster.server.responses.events import Narrator
from yardmaster.server.text.formats.base import Arguments, CallEnd, CallStart, Content, Event, Reasoning
from yardmaster.server.text.formats.registry import ChatFormat
from yardmaster.tests.server.http.responses_talk import (
    ANSWER,
    CALL,
    NOW,
    WEATHER,
    bare,
    post,
    rebuilt,
    streamed,
    talk,
    whole,
)

TWO_CALLS = (
    '<|channel|>commentary to=functions.get_weather json<|message|>{"city": "Ulm"}<|call|><|start|>assistant'
    "<|channel|>analysis<|message|>And now?<|end|><|start|>assistant to=functions.now<|channel|>commentary<|message|>{}"
)


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize(
    ("text", "tools", "expected"),
    [
        (ANSWER, [], [("reasoning", "Think é🙂", "completed"), ("final_answer", "Hello wörld🙂", "completed")]),
        (
            CALL,
            [WEATHER, NOW],
            [
                ("reasoning", "Think é🙂", "completed"),
                ("commentary", "I look.", "completed"),
                ("call", "get_weather", '{"city": "Zürich"}', "completed"),
            ],
        ),
        (
            TWO_CALLS,
            [WEATHER, NOW],
            [
                ("call", "get_weather", '{"city": "Ulm"}', "completed"),
                ("reasoning", "And now?", "completed"),
                ("call", "now", "{}", "completed"),
            ],
        ),
        ("", [], []),
        ("No header", [], [("final_answer", "No header", "completed")]),
    ],
)
def test_items_whole_and_streamed(harmony: Any, size: int, text: str, tools: Any, expected: Any) -> None:
    harmony.engine.script = harmony.say(text, size=size)
    resource = whole(harmony, {"tools": tools})
    assert bare(resource["output"]) == expected
    assert (resource["status"], resource["error"], resource["incomplete_details"]) == ("completed", None, None)
    assert resource["completed_at"] >= resource["created_at"]
    events = streamed(post(harmony, {"tools": tools, "stream": True}))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[0]["response"]["output"] == []
    assert events[0]["response"]["status"] == "in_progress"
    assert events[-1]["type"] == "response.completed"
    assert rebuilt(events) == events[-1]["response"]["output"]
    assert bare(rebuilt(events)) == expected
    assert events[-1]["response"]["usage"] == resource["usage"]


def test_usage(harmony: Any) -> None:
    harmony.engine.script = harmony.say(ANSWER)
    usage = whole(harmony)["usage"]
    prompt, total = len(harmony.engine.submitted[0].prompt_token_ids), len(harmony.ids(ANSWER)) + 1
    assert usage == {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": total,
        "output_tokens_details": {"reasoning_tokens": len(harmony.ids("Think é🙂"))},
        "total_tokens": prompt + total,
    }
    counted = post(harmony, {}, "/responses/input_tokens").json()
    assert counted == {"object": "response.input_tokens", "input_tokens": prompt}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_cut_off(harmony: Any, stream: bool) -> None:
    harmony.engine.script = harmony.say(ANSWER, finish="length")
    response = post(harmony, {"stream": stream, "max_output_tokens": 9})
    if stream:
        events = streamed(response)
        assert events[-1]["type"] == "response.incomplete"
        resource = events[-1]["response"]
        assert rebuilt(events) == resource["output"]
    else:
        resource = response.json()
    assert resource["status"] == "incomplete"
    assert resource["incomplete_details"] == {"reason": "max_output_tokens"}
    assert resource["completed_at"] is None
    assert [item["status"] for item in resource["output"]] == ["completed", "incomplete"]
    assert harmony.engine.submitted[0].params.max_tokens == 9


def test_a_plain_model(plain: Any) -> None:
    plain.engine.script = plain.say("Plain 你好 text", size=3)
    assert bare(whole(plain)["output"]) == [("final_answer", "Plain 你好 text", "completed")]
    events = streamed(post(plain, {"stream": True, "instructions": "Be brief."}))
    assert bare(rebuilt(events)) == [("final_answer", "Plain 你好 text", "completed")]
    prompt = plain.tokenizer.decode(plain.engine.submitted[-1].prompt_token_ids, False)
    assert prompt == "system: Be brief.\nuser: hi\nassistant: "
    response = post(plain, {"tools": [NOW]})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tools")


def test_what_was_asked_is_told(harmony: Any) -> None:
    asked = {
        "instructions": "Be brief.", "max_output_tokens": 50, "max_tool_calls": 3, "metadata": {"a": "b"},
        "parallel_tool_calls": False, "prompt_cache_key": "k", "safety_identifier": "s", "temperature": 0.5,
        "top_p": 0.25, "user": "u", "presence_penalty": 1.0, "frequency_penalty": -1.0, "truncation": "disabled",
    }  # fmt: skip
    fields = {
        "reasoning": {"effort": "high", "summary": "auto"}, "tools": [WEATHER], "tool_choice": "none", "seed": 7,
        "top_k": 5, "service_tier": "auto", "model": "org/alias", "include": ["reasoning.encrypted_content"],
    }  # fmt: skip
    resource = whole(harmony, asked | fields)
    assert {name: resource[name] for name in asked} == asked
    assert resource["reasoning"] == {"effort": "high", "summary": "auto"}
    assert resource["tools"] == [WEATHER | {"strict": False}]
    assert (resource["tool_choice"], resource["model"], resource["store"]) == ("none", "test-model", True)
    assert resource["text"] == {"format": {"type": "text"}, "verbosity": "medium"}
    params = harmony.engine.submitted[0].params
    assert (params.temperature, params.top_p, params.top_k, params.seed) == (0.5, 0.25, 5, 7)
    assert (params.presence_penalty, params.frequency_penalty) == (1.0, -1.0)
    prompt = harmony.tokenizer.decode(harmony.engine.submitted[0].prompt_token_ids, False)
    assert "\nReasoning: high\n" in prompt
    assert "# Instructions\n\nBe brief." in prompt
    assert "functions" not in prompt


def test_logprobs(plain: Any) -> None:
    def script(submit: Any) -> Any:
        ids = plain.ids("🙂 hello é!")
        for at, token in enumerate([*ids, plain.eos]):
            logprobs = [TokenLogprob(token, -0.5 - at, 1, [(token, -0.5 - at), (1, -9.0)])]
            yield RequestOutput(
                request_id=submit.request_id,
                token_ids=[token],
                logprobs=logprobs,
                finish_reason="stop" if token == plain.eos else None,
            )

    plain.engine.script = script
    fields = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    part = whole(plain, fields)["output"][0]["content"][0]
    assert plain.engine.submitted[0].params.logprobs == 1
    expected = [-0.5 - at for at in range(len(plain.ids("🙂 hello é!")))]
    assert [entry["logprob"] for entry in part["logprobs"]] == expected
    assert all(len(entry["top_logprobs"]) == 1 for entry in part["logprobs"])
    assert bytes(byte for entry in part["logprobs"] for byte in entry["bytes"]) == "🙂 hello é!".encode()
    events = streamed(post(plain, fields | {"stream": True}))
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [entry["logprob"] for event in deltas for entry in event["logprobs"]] == expected
    assert rebuilt(events)[0]["content"][0]["logprobs"] == part["logprobs"]


def test_logprobs_of_a_preamble_and_an_answer(harmony: Any) -> None:
    text = "<|channel|>commentary<|message|>I é<|end|><|start|>assistant<|channel|>final<|message|>he 🙂"

    def script(submit: Any) -> Any:
        ids = [*harmony.ids(text), harmony.eos]
        logprobs = [TokenLogprob(token, -float(at), 1) for at, token in enumerate(ids)]
        yield RequestOutput(request_id=submit.request_id, token_ids=ids, logprobs=logprobs, finish_reason="stop")

    harmony.engine.script = script
    output = whole(harmony, {"include": ["message.output_text.logprobs"]})["output"]
    assert [item["phase"] for item in output] == ["commentary", "final_answer"]
    spelled = [bytes(b for each in item["content"][0]["logprobs"] for b in each["bytes"]).decode() for item in output]
    assert spelled == ["I é", "he 🙂"]


def test_a_format_without_messages(plain: Any) -> None:
    """Thought, text and calls of any other format: an item each, in their order, with their log-probabilities."""
    script: list[list[Event]] = [
        [Reasoning("Hm")], [Content("I ")], [], [Content("look")], [CallStart("f", "call_a")],
        [Arguments("{}"), CallEnd(), CallStart("g", "call_b"), Arguments("[]")], [CallEnd(), Content("done")],
    ]  # fmt: skip
    tokens = plain.ids("0123456")
    assert len(tokens) == len(script)

    class Scripted:
        """A parser, to whom each token is a place in the script."""

        holds = True

        def feed(self, text: str) -> list[Event]:
            return script[int(text)] if text else []

        def finish(self) -> list[Event]:
            return [Content("!")]

    notes = FormatNotes(plain.tokenizer, ChatFormat("hermes"), functions=["f", "g"])
    notes._parser = Scripted()  # type: ignore[assignment]
    submit = Submit(request_id="r", prompt_token_ids=[1], params=SamplingParams(logprobs=0))
    choice = Choice(0, submit, notes)
    logprobs = [TokenLogprob(token, -float(token), 1) for token in range(len(script))]
    piece = choice.feed(RequestOutput(request_id="r", token_ids=tokens, logprobs=logprobs, finish_reason="length"))
    resource: dict[str, Any] = {"status": "in_progress", "output": []}
    narrator = Narrator(resource, 1, lambda tokens: [{"logprob": token.logprob} for token in tokens], False)
    events = [*narrator.begin(), *narrator.tell(notes.take(), piece), *narrator.end(piece.finish_reason)]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert bare(resource["output"]) == [
        ("reasoning", "Hm", "completed"),
        ("final_answer", "I look", "completed"),
        ("call", "f", "{}", "completed"),
        ("call", "g", "[]", "completed"),
        ("final_answer", "done!", "incomplete"),
    ]
    told = [item["content"][0]["logprobs"] for item in resource["output"] if item["type"] == "message"]
    assert [[entry["logprob"] for entry in each] for each in told] == [[-1.0, -2.0, -3.0], [-6.0]]


def test_any_output_is_the_same_whole_and_streamed(harmony: Any) -> None:
    pieces = [
        *sorted(harmony.tokenizer.special_texts), "analysis", "commentary", "final", " to=functions.now", " to=x",
        "assistant", " json", "{}", "a b c", "é", "🙂", "\n", "functions.get_weather", " to=now", "user",
    ]  # fmt: skip
    draw = random.Random(7)

    async def say(client: httpx.AsyncClient) -> None:
        for _ in range(60):
            text = "".join(draw.choices(pieces, k=draw.randrange(1, 14)))
            finish, tools = draw.choice(["stop", "length"]), draw.choice([[], [WEATHER, NOW]])
            harmony.engine.script = harmony.say(text, finish=finish, size=10_000)
            at_once = (await client.post("/responses", json={"input": "hi", "tools": tools})).json()
            harmony.engine.script = harmony.say(text, finish=finish, size=draw.randrange(1, 5))
            events = streamed(await client.post("/responses", json={"input": "hi", "tools": tools, "stream": True}))
            assert bare(rebuilt(events)) == bare(at_once["output"]) == bare(events[-1]["response"]["output"]), text

    talk(harmony.app(), say)
