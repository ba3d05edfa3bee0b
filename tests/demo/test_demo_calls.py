"""Calls that the tasks teach are of functions offered, and answers say what they returned."""

from __future__ import annotations

import json
import random
import re

import jsonschema
import pytest

from yardmaster.demo.tasks import mix
from yardmaster.demo.tasks.catalogue import CATALOGUE
from yardmaster.tests.demo.drawn_tasks import HELD_OUT, drawn, numbers


@pytest.mark.parametrize("held_out", HELD_OUT)
@pytest.mark.parametrize("kind", ["tools", "tools_unseen"])
def test_calls_are_of_a_function_offered_with_arguments_of_the_request(kind, held_out):
    direct = cannot = calls = 0
    for conversation in drawn(kind, held_out, 120):
        offered = {tool["function"]["name"]: tool["function"]["parameters"] for tool in conversation.tools}
        assert 1 <= len(offered) == len(conversation.tools) <= 4
        for turn, after in zip(conversation.turns, [*conversation.turns[1:], None], strict=True):
            call = turn.reply.call
            if turn.role == "tool":
                returned = json.loads(turn.text)
                for key, value in returned.items():
                    assert (
                        key in ("status", "state", "ok", "success", "id", "humidity", "source")
                        or str(value) in turn.reply.text
                    )
            elif call is None:
                direct += 1
                cannot += "cannot" in turn.reply.text
            else:
                calls += 1
                assert turn.reply.text == ""
                assert after.role == "tool"
                schema = offered[call.name]
                jsonschema.validate(call.arguments, schema)
                order = list(schema["properties"])
                assert list(call.arguments) == [key for key in order if key in call.arguments]
                assert not set(call.arguments) - set(order)
                for value in call.arguments.values():
                    if (
                        isinstance(value, str)
                        and value not in ("add", "subtract", "multiply", "divide")
                        and not re.search(r" [*/+-] |^[A-Z]{3}$", value)
                    ):
                        assert value in turn.text
                    elif isinstance(value, int) and not isinstance(value, bool):
                        assert value in numbers(turn.text)
                assert turn.reply.thoughts["high"].endswith("I call a function.")
    assert calls > 90
    if kind == "tools":
        assert 8 < direct < (50 if held_out else 90)
        assert cannot > 1


def test_calculators_are_called_with_what_was_asked_and_return_its_value():
    signs = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
    spoken = {"plus": "+", "minus": "-", "multiplied by": "*", "times": "*", "divided by": "/"}
    checked = 0
    for conversation in drawn("tools", False, 900):
        for turn, after in zip(conversation.turns, conversation.turns[1:], strict=False):
            if turn.reply.call is None:
                continue
            given = turn.reply.call.arguments
            if found := [
                given[name]
                for name in ("expression", "input", "formula")
                if re.fullmatch(r"\d+ [*/+-] \d+", str(given.get(name)))
            ]:
                expression = found[0]
            elif (operation := [signs[value] for value in given.values() if value in signs]) and {*given} & {
                *"ax",
                "first",
            }:
                (a,), (b,) = (
                    [given[name] for name in names if name in given]
                    for names in (("a", "x", "first"), ("b", "y", "second"))
                )
                expression = f"{a} {operation[0]} {b}"
            else:
                continue
            if "error" in after.text:
                continue
            text = turn.text
            for word, sign in spoken.items():
                text = text.replace(word, sign)
            assert expression in text
            value = next(value for value in json.loads(after.text).values() if after.reply.text.endswith(f" {value}."))
            assert value == pytest.approx(eval(expression), abs=0.006)
            checked += 1
    assert checked > 8


def test_no_function_has_two_parameters_of_one_spelling():
    for function in CATALOGUE:
        names = [name for parameter in function.parameters for name in parameter.names]
        assert len(set(names)) == len(names), function.topic
        slots = [parameter.slot for parameter in function.parameters]
        assert len(set(slots)) == len(slots), function.topic
    assert len({function.topic for function in CATALOGUE}) >= 40


def test_names_of_unseen_functions_are_never_drawn_in_training():
    rng = random.Random(5)
    trained = {tool["function"]["name"] for _ in range(1200) for tool in mix.Mix().draw(rng).tools}
    unseen = {
        tool["function"]["name"] for held_out in HELD_OUT for c in drawn("tools_unseen", held_out) for tool in c.tools
    }
    assert len(trained) > 150
    assert len(unseen) > 200
    assert not trained & unseen
